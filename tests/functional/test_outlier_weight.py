"""The outlier weight against the float64 reference, and by hand."""

import numpy as np
import pytest
import torch

from gliomaseg_layers.functional import outlier_weight
from gliomaseg_layers.functional._scores import Scores
from gliomaseg_layers.functional.box_filter import narrowest_integer, sign_sum
from gliomaseg_layers.functional.outlier_weight import outlier_weight_of
from tests.support import references
from tests.support.cases import (
    F32,
    F64,
    HALVES,
    MODES,
    SMALL,
    NoHostSynchronisation,
    case,
    either_input,
    every_mode,
    masks,
    outside_of,
    random,
)
from tests.support.references import array
from tests.support.tolerances import TOLERANCES


def check_weight(x, **settings):
    got = outlier_weight(x, **settings)
    expected = references.outlier_weight(x, **settings)
    assert not got.requires_grad
    assert got.dtype == (F64 if x.dtype == F64 else F32)
    np.testing.assert_array_equal(array(got) > 0, expected > 0)
    np.testing.assert_allclose(array(got), expected, **TOLERANCES[got.dtype])
    return expected


@every_mode
@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((2, 19, 23), SMALL),
        ((1, 37, 41), {}),
        ((1, 1, 1), {}),
        ((2, 5, 4), {}),  # smaller than the window
        ((1, 17, 13), {"window": (5, 3)}),
        ((0, 7, 5), SMALL),
        ((1, 7, 9, 11), SMALL),
        ((2, 3, 23, 25), {"window": (1, 21, 21)}),
        ((1, 19, 23), {**SMALL, "max_noise_size": 2.0}),
        ((1, 19, 23), {**SMALL, "max_noise_size": 4.5}),
        ((1, 19, 23), {**SMALL, "max_noise_size": 0}),
    ],
)
def test_matches_reference(shape, settings, mode, channels):
    x = case(shape[1:], mode, channels, False, batch=shape[0])[0]
    w = check_weight(x.requires_grad_(), mode=mode, **settings)
    if shape == (2, 19, 23):  # the scene shows something of everything
        assert (w > 0).any()
        assert (w == 0).any()


@either_input
@every_mode
@pytest.mark.parametrize("levels", [(0.1,), (0.9,), (0.1, 0.3, 0.5)])
def test_levels_match_reference(levels, mode, channels, from_logits):
    x = case((19, 23), mode, channels, from_logits, sharpness=0.4)[0]
    settings = {"mode": mode, "from_logits": from_logits, **SMALL}
    weight = check_weight(x, levels=levels, **settings)
    assert not np.array_equal(weight, references.outlier_weight(x, levels=(0.5,), **settings))
    check_weight(x, levels=levels, valid=masks(x, mode)[0], **settings)


@either_input
def test_a_level_says_how_sure_an_island_must_be(from_logits):
    probs = torch.full((1, 1, 64, 64), 0.01)
    probs[..., 8:11, 8:11] = 0.2
    probs[..., 40:43, 40:43] = 0.7
    two = torch.cat([1 - probs, probs], 1)
    three = torch.cat([1 - probs, probs / 2, probs / 2], 1)  # no class above 0.35
    third = three[:, 1:2] / (three[:, :1] + three[:, 1:2])  # of class 1 against the background
    for x, mode, share in (
        (probs, "binary", probs),
        (two, "multiclass", probs),
        (three, "multiclass", third),
    ):
        given = (x.log() if mode == "multiclass" else x.logit()) if from_logits else x
        for level in (0.05, 0.1, 0.3, 0.5, 0.6):
            weight = outlier_weight(given, mode=mode, from_logits=from_logits, levels=(level,))
            assert torch.equal((weight > 0).view(64, 64), (share > level).view(64, 64))


