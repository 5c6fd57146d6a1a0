import math

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter1d
from torch.utils._python_dispatch import TorchDispatchMode

from gliomaseg_layers.functional import box_count, box_sum
from tests.support import references
from tests.support.references import array
from tests.support.tolerances import TOLERANCES

CASES = [
    ((1, 1, 1, 1), 1),
    ((1, 1, 1, 1), 7),
    ((2, 3, 13, 17), 1),
    ((2, 3, 13, 17), 3),
    ((1, 2, 13, 17), 5),
    ((1, 1, 11, 23), 7),
    ((1, 1, 23, 29), 9),
    ((1, 1, 23, 29), 15),
    ((1, 1, 31, 37), 21),
    ((1, 2, 5, 3), 21),  # smaller than the window
    ((1, 1, 2, 40), 31),  # smaller on one axis
    ((1, 1, 13, 17), (3, 9)),
    ((0, 2, 5, 7), 3),
    ((2, 0, 5, 7), 3),
    ((1, 2, 5, 7, 11), 3),
    ((1, 1, 3, 29, 31), (1, 7, 7)),
    ((1, 1, 3, 29, 31), (1, 21, 21)),
    ((1, 1, 4, 6, 2), (5, 3, 7)),
    ((0, 1, 3, 3, 3), 3),
    ((2, 1, 0, 5), 3),
    ((2, 1, 4, 0), 7),
]


def noise(shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), device="cpu").to(dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize(("shape", "window"), CASES)
def test_sum_and_gradient_match_reference(shape, window, dtype):
    x, upstream = noise(shape, dtype).requires_grad_(), noise(shape, dtype, seed=1)
    y = box_sum(x, window)
    assert y.shape == x.shape
    assert y.dtype == dtype
    (grad,) = torch.autograd.grad(y, x, upstream)
    assert grad.dtype == dtype
    for got, of in ((y, x), (grad, upstream)):
        expected = references.box_sum(of, window)
        if dtype in (torch.float16, torch.bfloat16):
            # Summed in fp32 and rounded once: not even cancellation loses more than that.
            spacing = np.finfo(np.float16).eps if dtype == torch.float16 else 2.0**-7
            allowed = 0.5001 * spacing * abs(expected) + 1e-5
            assert (abs(array(got) - expected) <= allowed).all()
        else:
            np.testing.assert_allclose(array(got), expected, **TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64, torch.uint8])
def test_integers_are_summed_exactly(dtype):
    x = torch.randint(
        0, 5, (2, 2, 19, 23), generator=torch.Generator().manual_seed(0), device="cpu"
    ).to(dtype)
    y = box_sum(x, 7)
    assert y.dtype == dtype
    np.testing.assert_array_equal(array(y), references.box_sum(x, 7))


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x[:, :, ::2, 1::3],
        lambda x: x.transpose(2, 3),
        lambda x: x[:, :1].expand(-1, 4, -1, -1),
        lambda x: x.flip(3)[:, 1:],
    ],
    ids=["channels_last", "strided", "transposed", "expanded", "offset"],
)
def test_memory_layout_does_not_matter(layout):
    x = layout(noise((2, 3, 22, 31))).requires_grad_()
    upstream = layout(noise((2, 3, 22, 31), seed=1))
    y = box_sum(x, 5)
    np.testing.assert_allclose(array(y), references.box_sum(x, 5), **TOLERANCES[torch.float64])
    (grad,) = torch.autograd.grad(y, x, upstream)
    expected = references.box_sum(upstream, 5)
    np.testing.assert_allclose(array(grad), expected, **TOLERANCES[torch.float64])


def test_input_is_left_alone():
    x = noise((1, 1, 9, 9))
    before = x.clone()
    assert box_sum(x, 1).data_ptr() != x.data_ptr()
    box_sum(x, 5).add_(1)
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape_window", [((1, 2, 4, 5), 3), ((1, 1, 2, 4, 3), (1, 3, 5))])
def test_derivatives_of_both_orders(shape_window):
    shape, window = shape_window
    x = noise(shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: box_sum(x, window), (x,))
    assert torch.autograd.gradgradcheck(lambda x: box_sum(x, window).square(), (x,))


