"""What holds for every layer and network: sizes, formats, precision, capture, copies, names."""

import copy
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gliomaseg_layers import (
    ASPP,
    AttributeEncoder,
    ChannelAttention,
    DepthwiseSeparableConv,
    MultiScaleConv,
    MultiScaleFusion,
    SpatialAttention,
    SpatialPyramidPooling,
)
from tests.support.module_cases import (
    CHANNELS,
    LAYERS,
    MODULES,
    SIZES,
    every_module,
    every_name,
    inputs,
    make,
)

traces = pytest.mark.filterwarnings(
    "ignore:.torch.jit.:DeprecationWarning",
    "ignore:.torch.jit.:FutureWarning",
    "ignore::torch.jit.TracerWarning",
)


@every_module
@pytest.mark.parametrize("batch", [1, 3])
def test_trains_at_any_size(name: str, dims: int, batch: int) -> None:
    """Also one image of one pixel, and images smaller than every rate and grid."""
    layer = make(name, dims)
    for size in (SIZES[dims], (1,) * dims, (2,) * dims, (3,) + (1,) * (dims - 1)):
        if "instance" in name and batch == max(size) == 1:
            continue  # torch's norm raises: an instance of one value has no statistics
        given = [x.requires_grad_() for x in inputs(name, dims, batch, size)]
        out = layer(*given)
        assert out.shape[0] == batch
        assert out.shape[2:] == size
        out.square().sum().backward()
        assert out.isfinite().all()
        for x in [*given, *layer.parameters()]:
            assert x.grad.isfinite().all()
    used = [
        p.grad.any()
        for n, p in layer.named_parameters()
        if n.split(".")[-1] not in ("bias", "unknown")
    ]
    assert all(used)


@every_module
def test_every_parameter_can_be_reset(name: str, dims: int) -> None:
    """As between folds: what has parameters of its own has ``reset_parameters``, as in torch."""
    layer = make(name, dims)
    for values in layer.parameters():
        values.data.fill_(7)
    for module in layer.modules():
        if list(module.parameters(recurse=False)):
            module.reset_parameters()
    assert not [n for n, values in layer.named_parameters() if (values == 7).all()]


@every_module
def test_every_part_is_called_once(name: str, dims: int) -> None:
    """As a module, so that its hooks run: those of Grad-CAM, torchinfo, captum and FSDP."""
    layer = make(name, dims).eval()
    calls = Counter[nn.Module]()
    for part in layer.modules():
        part.register_forward_hook(lambda part, *_: calls.update([part]))
    layer(*inputs(name, dims))
    theirs = {"AttributeDeepLab": "encoder"}.get(name, "none")  # timm's
    for path, part in layer.named_modules():
        if not isinstance(part, nn.ModuleList) and not path.startswith(theirs):
            assert calls[part] == 1, path


@every_module
def test_images_of_a_batch_do_not_meet(name: str, dims: int) -> None:
    layer = make(name, dims).eval()
    given = inputs(name, dims)
    whole = layer(*given)
    alone = [layer(*(x[i : i + 1] for x in given)) for i in range(2)]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert layer(*(x[:0] for x in given)).shape == (0, *whole.shape[1:])


@every_module
def test_channels_last_is_kept_and_changes_nothing(name: str, dims: int) -> None:
    layer = make(name, dims).eval()
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    given = inputs(name, dims)
    expected = layer(*given)
    laid_out = [x.contiguous(memory_format=layout) if x.dim() > 2 else x for x in given]
    found = layer.to(memory_format=layout)(*laid_out)
    # With a single thread torch's own Conv3d keeps none.
    convolution = nn.Conv2d(CHANNELS, 8, 1) if dims == 2 else nn.Conv3d(CHANNELS, 8, 1)
    probe = convolution.to(memory_format=layout)(given[0].contiguous(memory_format=layout))
    if probe.is_contiguous(memory_format=layout):
        assert found.is_contiguous(memory_format=layout)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@every_name
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half(name: str, dtype: torch.dtype) -> None:
    layer = make(name, 2)
    given = inputs(name, 2)
    expected = copy.deepcopy(layer).eval()(*given)
    with torch.autocast("cpu", dtype=dtype):
        out = copy.deepcopy(layer)(*given)
    out.float().sum().backward()
    assert out.isfinite().all()
    cast = layer.eval().to(dtype)(*(x.to(dtype) for x in given))
    assert cast.dtype == dtype
    scale = expected.abs().max().item()
    torch.testing.assert_close(cast.float(), expected, rtol=0.05, atol=0.05 * scale)