@pytest.mark.parametrize(
    ("mode", "channels", "which"),
    [(*mode, which) for mode in MODES for which in range(2 if mode[0] == "multiclass" else 3)],
)
@pytest.mark.parametrize("shape", [(2, 19, 23), (1, 7, 9, 11)])
def test_pixels_outside_the_image(shape, mode, channels, which):
    x = case(shape[1:], mode, channels, False, batch=shape[0])[0]
    valid = masks(x, mode)[which]
    check_weight(x, mode=mode, valid=valid, **SMALL)
    inside = references.valid_pixels(x.shape, None, mode=mode, mask=valid)
    broken = x.masked_fill(outside_of(inside, x), torch.nan)
    got = outlier_weight(broken, mode=mode, valid=valid, **SMALL)
    assert torch.equal(got, outlier_weight(x, mode=mode, valid=valid, **SMALL))
    assert (got[torch.from_numpy(~inside).to(got.device)] == 0).all()


@every_mode
@pytest.mark.parametrize("dtype", [F32, *HALVES])
def test_smaller_dtypes(dtype, mode, channels):
    x = case((19, 23), mode, channels, False, batch=2)[0].to(dtype)
    assert (check_weight(x, mode=mode, **SMALL) > 0).any()
    with torch.autocast("cpu", torch.bfloat16):
        check_weight(x, mode=mode, **SMALL)
    logits, _ = case((19, 23), mode, channels)
    check_weight(logits.to(dtype), mode=mode, from_logits=True, **SMALL)


@pytest.mark.parametrize("layout", ["channels_last", "strided", "transposed"])
def test_memory_layout_does_not_matter(layout):
    x = case((38, 46), "multiclass", 3, False, batch=2)[0]
    x = {
        "channels_last": x.to(memory_format=torch.channels_last),
        "strided": x[:, :, ::2, 1::2],
        "transposed": x.transpose(2, 3),
    }[layout]
    check_weight(x, mode="multiclass", **SMALL)


@every_mode
def test_nothing_waits_for_the_device(mode, channels):
    x = case((13, 17), mode, channels)[0]
    with NoHostSynchronisation():
        outlier_weight(x, mode=mode, from_logits=True, valid=random((2, 13, 17)) > 0.2)


def island(size, side, value=1.0, background=0.0):
    x = torch.full((1, 1, size, size), background, dtype=F64)
    start = (size - side) // 2
    x[..., start : start + side, start : start + side] = value
    return x


def test_sizes_of_lone_islands():
    weight = outlier_weight(island(63, 7))[0, 0]
    assert weight[28:35, 28:35].flatten().tolist() == pytest.approx([1 - 49 / 441] * 49)
    assert outlier_weight(island(63, 1))[0, 0, 31, 31].item() == pytest.approx(1 - 1 / 441)


@pytest.mark.parametrize(
    ("window", "largest"), [(3, 1), (5, 2), (7, 3), (9, 3), (11, 4), (21, 7), (63, 21)]
)
def test_noise_is_a_third_of_the_window_by_default(window, largest):
    for side in (largest, largest + 1):
        image = island(3 * window, side)
        flagged = outlier_weight(image, window=window) > 0
        assert torch.equal(flagged, image.bool() & (side <= largest))


@pytest.mark.parametrize("side", range(1, 12))
def test_a_smaller_size_of_noise(side):
    flagged = outlier_weight(island(43, side), max_noise_size=9) > 0
    assert torch.equal(flagged, island(43, side).bool() & (side <= 3))


def test_a_class_of_just_half_the_window_is_an_outlier():
    x = torch.tensor([[[[1.0, 0.0]]]])
    assert outlier_weight(x).flatten().tolist() == [0.5, 0.5]
    assert outlier_weight(torch.tensor([[[[1.0, 1.0, 0.0]]]]), window=9).count_nonzero() == 1


