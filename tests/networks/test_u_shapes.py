"""U-Net, MU-Net and MSFEN: their sizes, what they are made of, and the borders they add."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gliomaseg_layers import (
    MSFEN,
    ChannelAttention,
    MultiScaleConv,
    MultiScaleFusion,
    MUNet,
    SpatialPyramidPooling,
    UNet,
)
from gliomaseg_layers.networks._blocks import pad
from tests.support.module_cases import CHANNELS, NETWORKS, make


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def parts(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


def test_sizes() -> None:
    with torch.device("meta"):
        assert 30.5e6 < count(UNet()) < 31.5e6
        assert 1.8e6 < count(UNet.mini()) < 2e6
        assert count(MUNet()) < count(UNet(2))  # its decoder sees half as many channels
        assert count(MSFEN()) < 0.7 * count(UNet(4, 4, widths=MSFEN().widths))


def test_msfen_is_lighter_at_other_widths_too() -> None:
    widths = (16, 32, 64, 64)
    with torch.device("meta"):
        assert count(MSFEN(4, 4, widths)) < 0.7 * count(UNet(4, 4, widths))


def test_unet_is_the_network_written_out() -> None:
    """Against the loop of the paper's figure with the same weights, on a grid that fits."""
    network = UNet(3, 2, (4, 6, 8)).eval()
    x = torch.randn(2, 3, 16, 24)
    first = network.encoder[0](x)
    second = network.encoder[1](nn.functional.max_pool2d(first, 2))
    bottom = network.bottleneck(nn.functional.max_pool2d(second, 2))
    assert [tuple(m.shape[1:]) for m in (first, second, bottom)] == [
        (4, 16, 24),
        (6, 8, 12),
        (8, 4, 6),
    ]
    deep = network.decoder[0](torch.cat([second, network.ups[0](bottom)], 1))
    deep = network.decoder[1](torch.cat([first, network.ups[1](deep)], 1))
    torch.testing.assert_close(network(x), network.head(deep))


def test_munet_is_a_unet_that_fuses() -> None:
    network = MUNet(2, 1, (4, 6, 8)).eval()
    twin = UNet(2, 1, (4, 6, 8), fusion="msf").eval()
    twin.load_state_dict(network.state_dict())
    x = torch.randn(1, 2, 20, 12)
    torch.testing.assert_close(network(x), twin(x))
    assert parts(network, MultiScaleFusion) == 2
    assert network.decoder[0][0][0].in_channels == 6  # nothing is concatenated
    assert MUNet.mini().widths == UNet.mini().widths == (16, 32, 64, 128, 256)
    assert MUNet.mini(classes=3).head.out_channels == 3


def test_msfen_parts() -> None:
    network = MSFEN()
    assert isinstance(network.modality_attention, ChannelAttention)
    assert parts(network.encoder, MultiScaleConv) == len(network.widths) - 1
    wide = [m for m in network.bottleneck.modules() if isinstance(m, nn.Conv2d)][:2]
    assert [(m.out_channels, m.kernel_size) for m in wide] == [(256, (3, 3))] * 2
    assert [m.p for m in network.bottleneck.modules() if isinstance(m, nn.Dropout)] == [0.5]
    assert parts(network.bottleneck, SpatialPyramidPooling) == 1


def test_msfen_weighs_z_scored_modalities() -> None:
    """Whose means are all 0: by those alone every patient would get the same weights."""
    network = MSFEN(2, 1, (4, 6))
    x = torch.randn(2, 2, 16, 16) ** 3
    x = (x - x.mean((2, 3), True)) / x.std((2, 3), keepdim=True)
    one, other = network.modality_attention(x, return_logits=True)
    assert not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_any_size_is_the_padded_image_cropped(name: str, height: int, width: int) -> None:
    network = make(name, 2).eval()
    if name == "MSFEN":  # weighs the modalities by the image alone, before it is padded
        network.modality_attention = nn.Identity()
    step = 16 if name == "AttributeDeepLab" else 4
    below, right = (max(-side % step, 2 * step - side) for side in (height, width))
    x = torch.randn(1, CHANNELS, height, width)
    padded = nn.functional.pad(x, (0, right, 0, below), mode="replicate")
    with torch.no_grad():
        found, expected = network(x), network(padded)
    assert found.shape[2:] == x.shape[2:]
    assert expected.shape[2:] == padded.shape[2:]
    torch.testing.assert_close(found, expected[..., :height, :width])


