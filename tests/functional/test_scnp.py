"""The worst logit of its class nearby; what CompoundLoss makes of it is in tests/losses."""

import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gliomaseg_layers.functional import scnp
from tests.support import references
from tests.support.calls import LAYOUTS, lay_out
from tests.support.cases import (
    F32,
    F64,
    HALVES,
    MODES,
    NoHostSynchronisation,
    as_read,
    case,
    either_input,
    every_mode,
    masks,
    outside_of,
    random,
)
from tests.support.references import array
from tests.support.tolerances import TOLERANCES

SIZES = [((9, 11), size) for size in (1, 3, 5, (1, 3), [5, 1])]
SIZES += [((5, 7, 6), size) for size in (1, 3, 5, (1, 3, 3))]
every_size = pytest.mark.parametrize(("spatial", "size"), SIZES, ids=str)


def run(x, target, **settings):
    """Return the worst values and the gradient of what differs from pixel to pixel."""
    x = x.detach().requires_grad_()
    worst = scnp(x, target, **as_read(settings))
    assert (worst.shape, worst.dtype) == (x.shape, x.dtype)
    upstream = weights_like(x)
    (grad,) = torch.autograd.grad(worst, x, upstream)
    assert grad.dtype == x.dtype
    return worst.detach(), grad


def weights_like(x):
    """Return numbers that are laid out otherwise in memory than ``x`` is."""
    numbers = (7 * random(x.shape[::-1], seed=1) - 2).to(x)
    return numbers.permute([*reversed(range(x.dim()))])


def check(x, target, **settings):
    """Compare with the reference: nothing is computed, so that values are equal to the bit."""
    worst, grad = run(x, target, **settings)
    expected, slope = references.scnp(x, target, upstream=weights_like(x), **settings)
    np.testing.assert_array_equal(array(worst), expected)
    np.testing.assert_allclose(array(grad), slope, **TOLERANCES[x.dtype])
    return worst, grad


@every_size
@either_input
@every_mode
def test_matches_reference(mode, channels, from_logits, spatial, size):
    x, target = case(spatial, mode, channels, from_logits)
    worst, _ = check(x, target, mode=mode, from_logits=from_logits, size=size)
    assert torch.equal(worst, x) == (size == 1)


@pytest.mark.parametrize("dtype", [F32, F64, *HALVES], ids=str)
@either_input
@every_mode
def test_every_dtype_is_kept(mode, channels, from_logits, dtype):
    """Rounding makes ties, whose gradient goes to one of them: its sum is compared."""
    x, target = case((9, 11), mode, channels, from_logits)
    x, settings = x.to(dtype), {"mode": mode, "from_logits": from_logits}
    worst, grad = run(x, target, **settings)
    expected, slope = references.scnp(x, target, upstream=weights_like(x), **settings)
    np.testing.assert_array_equal(array(worst), expected)
    np.testing.assert_allclose(array(grad).sum(), slope.sum(), rtol=0.02)


def one_hot(target, channels):
    return F.one_hot(target, channels).movedim(-1, 1)


@every_mode
def test_targets_of_every_kind(mode, channels):
    x, target = case((9, 11), mode, channels)
    if mode == "multiclass":
        kinds = [target, target.byte(), target[:, None], target.double()]
        kinds += [one_hot(target, channels).to(dtype) for dtype in (F32, F64, *HALVES)]
        kinds += [0.6 * one_hot(target, channels) + 0.4 / channels]
    else:
        kinds = [target, target.byte(), target.bool(), target.half(), 0.2 + 0.4 * target]
        kinds += [target[:, 0]] if mode == "binary" else []
    expected, slope = check(x, kinds[0], mode=mode)
    for kind in kinds[1:]:
        worst, grad = check(x, kind, mode=mode)
        assert torch.equal(worst, expected)
        assert torch.equal(grad, slope)


def test_where_no_class_has_more_than_half_a_pixel_is_of_none():
    x, _ = case((9, 11), "multiclass", 2)
    worst, _ = check(x, torch.full_like(x, 0.5), mode="multiclass")
    assert torch.equal(worst, F.max_pool2d(x, 3, 1, 1))