@pytest.mark.parametrize("name", LAYERS)
def test_torch_fuses_convolutions_with_their_norms(name: str) -> None:
    """It knows norms by their class alone, so that they must be torch's own."""
    layer = make(name, 2).eval()
    parts = dict(layer.named_modules())
    fused = [
        [f"{path}.{index}" for index in range(3)]
        for path, part in parts.items()
        if isinstance(part, nn.Sequential)
        and [type(child) for child in part][:3] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    ]
    assert bool(fused) == (name in ("ASPP", "SpatialPyramidPooling", "MultiScaleConv, plain"))
    given = inputs(name, 2)
    expected = layer(*given)
    if fused:
        layer = torch.ao.quantization.fuse_modules(layer, fused)
        torch.testing.assert_close(layer(*given), expected, rtol=1e-4, atol=1e-5)


@every_name
def test_large_values_overflow_no_statistic(name: str) -> None:
    """A mean over many pixels of values near fp16's largest is still one of them."""
    layer = make(name, 2).eval().half()
    given = [torch.full_like(x, 1e2).half() for x in inputs(name, 2, size=(64, 64))]
    assert layer(*given).isfinite().all()


@every_module
def test_compiles_whole(name: str, dims: int) -> None:
    layer = make(name, dims).eval()
    given = inputs(name, dims)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(compiled(*given), layer(*given))
    other = inputs(name, dims, 3, tuple(side + 3 for side in SIZES[dims]))
    torch.testing.assert_close(compiled(*other), layer(*other))


@every_module
@pytest.mark.parametrize("dynamic", [False, True])
def test_exports(name: str, dims: int, dynamic: bool) -> None:
    layer = make(name, dims).eval()
    size = tuple(2 * side for side in SIZES[dims])
    given = inputs(name, dims, size=size)
    shapes = None
    if dynamic:
        # A coarser map's sides are half of the finer one's.
        half = {axis: torch.export.Dim(f"half{axis}", min=2) for axis in range(2, 2 + dims)}
        full = {axis: 2 * side for axis, side in half.items()}
        batch = {0: torch.export.Dim("batch", min=1)}
        sides = {size: full, (): {}}
        shapes = tuple(batch | sides.get(tuple(x.shape[2:]), half) for x in given)
    program = torch.export.export(layer, tuple(given), dynamic_shapes=shapes)
    torch.testing.assert_close(program.module()(*given), layer(*given))
    if dynamic:
        other = inputs(name, dims, 3, tuple(2 * side + 4 for side in SIZES[dims]))
        torch.testing.assert_close(program.module()(*other), layer(*other))


@every_module
@traces
def test_traced_at_one_size_it_runs_at_others(name: str, dims: int) -> None:
    """Among them sides of a single step, which a network pads to two."""
    layer = make(name, dims).eval()
    traced = torch.jit.trace(layer, tuple(inputs(name, dims, size=(32, 32, 8)[:dims])))
    for size in ((16, 16, 4), (48, 80, 6), (1, 1, 1), (37, 4, 3)):
        given = inputs(name, dims, 3, size[:dims])
        torch.testing.assert_close(traced(*given), layer(*given), rtol=1e-4, atol=1e-5)


