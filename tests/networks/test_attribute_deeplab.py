"""DeepLabv3+ with attributes: its maps, unknown patients, and timm's encoders."""

import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

from gliomaseg_layers import AttributeDeepLab

SMALL = "lcnet_035"


def make(attributes: int = 5) -> AttributeDeepLab:
    network = AttributeDeepLab(SMALL, 2, attributes).eval()
    if attributes:
        nn.init.normal_(network.unknown)
    return network


def test_the_papers_maps() -> None:
    network = AttributeDeepLab(attributes=20)
    shallow, deep = network.encoder(torch.rand(1, 3, 64, 96))
    assert shallow.shape == (1, 48, 16, 24)
    assert deep.shape == (1, 528, 4, 6)
    assert network.aspp.in_channels == 528 + 3
    assert network.aspp.rates == (6, 12, 18)
    assert network.attribute_encoder(torch.rand(1, 20)).shape == (1, 3, 16, 16)


def test_what_the_network_computes() -> None:
    network = make()
    x, a = torch.randn(2, 3, 64, 96), torch.randn(2, 5)
    shallow, deep = network.encoder(x)
    grow = nn.functional.interpolate
    beside = grow(network.attribute_encoder(a), (4, 6), mode="bilinear")
    deep = grow(network.aspp(torch.cat([deep, beside], 1)), (16, 24), mode="bilinear")
    logits = network.head(network.decoder(torch.cat([network.shallow(shallow), deep], 1)))
    torch.testing.assert_close(network(x, a), grow(logits, (64, 96), mode="bilinear"))


def test_a_nan_makes_a_patient_unknown_and_no_other() -> None:
    network = make()
    x, a = torch.randn(3, 3, 40, 40), torch.randn(3, 5)
    a[1, 2] = torch.nan
    out, without, known = network(x, a), network(x), network(x, a.nan_to_num())
    torch.testing.assert_close(out[1], without[1])
    torch.testing.assert_close(out[::2], known[::2])
    assert not torch.allclose(without, known)


def test_the_unknown_map_learns() -> None:
    network = make()
    x, a = torch.randn(2, 3, 40, 40), torch.randn(2, 5)
    a[0] = torch.nan
    network(x, a).sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    assert network.unknown.grad.any()
    assert network.attribute_encoder.mlp[0].weight.grad.any()


def test_without_attributes_it_is_a_plain_deeplab() -> None:
    network = make(0)
    assert network.attribute_encoder is None
    assert network(torch.rand(1, 3, 33, 20)).shape == (1, 2, 33, 20)
    with pytest.raises(ValueError, match="`attributes` must be None"):
        network(torch.rand(1, 3, 33, 20), torch.rand(1, 5))


@pytest.mark.parametrize(
    ("stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))]
)
def test_output_strides(stride: int, rates: tuple[int, ...]) -> None:
    network = AttributeDeepLab(SMALL, output_stride=stride).eval()
    shallow, deep = network.encoder(torch.rand(1, 3, 64, 64))
    assert shallow.shape[2:] == (16, 16)
    assert deep.shape[2:] == (64 // stride, 64 // stride)
    assert network.aspp.rates == rates
    assert network(torch.rand(1, 3, 70, 50)).shape == (1, 1, 70, 50)


# Small members of the paper's families.
@pytest.mark.parametrize(
    ("encoder", "deep"),
    [
        ("resnet10t", 512),
        ("tf_efficientnet_b0", 320),
        ("xception41p", 2048),
        ("repvgg_a0", 1280),
        ("tf_efficientnetv2_b0", 192),
        ("swinv2_tiny_window8_256", 384),  # channels last, of fixed size, and its stride too
        ("densenet121", 1024),  # refuses a stride
    ],
)
def test_timms_encoders(encoder: str, deep: int) -> None:
    network = AttributeDeepLab(encoder, attributes=5)
    assert network.aspp.in_channels == deep + 3
    x, a = torch.randn(1, 3, 40, 50), torch.rand(1, 5)
    network(x, a).sum().backward()
    unused = [n for n, p in network.named_parameters() if p.grad is None]
    assert not unused
    program = torch.export.export(network.eval(), (x, a)).module()
    torch.testing.assert_close(program(x, a), network(x, a), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda: AttributeDeepLab("no_such_net"),
            ValueError,
            "`encoder` must be the name of a timm model, got 'no_such_net'",
        ),
        (
            lambda: AttributeDeepLab(SMALL, output_stride=4),
            ValueError,
            "`output_stride` must be 8, 16 or 32, got 4",
        ),
        (lambda: AttributeDeepLab(SMALL, 0), ValueError, "`classes` must be 1 or more, got 0"),
        (
            lambda: AttributeDeepLab(SMALL, attributes=-1),
            ValueError,
            "`attributes` must be finite and >= 0, in fp32 too, got -1",
        ),
        (
            lambda: AttributeDeepLab(SMALL, attributes=1.5),
            TypeError,
            "`attributes` must be an int, got 1.5",
        ),
        (
            lambda: make()(torch.rand(2, 3, 32, 32), torch.rand(1, 5)),
            ValueError,
            r"`attributes` must have a row for each of 2 images, got shape \(1, 5\)",
        ),
        (
            lambda: make()(torch.rand(2, 3, 32, 32), torch.rand(2, 4)),
            ValueError,
            r"`attributes` must be \(N, 5\), got shape \(2, 4\)",
        ),
        (
            lambda: make()(torch.rand(2, 3, 32, 32), [1.0]),
            TypeError,
            "`attributes` must be a torch.Tensor, got list",
        ),
    ],
)
def test_errors(build, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_an_encoder_without_the_maps_is_refused() -> None:
    expected = "`encoder` must have feature maps at the reductions 4 and 16, got 'vit_tiny"
    with pytest.raises(ValueError, match=expected):
        AttributeDeepLab("vit_tiny_patch16_224")


# Light members of families that differ: several grids at once, attention, stages of other strides.
@pytest.mark.parametrize(
    "encoder",
    [
        "hrnet_w18_small",  # whose grids up to 1/32 must fit
        "edgenext_xx_small",
        "efficientformer_l1",
        "ghostnet_050",
        "inception_next_atto",
        "mobilevit_xxs",
        "pvt_v2_b0",
        "starnet_s050",
        "test_convnext",
        "test_nfnet",
    ],
)
def test_encoders_at_odd_sizes(encoder: str) -> None:
    network = AttributeDeepLab(encoder).eval()
    with torch.no_grad():
        for size in ((1, 1), (37, 53), (112, 240)):
            assert network(torch.rand(1, 3, *size)).shape == (1, 1, *size)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("coat_tiny", "must be a timm model that gives feature maps, got 'coat_tiny': features"),
        ("tresnet_m", "must be a timm model that gives feature maps, got 'tresnet_m'"),
        ("halonet_h1", "must take images of all sizes, got 'halonet_h1', which fails at 288 x 320"),
    ],
)
def test_encoders_that_cannot_serve_are_refused_when_the_network_is_made(
    encoder: str, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^`encoder` {message}"):
        AttributeDeepLab(encoder)


def test_an_encoder_of_a_single_size_says_which() -> None:
    network = AttributeDeepLab("maxvit_pico_rw_256").eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 250, 256)).shape == (1, 1, 250, 256)
    expected = r"`input` must have 256 x 256 pixels, the only size .*, got shape \(1, 3, 64, 96\)"
    with pytest.raises(ValueError, match=expected):
        network(torch.rand(1, 3, 64, 96))