def test_ties_go_to_the_lower_class():
    logits = island(31, 3, value=0.0, background=1.0)  # three in doubt are black among white
    settings = {"from_logits": True, "levels": (0.5,)}
    assert (outlier_weight(logits, **settings) > 0).sum() == 9
    three = torch.cat([logits, logits, torch.full_like(logits, -9)], 1)
    three[:, 2, 3:5, 3:5] = 1.0  # a tie of all three classes is class 0 too
    assert (outlier_weight(three, mode="multiclass", **settings) > 0).sum() == 0


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_pixel_with_a_nan_is_of_class_0(broken):
    x = torch.tensor([4.0, 0.0, 0.0]).view(1, 3, 1, 1).repeat(1, 1, 3, 5)
    x[0, broken, 1, 2] = torch.nan
    weight = outlier_weight(x, mode="multiclass", from_logits=True, window=3)
    assert weight.count_nonzero() == 0  # as all of the image is of one class


@pytest.mark.parametrize("settings", [SMALL, {}])
def test_binary_is_multiclass_with_two_classes(settings):
    z = case((29, 31), "binary", 1, batch=2)[0]
    pair = torch.cat([torch.zeros_like(z), z], 1)
    multiclass = outlier_weight(pair, mode="multiclass", from_logits=True, **settings)
    assert torch.equal(outlier_weight(z, from_logits=True, **settings)[:, 0], multiclass)


@pytest.mark.parametrize("window", [(1, 127), (1, 129), (11, 11), (13, 13), (129, 127), 181, 183])
@pytest.mark.parametrize("levels", [(0.5,), tuple(0.1 * t for t in range(1, 9))])
def test_counts_do_not_overflow(window, levels):
    """In windows of just under and over what 8 and 16 bits hold, all of one colour but an island.

    Several levels add up in one integer.
    """
    x = torch.zeros(1, 1, 190, 190)
    x[..., 95, 95] = 1
    sides = references.sides(window, 2)
    for q in (x, 1 - x):
        weight = outlier_weight(q, window=window, max_noise_size=1e9, levels=levels)
        assert torch.equal(weight > 0, x > 0)
        assert float(weight.max()) == pytest.approx(1 - 1 / np.prod(sides))


def test_many_levels_in_volumes_do_not_overflow():
    x = torch.zeros(1, 1, 33, 33, 33)
    x[..., 16, 16, 16] = 1
    levels = [t / 33 for t in range(1, 33)]
    weight = outlier_weight(x, window=31, levels=levels)
    assert torch.equal(weight > 0, x > 0)
    assert float(weight.max()) == pytest.approx(1 - 1 / 31**3)


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [
        (127, torch.int8),
        (128, torch.int16),
        (2**15 - 1, torch.int16),
        (2**15, torch.int32),
        (2**31 - 1, torch.int32),
        (2**31, torch.int64),
    ],
)
def test_the_narrowest_integer_holds_a_count(largest, dtype):
    assert narrowest_integer(largest) == dtype


def test_a_sum_of_signs_widens_no_more_than_it_has_to():
    signs = torch.ones(1, 1, 20, 150, dtype=torch.int8)
    for window, dtype in (((1, 127), torch.int8), ((3, 127), torch.int16), ((11, 11), torch.int8)):
        assert sign_sum(signs, window).dtype == dtype
        assert sign_sum(signs, window).max() == np.prod(window)


@every_mode
def test_the_size_may_be_a_tensor(mode, channels):
    """As an exported program has it, whose input it is."""
    x, _ = case((19, 23), mode, channels, from_logits=False)
    weight = outlier_weight_of(Scores(x, mode, False, None), 7, torch.tensor(4.5), (0.1, 0.5))
    expected = outlier_weight(x, mode=mode, window=7, max_noise_size=4.5, levels=(0.1, 0.5))
    assert torch.equal(weight, expected)
    assert weight.any()


def test_a_large_size_as_a_tensor_does_not_overflow():
    """Twice 100 does not fit the 8 bits that the counts of a window of 7 x 7 take."""
    x = torch.zeros(1, 1, 19, 19)
    x[..., 9, 9] = 1
    weight = outlier_weight_of(Scores(x, "binary", False, None), 7, torch.tensor(100), (0.5,))
    assert torch.equal(weight, outlier_weight(x, window=7, max_noise_size=100, levels=(0.5,)))
    assert weight[0, 0, 9, 9] > 0
