"""The fusion in two passes against its equation: values, both gradients, formats, memory."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gliomaseg_layers import ChannelAttention, MultiScaleFusion, SpatialAttention
from gliomaseg_layers.layers import _chunked_fusion
from tests.support.module_cases import every_dims, literal_fusion
from tests.support.peak_memory import peak_of_training_step
from tests.support.tolerances import TOLERANCES

SIZES = {2: (5, 6), 3: (3, 4, 2)}
LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


def make(channels: int, dims: int = 2, dtype: torch.dtype = torch.float64) -> MultiScaleFusion:
    """Return a layer whose every parameter is a number of its own."""
    torch.manual_seed(0)
    layer = MultiScaleFusion(channels, reduction=2, kernel_size=3, spatial_dims=dims).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.rand_like(parameter), alpha=0.3)
    return layer


def maps(*shape: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in "xy"]


def check(layer: MultiScaleFusion, x: Tensor, y: Tensor, **tolerance: float) -> None:
    """Compare output and all gradients with the literal translation's."""
    results = []
    for out in (layer(x, y), literal_fusion(layer, x, y)):
        upstream = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
        used = [v for v in (x, y, *layer.parameters()) if v.requires_grad]
        results.append([out, *torch.autograd.grad(out, used, upstream)])
    torch.testing.assert_close(*results, **tolerance or TOLERANCES[x.dtype])


@pytest.fixture(params=[7, 24, 100, 2**17])
def any_block(request, monkeypatch) -> None:
    """Parts of a channel, some channels, some images, and all at once."""
    monkeypatch.setattr(_chunked_fusion, "CPU_BLOCK", request.param)


@pytest.mark.usefixtures("any_block")
@every_dims
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("batch", [1, 3])
def test_is_the_equation(dims: int, last: bool, batch: int) -> None:
    layer = make(4, dims)
    x, y = maps(batch, 4, *SIZES[dims])
    if last:
        x, y = (v.detach().contiguous(memory_format=LAYOUTS[dims]) for v in (x, y))
        x, y = x.requires_grad_(), y.requires_grad_()
    check(layer, x, y)
    if last:
        out = layer(x, y)
        assert out.is_contiguous(memory_format=LAYOUTS[dims])
        for found in torch.autograd.grad(out.square().sum(), [x, y]):
            assert found.is_contiguous(memory_format=LAYOUTS[dims])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (64, 65)])
@pytest.mark.parametrize("channels", [1, 3, 130])
def test_any_size(channels: int, size: tuple[int, int]) -> None:
    check(make(channels), *maps(2, channels, *size))


@every_dims
def test_pooled_maps_are_convolved_in_the_fastest_memory_format(dims: int) -> None:
    layer = make(4, dims, torch.float32)
    pooled = []
    convolution = layer.spatial_attention.convolution
    convolution.register_forward_pre_hook(lambda _, given: pooled.append(given[0]))
    x, y = maps(2, 4, *SIZES[dims], dtype=torch.float32)
    check(layer, x, y)
    layer.double()(x.double(), y.double())
    fastest = [values.is_contiguous(memory_format=LAYOUTS[dims]) for values in pooled]
    assert fastest == [True, True, False]  # ours, the literal translation's, and not oneDNN's


def test_other_attentions_in_the_place_of_its_own() -> None:
    class Brightness(nn.Module):
        def forward(self, input: Tensor, *, return_logits: bool) -> Tensor:
            return input.square()

    class Elsewhere(SpatialAttention):
        def logits(self, input: Tensor) -> Tensor:
            return super().logits(input.flip(-1))

    class Twice(ChannelAttention):
        def forward(self, input: Tensor, *, return_logits: bool = False) -> Tensor:
            return 2 * super().forward(input.square(), return_logits=return_logits)

    replaced = SpatialAttention()
    replaced.forward = Brightness().forward
    x, y = torch.randn(2, 2, 4, 6, 5)
    for name, attention in (
        ("channel_attention", ChannelAttention(4, 1, pool=("avg", "max"))),
        ("channel_attention", ChannelAttention(4, 1, pool=("max",))),
        ("channel_attention", Twice(4)),
        ("channel_attention", Brightness()),
        ("spatial_attention", Brightness()),
        ("spatial_attention", Elsewhere()),
        ("spatial_attention", replaced),
    ):
        fuse = MultiScaleFusion(4)
        setattr(fuse, name, attention)
        torch.testing.assert_close(fuse(x, y), literal_fusion(fuse, x, y))


