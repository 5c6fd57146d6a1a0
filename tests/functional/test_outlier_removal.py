"""Islands go and holes are filled, as the weight flags them; the rest stays as it was."""

import json

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from gliomaseg_layers.functional import outlier_weight, remove_outlier_regions
from tests.support.cases import as_read, case, every_mode


def squares(*sides: int) -> torch.Tensor:
    """Return a mask of squares far apart from each other."""
    mask = torch.zeros(1, 1, 60, 60 * len(sides), dtype=torch.bool)
    for number, side in enumerate(sides):
        start = 60 * number + 25
        mask[..., 25 : 25 + side, start : start + side] = True
    return mask


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.float64, torch.half])
def test_lone_squares(dtype: torch.dtype) -> None:
    mask = squares(1, 3, 7, 8, 12)
    expected = mask.clone()
    expected[..., :180] = False
    assert torch.equal(remove_outlier_regions(mask.to(dtype)), expected.to(dtype))
    # Holes in white are filled alike.
    assert torch.equal(remove_outlier_regions((~mask).to(dtype)), (~expected).to(dtype))


def test_channels_are_cleaned_by_themselves() -> None:
    masks = [squares(3, 12), squares(12, 3)]
    clean = remove_outlier_regions(torch.cat(masks, 1), mode="multilabel")
    assert torch.equal(clean, torch.cat([remove_outlier_regions(mask) for mask in masks], 1))


def test_far_from_large_regions_it_removes_small_objects() -> None:
    """Where every island lies alone, the result is the one by connected components."""
    rng = np.random.default_rng(7)
    for _ in range(20):
        sides = rng.integers(1, 14, 6)
        mask = squares(*sides.tolist())
        labels, _ = label(mask[0, 0].numpy(force=True), np.ones((3, 3)))
        large = np.bincount(labels.ravel()) > 49
        large[0] = False
        assert np.array_equal(remove_outlier_regions(mask)[0, 0].numpy(force=True), large[labels])


def test_known_limits() -> None:
    near = squares(30)
    near[..., 40, 57] = True  # an island 2 px beside a large region
    assert torch.equal(remove_outlier_regions(near), near)
    line = torch.zeros(1, 1, 60, 60, dtype=torch.bool)
    line[..., 30, :] = True
    assert not remove_outlier_regions(line).any()


@every_mode
def test_exactly_the_flagged_pixels_change_class(mode: str, channels: int) -> None:
    probs, _ = case((37, 41), mode, channels, from_logits=False)
    settings = {"mode": mode, "window": 9, "max_noise_size": 9}
    flagged = outlier_weight(probs, levels=(0.5,), **settings) > 0
    assert flagged.any()
    clean = remove_outlier_regions(probs, **as_read(settings))
    if mode == "multiclass":
        torch.testing.assert_close(clean.sum(1), torch.ones_like(clean[:, 0]))
        assert torch.equal(clean.argmax(1) != probs.argmax(1), flagged)
        runner_up = probs.topk(2, 1).indices[:, 1]
        assert torch.equal(clean.argmax(1)[flagged], runner_up[flagged])
        flagged = flagged.unsqueeze(1).expand_as(probs)
    else:
        assert torch.equal((clean > 0.5) != (probs > 0.5), flagged)
    assert torch.equal(clean[~flagged], probs[~flagged])


def test_a_certain_class_gives_way_to_the_others() -> None:
    classes = squares(3, 9)[:, 0].long() * 2
    probs = torch.nn.functional.one_hot(classes, 3).movedim(-1, 1).float()
    clean = remove_outlier_regions(probs, mode="multiclass")
    torch.testing.assert_close(clean[0, :, 26, 26], torch.tensor([0.5, 0.5, 0.0]))
    assert torch.equal(clean[..., 60:], probs[..., 60:])
    probs[0, :, 26, 26] = torch.tensor([0.3, 0.0, 0.7])
    clean = remove_outlier_regions(probs, mode="multiclass")[0, :, 26, 26]
    torch.testing.assert_close(clean, torch.tensor([1.0, 0.0, 0.0]))
    assert (clean >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_others_share_in_fp32(dtype: torch.dtype) -> None:
    """What is small beside the smallest fp16 numbers keeps its share."""
    probs = torch.zeros(1, 3, 40, 40, dtype=dtype)
    probs[:, 0] = 1
    probs[:, :, 20, 20] = torch.tensor([2e-5, 1e-5, 0.9]).to(dtype)
    expected = probs[:, :, 20, 20].double() * torch.tensor([1.0, 1.0, 0.0])
    clean = remove_outlier_regions(probs, mode="multiclass")[:, :, 20, 20]
    torch.testing.assert_close(
        clean.double(), expected / expected.sum(), rtol=0.0, atol=torch.finfo(dtype).eps
    )


def test_pixels_outside_the_image_stay() -> None:
    mask, valid = squares(3), torch.ones(1, 60, 60, dtype=torch.bool)
    valid[:, 25] = False
    expected = mask.clone()
    expected[..., 26:, :] = False
    assert torch.equal(remove_outlier_regions(mask, valid=valid), expected)


def test_volumes_and_thick_slices() -> None:
    mask = squares(5, 9).unsqueeze(2).repeat(1, 1, 3, 1, 1)
    clean = remove_outlier_regions(mask, window=(1, 21, 21))
    assert torch.equal(clean[:, :, 1], remove_outlier_regions(mask[:, :, 1]))


def test_bad_input() -> None:
    for mode in ("multiclass", json.loads('"multiclass"')):
        with pytest.raises(TypeError, match="`input` must be probabilities in multiclass mode"):
            remove_outlier_regions(torch.zeros(1, 3, 8, 8, dtype=torch.bool), mode=mode)
    with pytest.raises(TypeError, match=r"`input` must have a floating dtype, got torch.complex64"):
        remove_outlier_regions(torch.zeros(1, 1, 8, 8, dtype=torch.cfloat))
    with pytest.raises(TypeError, match=r"`input` must have a floating dtype, got torch.uint8"):
        remove_outlier_regions(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"`input` must be a torch.Tensor, got list"):
        remove_outlier_regions([[1]])
    with pytest.raises(ValueError, match=r"`input` must be \(N, C, H, W\)"):
        remove_outlier_regions(torch.zeros(8, 8, dtype=torch.bool))