@traces
def test_a_fusion_traced_on_equal_maps_takes_coarser_ones() -> None:
    fuse = MultiScaleFusion(CHANNELS).eval()
    fine, coarse = torch.randn(1, CHANNELS, 8, 8), torch.randn(1, CHANNELS, 4, 4)
    traced = torch.jit.trace(fuse, (fine, fine))
    torch.testing.assert_close(traced(fine, coarse), fuse(fine, coarse))


@pytest.mark.parametrize("name", ["ASPP", "MultiScaleFusion", "MSFEN"])
def test_symbolic_tracing_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(TypeError, match=r"got a Proxy of torch\.fx\.symbolic_trace, which cannot"):
        torch.fx.symbolic_trace(make(name, 2))


def _names(layer: nn.Module) -> list[str]:
    return ["shallow", "deep"] if isinstance(layer, MultiScaleFusion) else ["input"]


@every_module
def test_copies_and_names(name: str, dims: int) -> None:
    layer = make(name, dims)
    given = inputs(name, dims)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        again.eval()
        layer.eval()
        torch.testing.assert_close(again(*given), layer(*given))
    fresh = MODULES[name](dims)
    fresh.load_state_dict(layer.state_dict())
    torch.testing.assert_close(fresh.eval()(*given), layer(*given))
    assert type(layer).__name__ in repr(layer)


BOTTLENECK = [f"bottleneck.{index}.{end}" for index in (0, 2) for end in ("weight", "bias")]
NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
KEYS: dict[str, list[str]] = {
    "ChannelAttention": BOTTLENECK,
    "SpatialAttention": ["convolution.weight", "convolution.bias"],
    "MultiScaleFusion": [
        "shallow_weight",
        "deep_weight",
        "bias",
        *(f"channel_attention.{key}" for key in BOTTLENECK),
        "spatial_attention.convolution.weight",
        "spatial_attention.convolution.bias",
    ],
    "ASPP": [
        key
        for part, first in (("convs.0", 0), ("convs.1", 0), ("convs.2", 0), ("convs.3", 1))
        for key in (f"{part}.{first}.weight", *(f"{part}.{first + 1}.{end}" for end in NORM))
    ]
    + ["project.0.weight", *(f"project.1.{end}" for end in NORM)],
    "DepthwiseSeparableConv": ["0.weight", "1.weight", "1.bias"],
}


@pytest.mark.parametrize("name", KEYS)
def test_state_dict_keys_are_stable(name: str) -> None:
    """Renaming one breaks what people have saved: a change for a new major version."""
    assert list(make(name, 2).state_dict()) == KEYS[name]


def test_state_dict_keys_of_larger_layers() -> None:
    pyramid = set(make("SpatialPyramidPooling", 2).state_dict())
    assert {"branches.0.0.weight", "branches.1.1.running_var", "project.0.weight"} <= pyramid
    scales = set(make("MultiScaleConv", 2).state_dict())
    assert {
        "branches.0.0.0.weight",
        "branches.2.0.1.weight",
        "branches.1.1.running_mean",
        "channel_attention.bottleneck.0.weight",
        "mix.bias",
        "spatial_attention.convolution.weight",
        "shortcut.weight",
    } <= scales
    assert set(AttributeEncoder(5).state_dict()) == {
        "mlp.0.weight",
        "mlp.0.bias",
        "mlp.3.weight",
        "mlp.3.bias",
    }