def test_hooks_on_the_attentions() -> None:
    """What a hook returns is what is used, and gradients of the logits can be had."""
    fuse, (x, y) = MultiScaleFusion(4), torch.randn(2, 2, 4, 6, 5)
    expected, logits = fuse(x, y), []
    for attention in (fuse.channel_attention, fuse.spatial_attention):
        attention.register_forward_hook(lambda _, given, out: logits.append(out))
        attention.register_full_backward_hook(
            lambda _, of_input, of_output: logits.extend(of_output)
        )
    out = fuse(x, y)
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    channel, pixel, *grads = logits
    g = (channel + pixel).sigmoid()
    slope = 2 * out * (x - y) * g * (1 - g)
    torch.testing.assert_close(grads[0], slope.sum(1, True))
    torch.testing.assert_close(grads[1], slope.sum((2, 3), True))
    fuse.spatial_attention.register_forward_hook(lambda _, given, out: out.fill_(-1e4))
    torch.testing.assert_close(fuse(x, y), 0.5 * (x + y) + y)


def test_equal_channels_share_no_gradient() -> None:
    """As after a ReLU, where many values are 0: the first channel has the gradient of the max."""
    x, y = (v.detach().relu().requires_grad_() for v in maps(2, 8, 6, 7))
    check(make(8), x, y)
    zero = torch.zeros(2, 8, 6, 7, dtype=torch.float64, requires_grad=True)
    check(make(8), zero, torch.zeros_like(zero, requires_grad=True))


@pytest.mark.usefixtures("any_block")
def test_strided_and_mixed_formats() -> None:
    layer = make(4)
    x, y = maps(2, 4, 5, 6)
    check(layer, x.transpose(2, 3), y.transpose(2, 3))
    check(layer, x[..., ::2], y.contiguous(memory_format=torch.channels_last)[..., 1::2])
    check(layer, x, y[:1, :, :1, :1].expand_as(x))
    check(layer, x.flip(0).permute(1, 0, 2, 3)[[0, 1, 0, 1]].transpose(0, 1), y)
    check(layer, x, x)
    expanded = layer(x, y).sum()  # whose upstream gradient is a single number, expanded
    expected = literal_fusion(layer, x, y).sum()
    torch.testing.assert_close(
        torch.autograd.grad(expanded, [x, y]), torch.autograd.grad(expected, [x, y])
    )


@pytest.mark.usefixtures("any_block")
@every_dims
def test_gradients_of_both_orders(dims: int) -> None:
    layer = make(2, dims)
    names = [name for name, _ in layer.named_parameters()]

    def function(x: Tensor, y: Tensor, *values: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(names, values, strict=True)), (x, y))

    given = (*maps(2, 2, *(2,) * dims), *layer.parameters())
    assert torch.autograd.gradcheck(function, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, given, fast_mode=True)


FREE = ["x", "y", "shallow_weight", "deep_weight", "bias", "channel_attention", "spatial_attention"]


@pytest.mark.usefixtures("any_block")
@pytest.mark.parametrize(
    "free", [*([n] for n in FREE), *itertools.combinations(FREE[:4], 2)], ids="+".join
)
def test_frozen(free: list[str]) -> None:
    layer = make(4)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name.split(".")[0] in free)
    x, y = (
        v.requires_grad_(name in free)
        for name, v in zip("xy", [v.detach() for v in maps(2, 4, 5, 6)], strict=True)
    )
    check(layer, x, y)


def test_upstream_and_inputs_are_left_alone() -> None:
    layer, (x, y) = make(4), maps(2, 4, 5, 6)
    upstream = torch.randn_like(x)
    before = [v.detach().clone() for v in (x, y, upstream)]
    out = layer(x, y)
    first = torch.autograd.grad(out, [x, y], upstream, retain_graph=True)
    again = torch.autograd.grad(out, [x, y], upstream)
    assert all(map(torch.equal, before, (x, y, upstream)))
    torch.testing.assert_close(first, again)