def test_no_more_is_padded_than_must_be() -> None:
    for side, expected in ((1, 8), (8, 8), (9, 12), (12, 12), (13, 16)):
        assert pad(torch.zeros(1, 1, side, 20), 4).shape == (1, 1, expected, 20)


def test_gradients_of_a_padded_image_are_laid_out_as_it_is() -> None:
    """As compiled programs expect; those of torch's own padding follow what comes from above."""
    image = torch.rand(2, 3, 9, 10, requires_grad=True)
    padded = pad(image, 4)
    upstream = torch.rand_like(padded).contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(padded, image, upstream)
    assert gradient.is_contiguous()
    torch.testing.assert_close(gradient.sum(), upstream.sum())


@pytest.mark.parametrize("name", NETWORKS)
def test_learns_a_toy_scene(name: str) -> None:
    network = make(name, 2)
    images = 0.2 * torch.randn(4, CHANNELS, 32, 32)
    images[:, :, 8:20, 10:26] += 1
    target = torch.zeros(4, 2, 32, 32)
    target[:, :, 8:20, 10:26] = 1
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(16):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(network(images), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(torch.tensor(losses).isfinite())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: UNet(0), ValueError, "`in_channels` must be 1 or more, got 0"),
        (lambda: UNet(3, 0), ValueError, "`classes` must be 1 or more, got 0"),
        (lambda: UNet(widths=()), ValueError, r"`widths` must have at least one entry, got \(\)"),
        (lambda: UNet(widths=64), TypeError, "`widths` must be a sequence of ints, got 64"),
        (lambda: UNet.mini(widths=(4, 8)), TypeError, "multiple values .* 'widths'"),
        (lambda: UNet(widths=(4, 0)), ValueError, "`widths` must be 1 or more, got 0"),
        (lambda: UNet(fusion="add"), ValueError, "`fusion` must be one of 'concat', 'msf'"),
        (
            lambda: UNet(3, 1, (4,))(torch.rand(1, 3, 0, 4)),
            ValueError,
            r"`input` must have at least one pixel, got shape \(1, 3, 0, 4\)",
        ),
    ],
)
def test_errors(build, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_a_single_level_is_a_block_and_a_head() -> None:
    network = UNet(3, 2, (4,)).eval()
    x = torch.randn(1, 3, 5, 6)
    torch.testing.assert_close(network(x), network.head(network.bottleneck(x)))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        (
            "UNet",
            [
                "encoder.0.0.0.weight",
                "encoder.1.1.1.running_mean",
                "bottleneck.1.0.weight",
                "ups.0.weight",
                "decoder.1.1.0.weight",
                "head.weight",
            ],
        ),
        ("MUNet", ["fusions.0.shallow_weight", "fusions.1.spatial_attention.convolution.bias"]),
        (
            "MSFEN",
            [
                "modality_attention.bottleneck.0.weight",
                "encoder.0.branches.2.0.1.weight",
                "bottleneck.0.1.0.weight",
                "bottleneck.2.project.0.weight",
                "ups.1.bias",
                "decoder.0.1.0.1.weight",
            ],
        ),
    ],
)
def test_state_dict_keys_are_stable(name: str, keys: list[str]) -> None:
    """Renaming one breaks what people have saved: a change for a new major version."""
    assert set(keys) <= set(make(name, 2).state_dict())