def test_an_encoder_that_cannot_train_on_one_image_says_what_to_do() -> None:
    network = AttributeDeepLab("skresnet18")
    image = torch.rand(1, 3, 64, 64)
    expected = r"`input` must have more images .* or call `encoder.eval\(\)` after `train\(\)`"
    with pytest.raises(ValueError, match=expected):
        network(image)
    network(image.expand(2, -1, -1, -1)).sum().backward()
    network.encoder.eval()
    network(image).sum().backward()


def test_other_errors_of_an_encoder_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make()

    def fail(image: torch.Tensor) -> None:
        raise ValueError("not today")

    monkeypatch.setattr(network.encoder, "forward", fail)
    with pytest.raises(ValueError, match=r"^not today$"):
        network(torch.rand(1, 3, 64, 64))


def test_norms_are_synchronised_by_timms_converter() -> None:
    """Torch's own leaves out the activations that timm's norms apply."""
    network, x = make(), torch.randn(2, 3, 40, 50)
    expected = network(x)
    converted = timm.layers.convert_sync_batchnorm(network)
    assert not any(type(part) is nn.BatchNorm2d for part in converted.modules())
    torch.testing.assert_close(converted(x), expected)


def test_maps_with_channels_last_in_shape() -> None:
    network = make(0)
    x = torch.randn(1, 3, 32, 48)
    expected = network(x)

    class Turned(nn.Module):
        output_fmt = "NHWC"

        def __init__(self, encoder: nn.Module) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input: torch.Tensor) -> list[torch.Tensor]:
            return [maps.permute(0, 2, 3, 1) for maps in self.encoder(input)]

    network.encoder = Turned(network.encoder)
    torch.testing.assert_close(network(x), expected)


def test_without_timm_it_says_what_to_install(monkeypatch) -> None:
    program = "import sys; sys.modules['timm'] = None; from gliomaseg_layers.networks import *"
    subprocess.run([sys.executable, "-c", f"{program}; UNet.mini()"], check=True)
    monkeypatch.setitem(sys.modules, "timm", None)
    expected = r"^AttributeDeepLab needs timm: pip install gliomaseg_layers\[networks\]$"
    with pytest.raises(ImportError, match=expected):
        AttributeDeepLab()


def test_state_dict_keys_are_stable() -> None:
    """Renaming one breaks what people have saved: a change for a new major version."""
    keys = set(make().state_dict())
    assert {
        "unknown",
        "attribute_encoder.mlp.3.weight",
        "aspp.convs.0.0.weight",
        "aspp.project.1.running_var",
        "shallow.0.weight",
        "decoder.1.0.weight",
        "head.bias",
    } <= keys
    assert {key.split(".")[0] for key in keys} == {
        "unknown",
        "encoder",
        "attribute_encoder",
        "aspp",
        "shallow",
        "decoder",
        "head",
    }
