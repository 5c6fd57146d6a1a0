"""Regions counted by hand, and as scikit-image and scipy count them."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import euler_number, label, regionprops

from gliomaseg_layers.metrics import (
    count_regions,
    label_regions,
    lesion_wise_scores,
    region_sizes,
)


def test_count_regions_by_hand() -> None:
    predicted = np.zeros((20, 20), bool)
    truth = np.zeros((20, 20), bool)
    truth[2:5, 2:5] = True
    predicted[4:7, 4:7] = True  # touches the truth with its corner pixel
    predicted[10:17, 10:17] = True  # 49 px, with a hole of one: 48
    predicted[13, 13] = False
    predicted[17, 17] = True  # joined at a corner: 49
    truth[0, 19] = True  # missed
    assert count_regions(predicted, truth) == (2, 1, 1, 1, 1)
    predicted[18, 18] = True  # 50 px: no noise any more
    assert count_regions(predicted, truth) == (2, 1, 0, 1, 1)
    assert count_regions(np.zeros_like(truth), truth) == (0, 0, 0, 0, 2)
    assert count_regions(truth, np.zeros_like(truth)) == (2, 2, 2, 0, 0)
    assert count_regions(truth, truth) == (2, 0, 0, 0, 0)


def test_count_regions_agrees_with_scikit_image() -> None:
    rng = np.random.default_rng(5)
    for density in (0.1, 0.4, 0.6):
        predicted = rng.random((40, 40)) < density
        regions, *_, holes, _ = count_regions(predicted, np.zeros_like(predicted))
        assert regions == label(predicted, connectivity=2).max()
        assert regions - holes == euler_number(predicted, connectivity=2)


def blobs(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return a random mask with regions of many sizes, holes and touching corners."""
    rng = np.random.default_rng(seed)
    coarse = rng.random([-(-side // 3) for side in shape]) < 0.3
    for axis in range(len(shape)):
        coarse = coarse.repeat(3, axis)
    mask = coarse[tuple(slice(side) for side in shape)]
    return mask ^ (rng.random(shape) < 0.03)


@pytest.mark.parametrize("shape", [(41, 37), (13, 17, 11)])
@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_counts_agree_with_the_peers(shape: tuple[int, ...], connectivity: int) -> None:
    if connectivity > len(shape):
        with pytest.raises(ValueError, match="`connectivity` must be 1 to 2, got 3"):
            label_regions(np.zeros(shape), connectivity)
        return
    structure = ndimage.generate_binary_structure(len(shape), connectivity)
    for seed in range(5):
        mask = blobs(shape, seed)
        _, count = label_regions(mask, connectivity)
        assert count == label(mask, connectivity=connectivity).max()
        assert count == ndimage.label(mask, structure)[1]


@pytest.mark.parametrize("order", ["C", "F"])
def test_labels_are_where_the_mask_is(order: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        mask = rng.random(rng.integers(1, 40, 2)) < rng.choice([0.02, 0.3, 0.6])
        labels, count = label_regions(np.asarray(mask, order=order))
        theirs, expected = ndimage.label(mask, np.ones((3, 3)))
        assert np.array_equal(labels > 0, mask)
        pairs = np.unique([labels[mask], theirs[mask]], axis=1)
        assert pairs.shape[1] == count == expected


def test_all_but_zero_is_foreground() -> None:
    mask = np.array([[-1, 0, 255, 0, 0.5]])
    np.testing.assert_array_equal(label_regions(mask)[0], [[1, 0, 2, 0, 3]])


@pytest.mark.parametrize("shape", [(1, 3), (5, 5), (3, 5, 7)])
def test_checkerboards_have_as_many_regions_as_can_be(shape: tuple[int, ...]) -> None:
    board = np.indices(shape).sum(0) % 2 == 0
    labels, count = label_regions(board, connectivity=1)
    assert count == board.sum() == labels.max()
    assert label_regions(board, connectivity=len(shape))[1] == (3 - 1 if shape == (1, 3) else 1)


@pytest.mark.parametrize("shape", [(41, 37), (13, 17, 11)])
def test_count_against_a_slow_definition(shape: tuple[int, ...]) -> None:
    for seed in range(5):
        predicted, truth = blobs(shape, seed), blobs(shape, seed + 100)
        truth[truth.shape[0] // 2 :] = False
        regions = regionprops(label(predicted, connectivity=2), truth.astype(float))
        spurious = [region for region in regions if region.image_intensity.sum() == 0]
        lesions = regionprops(label(truth, connectivity=2), predicted.astype(float))
        background = label(np.pad(~predicted, 1, constant_values=True), connectivity=1)
        expected = (
            len(regions),
            len(spurious),
            sum(region.area <= 20 for region in spurious),
            background.max() - 1,
            sum(lesion.image_intensity.sum() == 0 for lesion in lesions),
        )
        found = count_regions(predicted, truth, max_noise_size=20)
        assert found == expected
        assert all(value > 0 for value in found[:3] + found[4:])


def test_holes_are_connected_the_other_way_round() -> None:
    ring = np.zeros((5, 5), bool)
    ring[[1, 2, 2, 3], [2, 1, 3, 2]] = True  # a diamond, joined at its corners
    none = np.zeros_like(ring)
    assert count_regions(ring, none, connectivity=2)[::3] == (1, 1)
    assert count_regions(ring, none, connectivity=1)[::3] == (4, 0)
    open_ring = ring[:, 2:]  # its gap lies at the border
    assert count_regions(open_ring, none[:, 2:], connectivity=2).holes == 0


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 3, 3), (1, 1), (1, 1, 1)])
def test_images_of_no_or_one_pixel(shape: tuple[int, ...]) -> None:
    pixels = int(np.prod(shape))
    assert count_regions(np.ones(shape), np.zeros(shape)) == (pixels, pixels, pixels, 0, 0)
    assert label_regions(np.ones(shape))[0].dtype == np.int32
    assert region_sizes([np.ones(shape)]).areas.sum() == pixels


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("connectivity", [1, 2])
def test_a_volume_of_one_slice_is_a_plane(axis: int, connectivity: int) -> None:
    """Masks ``(N, 1, H, W)`` come as such volumes."""
    for seed in range(5):
        mask, truth = ~blobs((23, 21), seed), blobs((23, 21), seed + 100)
        counts = count_regions(mask, truth, connectivity=connectivity)
        assert counts.holes > 0
        volumes = (np.expand_dims(plane, axis) for plane in (mask, truth))
        assert count_regions(*volumes, connectivity=connectivity) == counts
        sizes, flat = (region_sizes([m]) for m in (np.expand_dims(mask, axis), mask))
        np.testing.assert_array_equal(sizes.hole_areas, flat.hole_areas)
        np.testing.assert_array_equal(np.delete(sizes.hole_boxes, axis, 1), flat.hole_boxes)


def test_nan_is_neither_foreground_nor_background() -> None:
    mask = np.zeros((5, 5), np.float16)
    mask[2, 2] = np.nan
    with pytest.raises(ValueError, match="`prediction` must hold no NaN"):
        count_regions(mask, np.zeros((5, 5)))
    with pytest.raises(ValueError, match="`target` must hold no NaN"):
        lesion_wise_scores(np.zeros((5, 5)), mask)
    with pytest.raises(ValueError, match=r"`masks\[1\]` must hold no NaN"):
        region_sizes([np.zeros((5, 5)), mask])


@pytest.mark.parametrize("connectivity", [1, 3])
def test_holes_agree_with_scipy(connectivity: int) -> None:
    structure = ndimage.generate_binary_structure(3, 3 if connectivity == 1 else 1)
    for seed in range(5):
        mask = blobs((13, 17, 11), seed)
        closed = ndimage.binary_fill_holes(mask, structure) & ~mask
        holes = count_regions(mask, mask, connectivity=connectivity).holes
        assert holes == ndimage.label(closed, structure)[1]
        sizes = region_sizes([mask], connectivity=connectivity).hole_areas
        assert len(sizes) == holes
        assert sizes.sum() == closed.sum()


def test_a_region_on_two_targets_misses_neither() -> None:
    truth = np.zeros((5, 12), bool)
    truth[2, 1:4] = truth[2, 8:11] = True
    predicted = np.zeros_like(truth)
    predicted[2, 3:9] = True
    assert count_regions(predicted, truth) == (1, 0, 0, 0, 0)


def test_noise_ends_at_its_limit_in_pixels_or_millimetres() -> None:
    predicted = np.zeros((12, 12))
    predicted[2:9, 2:9] = 1  # 49 px
    none = np.zeros_like(predicted)
    assert count_regions(predicted, none).noise == 1
    assert count_regions(predicted, none, max_noise_size=48).noise == 0
    assert count_regions(predicted, none, max_noise_size=49, spacing=(1, 2)).noise == 0
    assert count_regions(predicted, none, max_noise_size=98, spacing=(1, 2)).noise == 1
    volume, empty = predicted[None].repeat(2, 0), none[None].repeat(2, 0)
    assert count_regions(volume, empty, max_noise_size=49, spacing=(1, 0.5, 1)).noise == 1


def test_region_sizes_by_hand() -> None:
    ring = np.zeros((9, 11), bool)
    ring[1:6, 2:9] = True
    ring[3, 4:6] = False
    dot = np.zeros((4, 4), bool)
    dot[3, 3] = True
    sizes = region_sizes(mask for mask in (ring, np.zeros((3, 3)), dot))
    assert sizes.areas.tolist() == [33, 1]
    assert sizes.boxes.tolist() == [[5, 7], [1, 1]]
    assert sizes.hole_areas.tolist() == [2]
    assert sizes.hole_boxes.tolist() == [[1, 2]]
    empty = region_sizes([np.zeros((3, 3, 3))])
    assert empty.boxes.shape == empty.hole_boxes.shape == (0, 3)
    assert region_sizes([]).areas.tolist() == []
    assert region_sizes([np.eye(3)]).areas.tolist() == [3]  # joined by corners


def test_suggested_windows_leave_true_regions_alone() -> None:
    squares = [np.pad(np.ones((side, side)), 1) for side in range(2, 102)]
    sizes = region_sizes(squares)
    inner, outer = sizes.suggest_windows(0.04)
    assert (inner, outer) == (5, 15)
    assert np.mean(sizes.boxes.max(1) <= inner) <= 0.04 < np.mean(sizes.boxes.max(1) <= inner + 2)
    assert region_sizes([]).suggest_windows() == (3, 9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: count_regions(np.ones((3, 3)), np.ones((3, 4))),
            r"`target` .*\(3, 3\), got \(3, 4\)",
        ),
        (lambda: count_regions(np.ones(3), np.ones(3)), r"`prediction` must be \(H, W\).*\(3,\)"),
        (lambda: label_regions(np.ones((3, 3)), 0), "`connectivity` must be 1 to 2, got 0"),
        (
            lambda: count_regions(np.ones((3, 3)), np.ones((3, 3)), spacing=(1, 1, 1)),
            r"`spacing` must have 2 positive entries, got \(1, 1, 1\)",
        ),
        (
            lambda: count_regions(np.ones((3, 3)), np.ones((3, 3)), max_noise_size=-1),
            "`max_noise_size` must be finite and >= 0, in fp32 too, got -1",
        ),
        (lambda: region_sizes([]).suggest_windows(1.0), "`part` must be .* below 1, got 1.0"),
        (lambda: region_sizes([]).suggest_windows(-0.1), "`part` must be at least 0 .* got -0.1"),
        (
            lambda: region_sizes([np.ones((3, 3)), np.ones((3, 3, 3))]),
            r"`masks\[1\]` must have 2 axes, got shape \(3, 3, 3\)",
        ),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