@pytest.mark.parametrize("name", MODULES)
def test_wrong_inputs(name: str) -> None:
    layer = make(name, 2)
    given = inputs(name, 2)
    argument = _names(layer)[0]
    wrong: list[tuple[type[Exception], str, Any]] = [
        (TypeError, "must be a torch.Tensor, got list", [[1.0]]),
        (TypeError, "must have a floating dtype, got torch.int64", given[0].long()),
        (ValueError, r"must be \(N, \w, H, W\), got shape \(6, 9, 12\)", given[0][0]),
        (ValueError, r"must be \(N, \w, H, W\)", given[0].unsqueeze(2)),
    ]
    if name != "SpatialAttention":  # which takes any number of channels
        wrong.append((ValueError, r"must be \(N, 6, H, W\), got shape \(2, 5,", given[0][:, :5]))
    for error, message, value in wrong:
        with pytest.raises(error, match=f"`{argument}` {message}"):
            layer(value, *given[1:])


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: ChannelAttention(0), ValueError, "`channels` must be 1 or more, got 0"),
    (lambda: ChannelAttention(2.5), TypeError, "`channels` must be an int, got 2.5"),
    (lambda: ChannelAttention(4, 0), ValueError, "`reduction` must be 1 or more"),
    (lambda: ChannelAttention(4, pool=()), ValueError, "`pool` must be a sequence"),
    (lambda: ChannelAttention(4, pool=1), ValueError, "`pool` must be a sequence"),
    (lambda: ChannelAttention(4, pool="avg"), ValueError, "`pool` must be a sequence"),
    (lambda: ChannelAttention(4, pool=("mean",)), ValueError, "`pool` must be one of 'avg'"),
    (
        lambda: ChannelAttention(4, spatial_dims=1),
        ValueError,
        "`spatial_dims` must be 2 or 3, got 1",
    ),
    (lambda: SpatialAttention(4), ValueError, "`kernel_size` must be odd, got 4"),
    (lambda: MultiScaleFusion(-1), ValueError, "`channels` must be 1 or more, got -1"),
    (lambda: MultiScaleFusion(4, 0), ValueError, "`deep_channels` must be 1 or more"),
    (lambda: ASPP(0), ValueError, "`in_channels`"),
    (lambda: ASPP(4, 0), ValueError, "`out_channels`"),
    (lambda: ASPP(4, rates=()), ValueError, "`rates` must have at least one"),
    (lambda: ASPP(4, rates=6), TypeError, "`rates` must be a sequence of ints, got 6"),
    (lambda: ASPP(4, rates=np.array([6, 12])), TypeError, "`rates` must be a sequence of ints"),
    (lambda: ASPP(4, rates=(0,)), ValueError, "`rates` must be 1 or more, got 0"),
    (lambda: ASPP(4, dropout=1.0), ValueError, "`dropout` must be at least 0 and below 1, got 1.0"),
    (lambda: ASPP(4, norm="layer"), ValueError, "`norm` must be one of 'batch'"),
    (lambda: SpatialPyramidPooling(4, 4, ()), ValueError, "`bins` must have at least one"),
    (lambda: SpatialPyramidPooling(4, 4, (0,)), ValueError, "`bins` must be 1 or more"),
    (lambda: DepthwiseSeparableConv(4, 4, 2), ValueError, "`kernel_size` must be odd, got 2"),
    (lambda: DepthwiseSeparableConv(4, 4, stride=0), ValueError, "`stride` must be 1 or more"),
    (lambda: MultiScaleConv(4, 4, ()), ValueError, "`kernel_sizes` must have at least one"),
    (lambda: MultiScaleConv(4, 4, (3, 4)), ValueError, "`kernel_sizes` must be odd, got 4"),
    (lambda: AttributeEncoder(0), ValueError, "`in_features` must be 1 or more"),
    (lambda: AttributeEncoder(4, out_size=(3,)), ValueError, "`out_size` must have 2 or 3 entries"),
    (lambda: AttributeEncoder(4, out_size=16), TypeError, "`out_size` must be a sequence of ints"),
    (lambda: AttributeEncoder(4, hidden=8), TypeError, "`hidden` must be a sequence of ints"),
    (lambda: AttributeEncoder(4, hidden=(0,)), ValueError, "`hidden` must be 1 or more"),
    (lambda: AttributeEncoder(4, dropout=-0.1), ValueError, "`dropout` must be at least 0"),
]


@pytest.mark.parametrize(("build", "error", "message"), BAD, ids=[case[2][:40] for case in BAD])
def test_bad_arguments(build, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()