@pytest.mark.parametrize("dim", [0, 1, 3, -1])
def test_vmap_maps_any_axis(dim):
    x = noise((4, 2, 3, 5, 7))  # four inputs (2, 3, 5, 7)
    expected = torch.stack([box_sum(each, 3) for each in x])
    mapped = torch.func.vmap(lambda each: box_sum(each, 3), in_dims=dim)
    torch.testing.assert_close(mapped(x.movedim(0, dim)), expected)


@pytest.mark.parametrize(("shape", "window"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32])
def test_count_is_the_sum_of_ones(shape, window, dtype):
    spatial = shape[2:]
    count = box_count(spatial, window, dtype=dtype)
    assert count.shape == (1, 1, *spatial)
    assert count.dtype == dtype
    np.testing.assert_array_equal(
        array(count), references.box_sum(np.ones((1, 1, *spatial)), window)
    )


def test_count_on_another_device():
    assert box_count((4, 5), 3, device="meta").device.type == "meta"


@pytest.mark.parametrize("window", [7, 21, 63])
def test_fp32_is_accurate_on_a_large_image(window):
    # All values near 1: the sums of a plain fp32 integral image would reach 1.6e7 here.
    x = (
        torch.rand((1, 1, 4096, 4096), generator=torch.Generator().manual_seed(0), device="cpu")
        * 0.1
        + 0.9
    )
    expected = x[0, 0].double().numpy(force=True)
    for axis in (0, 1):
        expected = uniform_filter1d(expected, window, axis, mode="constant") * window
    error = abs(box_sum(x, window)[0, 0].numpy(force=True) - expected).max()
    assert error <= 1e-6 * window**2


def test_nothing_outside_the_window_is_read():
    x = torch.zeros(1, 1, 15, 15)
    x[..., 7, 7] = math.nan
    expected = torch.zeros(15, 15, dtype=torch.bool)
    expected[5:10, 5:10] = True
    assert torch.equal(box_sum(x, 5)[0, 0].isnan(), expected)


def test_cost_grows_with_the_logarithm_of_the_window():
    class Written(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if not any(returned.alias_info for returned in func._schema.returns):
                self.elements += out.numel()
            return out

    def cost(window):
        with Written() as written:
            box_sum(torch.zeros(1, 1, 1, 8192), (1, window))
        return written.elements / 8192

    # 2 ** 4 times the window, whose logarithm is 10 / 6 times as large.
    assert cost(1023) <= 2 * cost(63)


# torch 2.13's own tracing of any autograd.Function warns.
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("window", [3, (5, 3)])
def test_compiled_equals_eager(window, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(box_sum, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for shape in ((1, 2, 12, 17), (2, 2, 15, 13), (1, 2, 2, 30)):
        x, upstream = noise(shape).requires_grad_(), noise(shape, seed=1)
        y, expected = compiled(x, window), box_sum(x, window)
        torch.testing.assert_close(y, expected, **TOLERANCES[x.dtype])
        grads = [torch.autograd.grad(out, x, upstream)[0] for out in (y, expected)]
        torch.testing.assert_close(*grads, **TOLERANCES[x.dtype])


class _BoxSum(torch.nn.Module):
    def forward(self, x):
        return box_sum(x, 5)


def test_an_exported_program_serves_every_size():
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    given = (noise((2, 2, 12, 17)),)
    program = torch.export.export(_BoxSum(), given, dynamic_shapes=(sizes,), strict=False)
    for shape in ((1, 2, 13, 9), (3, 2, 2, 30)):
        x = noise(shape)
        torch.testing.assert_close(program.module()(x), box_sum(x, 5), **TOLERANCES[x.dtype])


@pytest.mark.parametrize("axis", [0, 1])
def test_vmap(axis):
    x = noise((3, 3, 2, 9, 8))
    expected = torch.stack([box_sum(part, (3, 5)) for part in x.unbind(axis)], axis)
    found = torch.func.vmap(lambda part: box_sum(part, (3, 5)), axis, axis)(x)
    torch.testing.assert_close(found, expected, **TOLERANCES[x.dtype])