def test_weights_of_another_dtype_promote_no_map() -> None:
    layer = make(8, dtype=torch.float32)
    x, y = (v.detach().bfloat16() for v in maps(2, 8, 9, 9))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [layer(x, y), torch.compile(layer, fullgraph=True, backend="aot_eager")(x, y)]
    assert [out.dtype for out in found] == [torch.bfloat16] * 2
    torch.testing.assert_close(*found, rtol=0.02, atol=0.02)


@pytest.mark.usefixtures("any_block")
def test_sums_over_blocks_are_not_in_half_precision() -> None:
    layer, x = make(16, dtype=torch.bfloat16), torch.randn(2, 16, 24, 24).bfloat16()
    layer(x, x).sum().backward()
    assert layer.bias.grad == x.numel()  # in bfloat16 the sum of ones ends at 256


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    """As near to fp64 as the literal translation in that dtype, times two."""
    wide = make(16, dtype=dtype).double()
    layer = make(16, dtype=dtype)
    given = [v.detach().to(dtype) for v in maps(2, 16, 24, 24)]
    upstream = torch.randn(2, 16, 24, 24).to(dtype)

    def results(function, dtype: torch.dtype) -> list[Tensor]:
        x, y = (v.to(dtype).requires_grad_() for v in given)
        out = function(x, y)
        return [out, *torch.autograd.grad(out, [x, y], upstream.to(dtype))]

    exact = results(lambda x, y: literal_fusion(wide, x, y), torch.float64)
    theirs = results(lambda x, y: literal_fusion(layer, x, y), dtype)
    for mine, other, true in zip(results(layer, dtype), theirs, exact, strict=True):
        errors = [(values.double() - true).norm() for values in (mine, other)]
        assert errors[0] <= 2 * errors[1]


def test_mixed_dtypes_under_autocast() -> None:
    layer = make(8, dtype=torch.float32)
    x, y = maps(2, 8, 9, 9, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, expected = layer(x, y.bfloat16()), literal_fusion(layer, x, y.bfloat16())
    assert out.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(out, expected, rtol=0.02, atol=0.02)
    for found, true in zip(
        *(torch.autograd.grad(v.square().sum(), [x, y]) for v in (out, expected)), strict=True
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, true, rtol=0.05, atol=0.2)


def test_function_transforms_take_the_plain_formula() -> None:
    layer, (x, y) = make(3), maps(4, 3, 5, 6)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return layer(x[None], y[None]).square().sum()

    found = vmap(grad(loss))(x.detach(), y.detach())
    (expected,) = torch.autograd.grad(literal_fusion(layer, x, y).square().sum(), x)
    torch.testing.assert_close(found, expected)


@every_dims
def test_compiled_is_the_same(dims: int) -> None:
    layer = make(4, dims)
    x, y = maps(2, 4, *SIZES[dims])
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for fuse in (layer, compiled):
        out = fuse(x, y)
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, y])])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    "shape", [(2, 64, 128, 128), (1, 128, 64, 64), (2, 256, 32, 32), (1, 32, 32, 64, 64)]
)
def test_peak_memory_of_a_training_step(shape: tuple[int, ...]) -> None:
    """At most 0.7 of the literal translation's, where the maps are larger than a piece."""
    layer = make(shape[1], len(shape) - 2, dtype=torch.float32)
    given = maps(*shape, dtype=torch.float32)
    upstream = torch.randn(shape)
    ours = peak_of_training_step(layer, given, upstream)
    theirs = peak_of_training_step(lambda x, y: literal_fusion(layer, x, y), given, upstream)
    assert theirs > 7 * upstream.nbytes  # merged, gate, what their products keep, the output
    assert ours <= 0.7 * theirs


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_elsewhere_than_on_a_cpu(layout):
    """Meta tensors stand for a GPU's."""
    fuse = MultiScaleFusion(8).to("meta")
    maps = torch.empty(2, 8, 5, 6, device="meta").to(memory_format=layout).requires_grad_()
    out = fuse(maps, maps)
    out.sum().backward()
    assert out.shape == maps.grad.shape == maps.shape
    assert out.is_contiguous(memory_format=layout)