@either_input
@every_mode
def test_pixels_outside_are_nobodys_neighbours(mode, channels, from_logits):
    settings = {"mode": mode, "from_logits": from_logits}
    x, clean = case((9, 11), mode, channels, from_logits)
    ignored = clean.masked_fill(random(clean.shape, 2) > 0.8, 255)
    for mask in (None, *masks(x, mode)):
        for target, index in ((clean, None), (ignored, 255)):
            outside = {"ignore_index": index, "mask": mask}
            worst, grad = check(x, target, **settings, **outside)
            out = outside_of(references.valid_pixels(x.shape, target, mode=mode, **outside), x)
            assert (worst[out] == 0).all()
            assert (grad[out] == 0).all()
            for junk in (torch.nan, torch.inf, -torch.inf):
                again = check(x.masked_fill(out, junk), target, **settings, **outside)
                assert torch.equal(again[0], worst)
                assert torch.equal(again[1], grad)


@every_mode
def test_a_mask_is_a_crop(mode, channels):
    x, target = case((9, 11), mode, channels)
    mask = torch.zeros(2, 9, 11, dtype=torch.bool)
    mask[:, :5, :6] = True
    crop = (..., slice(5), slice(6))
    masked, cropped = scnp(x, target, mode=mode, mask=mask), scnp(x[crop], target[crop], mode=mode)
    assert torch.equal(masked[crop], cropped)


