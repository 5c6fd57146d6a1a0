"""The kernels against their definition, bit for bit, and the float64 reference.

On a GPU, or interpreted: TRITON_INTERPRET=1 runs them on CPU tensors. Triton reads it once, so they
want their own process.
"""

import math
import os

import numpy as np
import pytest
import torch
from torch.utils import deterministic

from gliomaseg_layers.functional import outlier_weight, outlier_weight_backend
from gliomaseg_layers.functional._scores import Scores
from gliomaseg_layers.functional.outlier_weight import counted_weight
from tests.support import references
from tests.support.cases import BF16, F16, F32, HALVES, random, scene
from tests.support.references import array
from tests.support.tolerances import TOLERANCES

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (torch.cuda.is_available() or INTERPRETED):
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

from gliomaseg_layers.functional import outlier_weight_triton  # noqa: E402 - it wants Triton

DEVICE = "cpu" if INTERPRETED else "cuda"
EIGHT_LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 0.99)


@pytest.fixture(autouse=True)
def _nothing_is_read_that_nobody_wrote():
    """torch.empty then holds NaN, or the largest integer."""
    torch.use_deterministic_algorithms(True)
    assert deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def logits(shape, dtype=F32, seed=0):
    """Return the logits of regions and islands, some of them doubtful."""
    return (scene(shape, "multilabel", seed)[0] / 2).to(DEVICE, dtype)


def check(x, valid=None, *, window=(3, 7), max_noise_size=5, levels=(0.1, 0.5), seen=True):
    """Compare the kernels with both, and return the weight; ``seen`` is whether any is flagged."""
    found = outlier_weight_triton.launch(x, valid, window, max_noise_size, levels)
    scores = Scores(x, "multilabel", True, valid)
    defined = counted_weight(scores, window, max_noise_size, levels)
    assert (found.shape, found.dtype, found.device) == (x.shape, F32, x.device)
    assert torch.equal(found, defined)
    settings = {"window": window, "max_noise_size": max_noise_size, "levels": levels}
    reference = references.outlier_weight(
        x, mode="multilabel", from_logits=True, valid=valid, **settings
    )
    np.testing.assert_allclose(array(found), reference, **TOLERANCES[F32])
    assert bool(found.any()) == seen
    return found


@pytest.mark.parametrize(
    ("shape", "window", "seen"),
    [
        ((1, 1, 1, 1), (21, 21), False),
        ((2, 1, 1, 40), (21, 21), True),
        ((1, 1, 43, 1), (7, 7), True),
        ((2, 2, 19, 23), (7, 7), True),
        ((1, 1, 5, 7), (63, 63), True),  # smaller than the window
        ((1, 1, 67, 3), (7, 5), True),  # nine tiles of rows
        ((1, 1, 33, 257), (3, 3), True),  # tiles of rows and of columns
        ((1, 1, 2, 2145), (1, 63), True),  # rows of many words
        ((1, 1, 9, 70), (1, 1), False),
        ((1, 2, 9, 70), (5, 1), True),
        ((1, 1, 40, 70), (63, 33), True),
        ((1, 1, 9, 130), (3, 61), True),
    ],
    ids=str,
)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_shapes_and_windows(shape, window, seen, masked):
    valid = (random(shape) > 0.2).to(DEVICE) if masked else None
    most = math.prod(math.ceil(side / 3) for side in window)
    check(logits(shape), valid, window=window, max_noise_size=most, seen=seen)


@pytest.mark.parametrize("width", [31, 32, 33, 63, 64, 65, 95, 96, 97])
def test_images_and_windows_as_wide_as_words(width):
    x = 8 * (random((1, 1, 2, width), width) < 0.2).to(DEVICE, F32) - 4
    for window in (29, 31, 33, 63):
        check(x, window=(3, window), max_noise_size=40)
        check(-x, window=(3, window), max_noise_size=40)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_a_program_walks_far_down_a_large_image(masked, monkeypatch):
    monkeypatch.setattr(outlier_weight_triton, "PROGRAMS", 1)  # for a small one it would not
    shape = (1, 1, 300, 32)
    valid = (random(shape) > 0.2).to(DEVICE) if masked else None
    check(logits(shape), valid, window=(7, 7), max_noise_size=9)


def test_more_images_than_a_grid_has_on_its_second_axis():
    images = 300 if INTERPRETED else 70_000  # the interpreter has no such limit, nor such speed
    x = torch.where(random((images, 1, 1, 3)) < 0.3, 2.0, -2.0).to(DEVICE)
    check(x, window=(1, 5), max_noise_size=1)


def test_no_image():
    x = torch.zeros(0, 1, 5, 7, device=DEVICE)
    assert outlier_weight(x, from_logits=True).shape == x.shape


def scattered(tensor):
    """Return an equal tensor whose every axis has a stride of its own, between other numbers."""
    n, c, h, w = tensor.shape
    memory = random((w + 1, n + 2, h + 3, 2 * c + 5)).sub(0.5).mul(50).to(DEVICE)
    memory = memory > 0 if tensor.dtype == torch.bool else memory.to(tensor.dtype)
    return memory.permute(1, 3, 2, 0)[1 : n + 1, 3 : 2 * c + 3 : 2, 2 : h + 2, 1:].copy_(tensor)