@every_mode
def test_probabilities_beside_0_and_1_are_clamped(mode, channels):
    x, target = case((9, 11), mode, channels, from_logits=False)
    x = 1.4 * x - 0.2
    settings = {"mode": mode, "from_logits": False}
    worst, grad = check(x, target, **settings)
    assert torch.equal(worst, scnp(x.clamp(0, 1), target, **settings))
    assert (grad[(x < 0) | (x > 1)] == 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spatial", [(9, 11), (4, 5, 6)], ids=["2-D", "3-D"])
@every_mode
def test_layouts_in_memory(mode, channels, spatial, layout):
    x, target = case(spatial, mode, channels)
    expected = check(x, target, mode=mode)
    found = check(lay_out(x, layout), lay_out(target, layout), mode=mode)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@every_mode
def test_images_smaller_than_the_window(mode, channels):
    for spatial, size in (((1, 1), 3), ((2, 3), 9), ((1, 7), (5, 3)), ((1, 2, 1), 5)):
        x, target = case(spatial, mode, channels)
        check(x, target, mode=mode, size=size)
    x, target = case((4, 5), mode, channels)
    of_all, _ = check(x, target, mode=mode, size=10**6 + 1)
    assert torch.equal(of_all, scnp(x, target, mode=mode, size=11))


@pytest.mark.parametrize("shape", [(0, 2, 4, 5), (2, 0, 4, 5), (2, 2, 0, 5), (2, 2, 3, 4, 0)])
def test_nothing_to_look_at(shape):
    x = torch.zeros(shape, requires_grad=True)
    worst = scnp(x, torch.ones(shape), mode="multilabel")
    assert worst.shape == shape
    worst.sum().backward()
    assert x.grad.shape == shape


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
@every_mode
def test_infinite_logits(mode, channels, value):
    """They reach the neighbours to whom they are the worst, and no others, and never make NaN."""
    x, target = case((9, 11), mode, channels, batch=3)
    x[1, 0, 3, 4], x[1, 0, 3, 5] = value, -value
    worst, grad = run(x, target, mode=mode)
    expected, _ = references.scnp(x, target, mode=mode)
    np.testing.assert_array_equal(array(worst), expected)
    assert grad.isfinite().all()
    x[1] = value
    assert (scnp(x, target, mode=mode)[1] == value).all()


def test_nan_stays_near():
    x, target = case((9, 11), "binary", 1)
    x[0, 0, 4, 5] = torch.nan
    worst = scnp(x, target)
    assert worst[0, 0, 3:6, 4:7].isnan().any()
    worst[0, 0, 3:6, 4:7] = 0
    assert worst.isfinite().all()


@pytest.mark.parametrize("size", [3, (1, 3), 5])
@every_mode
def test_the_authors_definition(mode, channels, size):
    """With 9999 for infinity: the pools of the pixels of a class, and of all others."""
    x, target = case((9, 11), mode, channels)
    y = (one_hot(target, channels) if mode == "multiclass" else target).to(F64)
    sides = (size, size) if isinstance(size, int) else size
    pool = torch.nn.MaxPool2d(sides, stride=1, padding=[side // 2 for side in sides])
    t1 = -pool(-(x * y + 9999 * (1 - y)))
    t2 = pool(x * (1 - y) - 9999 * y)
    torch.testing.assert_close(scnp(x, target, mode=mode, size=size), t1 * y + t2 * (1 - y))


@every_mode
def test_makes_no_loss_smaller(mode, channels):
    x, target = case((9, 11), mode, channels)
    y = (one_hot(target, channels) if mode == "multiclass" else target).bool()
    worst = scnp(x, target, mode=mode)
    assert torch.where(y, worst <= x, worst >= x).all()
    torch.testing.assert_close(  # and of two classes one is the other's mirror
        scnp(-x, ~y, mode="multilabel"), -scnp(x, y, mode="multilabel")
    )


@either_input
@every_mode
def test_derivatives_of_both_orders(mode, channels, from_logits):
    x, target = case((3, 4), mode, channels, from_logits)

    def squares(x):
        return scnp(x, target, mode=mode, from_logits=from_logits).square()

    assert torch.autograd.gradcheck(squares, (x.requires_grad_(),))
    assert torch.autograd.gradgradcheck(squares, (x,))


@every_mode
def test_nothing_waits_for_the_device(mode, channels):
    x, target = case((9, 11), mode, channels)
    with NoHostSynchronisation():
        worst = scnp(x.requires_grad_(), target, mode=mode, ignore_index=1, mask=masks(x, mode)[0])
        worst.sum().backward()


def compare_compiled(backend, mode, channels, dynamic, spatials):
    torch._dynamo.reset()
    compiled = torch.compile(scnp, fullgraph=True, dynamic=dynamic, backend=backend)
    for batch, spatial in enumerate(spatials, 2):
        x, target = case(spatial, mode, channels, batch=batch)
        results = []
        for function in (compiled, scnp):
            x = x.detach().requires_grad_()
            worst = function(x, target, mode=mode, ignore_index=255)
            results.append((worst, *torch.autograd.grad(worst, x, weights_like(x))))
        torch.testing.assert_close(*results, **TOLERANCES[F64])


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("spatials", [[(12, 17), (15, 13)], [(4, 6, 7), (5, 4, 9)]], ids=str)
@pytest.mark.parametrize(("mode", "channels"), MODES[::3])
def test_compiled_equals_eager(mode, channels, spatials, dynamic):
    compare_compiled("aot_eager", mode, channels, dynamic, spatials[: 2 if dynamic else 1])


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch 2.13's own import
@pytest.mark.filterwarnings("ignore:Skipping serialization of skipfiles:UserWarning")  # torch 2.6's
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
@pytest.mark.parametrize("spatial", [(12, 17), (4, 6, 7)], ids=["2-D", "3-D"])
def test_compiled_by_inductor_equals_eager(spatial):
    """At a corner too, all around which are pixels of the other class."""
    compare_compiled("inductor", "multiclass", 3, False, [spatial])


class Worst(torch.nn.Module):
    def forward(self, x, target):
        return scnp(x, target, mode="multiclass")


def test_an_exported_program_serves_every_size():
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    labels = dict.fromkeys((0, 1, 2), torch.export.Dim.DYNAMIC)
    given = case((9, 11), "multiclass", 3)
    program = torch.export.export(Worst(), given, dynamic_shapes=(sizes, labels), strict=False)
    for spatial in ((9, 11), (16, 5), (3, 30)):
        x, target = case(spatial, "multiclass", 3, batch=3)
        assert torch.equal(program.module()(x, target), Worst()(x, target))