@pytest.mark.parametrize(
    "layout",
    [
        scattered,
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x[..., 1::2, ::3],
        lambda x: x.mT[:, :, :9],
        lambda x: x[:1].expand(2, -1, -1, -1),
        lambda x: x[:, :, :1].expand(-1, -1, 4, -1),
        lambda x: x[1:, 1:, 3:, 5:],
    ],
    ids=["scattered", "channels_last", "strided", "transposed", "images", "rows", "offset"],
)
def test_memory_layout_does_not_matter(layout):
    x, valid = logits((2, 2, 11, 34)), (random((2, 2, 11, 34)) > 0.2).to(DEVICE)
    check(layout(x), layout(valid).contiguous())
    check(layout(x).contiguous(), layout(valid))


def test_addresses_beyond_32_bits():
    torch.use_deterministic_algorithms(False)  # or all of this memory is written
    far, valid = (
        torch.empty(2**31 + 8, dtype=dtype, device=DEVICE).as_strided(
            (1, 1, 1, 3), (1, 1, 1, 2**30)
        )
        for dtype in (F16, torch.bool)
    )
    far.copy_(torch.tensor([1.0, -2.0, 3.0]))
    valid.copy_(torch.tensor([True, True, False]))
    assert (
        check(far, max_noise_size=1).tolist() == check(far.contiguous(), max_noise_size=1).tolist()
    )
    check(far.contiguous(), valid, max_noise_size=1)


@pytest.mark.parametrize("dtype", [F32, *HALVES], ids=str)
def test_masks_and_dtypes(dtype):
    x = logits((2, 2, 6, 37), dtype)
    for channels in (1, 2):
        valid = (random((2, channels, 6, 37), 2) > 0.2).to(DEVICE)
        found = check(x, valid)
        outside = ~valid.expand_as(x)
        assert not found[outside].any()
        for junk in (torch.nan, torch.inf):
            assert torch.equal(check(x.masked_fill(outside, junk), valid), found)
        check(x, torch.zeros_like(valid), seen=False)


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8])
def test_levels(most):
    x = 12 * random((1, 2, 5, 35)).to(DEVICE, F32) - 6
    each = [check(x, max_noise_size=10, levels=EIGHT_LEVELS[i : i + 1]) for i in range(most)]
    mean = check(x, max_noise_size=10, levels=EIGHT_LEVELS[:most])
    torch.testing.assert_close(mean, sum(each) / most)
    assert len({tuple(w.flatten().tolist()) for w in each}) == most  # every level sees its own


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
@pytest.mark.parametrize("level", [0.1, 0.5, 1 / 3, 0.9, 1e-6, 0.999])
def test_logits_next_to_those_of_a_level(level, dtype):
    """A tie is black, and what is compared is the level's logit rounded to fp32."""
    tie = torch.tensor(math.log(level / (1 - level)), dtype=F32).to(dtype)
    below, above = (tie.nextafter(tie.new_tensor(end)) for end in (-40, 40))
    if dtype == BF16 and level == 0.5:  # of which the interpreter flushes subnormal numbers
        below, above = -torch.finfo(BF16).tiny, torch.finfo(BF16).tiny
    x = torch.full((3, 1, 5, 5), -30.0, dtype=dtype)
    x[:, 0, 2, 2] = torch.tensor([tie, below, above])
    x = x.to(DEVICE)
    scores = Scores(x, "multilabel", True, None)
    found = outlier_weight_triton.launch(x, None, (3, 3), 1, [level])
    assert torch.equal(found, counted_weight(scores, (3, 3), 1, [level]))
    if dtype == F32 or level == 0.5:  # representable
        assert found[:, 0, 2, 2].gt(0).tolist() == [False, False, True]


@pytest.mark.parametrize("most", [0, 1, 5, 10, 2**31 - 1])
def test_the_largest_size_of_noise(most):
    x = logits((1, 2, 9, 37))
    if most > 10:  # half of the window, which `outlier_weight` never exceeds
        found = outlier_weight_triton.launch(x, None, (3, 7), most, [0.5])
        assert torch.equal(found, check(x, max_noise_size=10, levels=[0.5]))
    else:
        check(x, max_noise_size=most, seen=most > 0)


def test_what_is_not_finite_stays_in_its_pixel():
    x = logits((3, 1, 7, 41))
    for value in (torch.nan, torch.inf, -torch.inf):
        spoilt = x.clone()
        spoilt[1, 0, ::3, ::5] = value
        found = outlier_weight_triton.launch(spoilt, None, (3, 7), 5, [0.5])
        finite = spoilt.nan_to_num(-9.0, 9.0, -9.0)  # NaN is black
        assert torch.equal(found, check(finite, levels=[0.5]))


def test_equal_from_run_to_run():
    x, valid = logits((1, 2, 9, 33)), (random((1, 1, 9, 33)) > 0.2).to(DEVICE)
    assert torch.equal(check(x, valid), check(x, valid))


def test_cuda_graphs():
    if INTERPRETED:
        return  # nothing to capture: the interpreter runs on the host
    x = logits((1, 1, 64, 64))
    assert outlier_weight_backend(x, from_logits=True) == "triton"
    graph = torch.cuda.CUDAGraph()
    for _ in range(3):
        outlier_weight(x, from_logits=True)
    with torch.cuda.graph(graph):
        weight = outlier_weight(x, from_logits=True)
    x.neg_().add_(0.3)
    graph.replay()
    assert torch.equal(weight, outlier_weight(x, from_logits=True))
