"""What a metric reads from maps: masks, label maps and scores; per class, per case, in mm."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.utils import one_hot
from scipy import ndimage
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.wrappers import MetricTracker

from gliomaseg_layers.metrics import (
    LesionScores,
    LesionWiseScores,
    RegionCount,
    RegionCounts,
    count_regions,
    lesion_wise_scores,
)

METRICS = [RegionCounts, LesionWiseScores]


def label_maps(shape: tuple[int, ...], count: int = 3, classes: int = 4) -> Tensor:
    """Return label maps of smooth regions."""
    rng = np.random.default_rng(len(shape))
    noise = ndimage.gaussian_filter(rng.random((count, *shape)), (0, *[1.2] * len(shape)))
    levels = np.quantile(noise, np.linspace(0, 1, classes + 1)[1:-1])
    return torch.from_numpy(np.digitize(noise, levels))


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_predictions_and_targets_are_cut_alike(threshold: float) -> None:
    square = np.zeros((40, 40))
    square[10:30, 10:30] = 1
    soft = torch.from_numpy(ndimage.gaussian_filter(square, 3))[None, None]
    hard = (soft > threshold).float()
    for pair in ((soft, soft), (soft, hard), (hard, soft), (soft, hard.bool()), (hard, hard.int())):
        assert LesionWiseScores(threshold=threshold)(*pair)["dice"] == 1
        assert RegionCounts(threshold=threshold)(*pair)["missed"] == 0
    logits = 10 * hard - 5
    assert LesionWiseScores(threshold=2.0)(logits, hard.bool())["dice"] == 1
    with pytest.raises(ValueError, match=r"`target` must be bool or integer with threshold=2.0"):
        LesionWiseScores(threshold=2.0)(logits, hard)


@pytest.mark.parametrize("shape", [(24, 26), (8, 12, 13)])
@pytest.mark.parametrize("make", METRICS)
def test_label_maps_are_read_like_channels(make, shape: tuple[int, ...]) -> None:
    target, preds = label_maps(shape), label_maps(shape).flip(1)
    metric = make(num_classes=4, reduction="none")
    expected = make(reduction="none")(*(one_hot(x[:, None], 4)[:, 1:] for x in (preds, target)))
    forms: list[Any] = [
        lambda x: x,
        lambda x: x[:, None].to(torch.uint8),
        lambda x: x[:, None].float(),
        lambda x: one_hot(x[:, None], 4).bool(),
        lambda x: one_hot(x[:, None], 4) * 9 - 5,  # scores: the largest says the class
        lambda x: one_hot(x[:, None], 4).long(),
    ]
    for read in forms:
        for other in forms:
            if len(shape) == 2 and read is other is forms[-1]:
                continue  # integers of four axes and four channels: refused below
            found = metric(read(preds), other(target))
            assert {name: value.tolist() for name, value in found.items()} == {
                name: value.tolist() for name, value in expected.items()
            }
    everything = make(num_classes=4, include_background=True, reduction="none")(preds, target)
    for name, value in everything.items():
        assert value.shape == (3, 4)
        assert torch.equal(value[:, 1:], expected[name])


@pytest.mark.parametrize("score", [count_regions, lesion_wise_scores])
def test_reductions(score) -> None:
    """The scores of every case are those of the function; the others are their means."""
    make = RegionCounts if score is count_regions else LesionWiseScores
    target, preds = label_maps((24, 26)), label_maps((24, 26)).flip(1)
    target[1] = 0
    settings = {"max_noise_size": 9} if score is count_regions else {"min_size": 9, "dilation": 1}
    fields = (RegionCount if score is count_regions else LesionScores)._fields
    cases = np.array(
        [
            [score(p == c, t == c, spacing=(1, 0.5), **settings) for c in (1, 2, 3)]
            for p, t in zip(preds.numpy(), target.numpy(), strict=True)
        ]
    )
    found = {
        (reduction, ignore): make(
            **settings, num_classes=4, spacing=(1, 0.5), reduction=reduction, ignore_empty=ignore
        )
        for reduction in ("none", "mean_batch", "mean")
        for ignore in (False, True)
    }
    for metric in found.values():
        for image in range(3):
            metric.update(preds[image : image + 1], target[image : image + 1])
    results = {key: metric.compute() for key, metric in found.items()}
    assert [int(results["mean", ignore]["images"]) for ignore in (False, True)] == [9, 6]
    assert results["mean_batch", True]["images"].tolist() == [2, 2, 2]
    for number, name in enumerate(fields):
        values = torch.from_numpy(cases[..., number])
        count = not results["none", False][name].is_floating_point()
        for ignore in (False, True):
            kept = values[[0, 2]] if ignore else values
            every = values.clone()
            if ignore and not count:
                every[1] = torch.nan
            close(results["none", ignore][name], every)
            close(results["mean_batch", ignore][name], kept.sum(0) if count else kept.mean(0))
            close(results["mean", ignore][name], kept.sum() if count else kept.mean())
    assert set(results["none", True]) == set(fields)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(
        found, expected, check_dtype=False, equal_nan=True, rtol=1e-6, atol=1e-6
    )


def test_a_batch_may_have_a_spacing_of_its_own() -> None:
    target = torch.zeros(2, 1, 30, 30)
    target[..., 5:15, 5:15] = 1  # 100 px
    preds = target.roll(2, -1)
    metric = LesionWiseScores(reduction="none", spacing=(1, 1))
    assert metric(preds, target)["hd95"].tolist() == [[2], [2]]
    assert metric(preds, target, spacing=(1, 3))["hd95"].tolist() == [[6], [6]]
    for rows in ([[1, 2], [0.5, 0.5]], torch.tensor([[1, 2], [0.5, 0.5]])):
        result = metric(preds, target, spacing=rows)
        assert result["hd95"].tolist() == [[4], [0]]  # the second lesion has 25 mm^2
        assert result["found"].tolist() == [[1], [0]]
    assert RegionCounts()(preds, 0 * target, spacing=(1, 0.4))["noise"] == 2
    for wrong in ((1, 1, 1), (1, 0), [[1, 1]] * 3, (1, float("nan"))):
        with pytest.raises(ValueError, match="`spacing` must have 2 positive entries"):
            metric.update(preds, target, spacing=wrong)


@pytest.mark.parametrize(
    ("preds", "target", "message"),
    [
        (torch.ones(2, 4, 6, 6).long(), torch.ones(2, 4, 6, 6).int(), "may be 4 channels or vol"),
        (torch.ones(2, 3, 6, 6), torch.ones(2, 6, 6).long(), "`preds` must have 4 channels, or 1"),
        (torch.ones(2, 4, 6, 6), torch.full((2, 6, 6), 4), "`target` must hold classes 0 to 3.*4"),
        (torch.full((2, 1, 6, 6), 0.5), torch.ones(2, 6, 6).int(), "`preds` must hold .* got 0.5"),
        (torch.ones(2, 4, 6, 6), torch.ones(2, 7, 6).long(), "`target` must have the shape of"),
        (torch.ones(2, 4, 6, 6), torch.ones(2, 6, 6, 6).long(), "`target` must have 4 channels"),
        (torch.ones(2, 4, 6, 6), torch.ones(2, 4, 6, 6, 6), "`target` must be .* 2 spatial axes"),
        (torch.ones(6, 6), torch.ones(6, 6), r"`preds` must be a label map \(N, \*spatial\)"),
    ],
)
def test_maps_that_are_no_classes(preds: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LesionWiseScores(num_classes=4).update(preds, target)


@pytest.mark.parametrize("make", METRICS)
@pytest.mark.parametrize("classes", [None, 3])
def test_nan_is_no_score(make, classes: int | None) -> None:
    """Above no threshold and the largest of none, it would be background: a perfect empty image."""
    good = torch.zeros(2, classes or 1, 6, 6)
    bad = good.clone()
    bad[1, 0, 2, 3] = torch.nan
    for name, pair in (("preds", (bad, good)), ("target", (good, bad.half()))):
        metric = make(num_classes=classes)
        with pytest.raises(ValueError, match=f"`{name}` must hold no NaN"):
            metric.update(*pair)


@pytest.mark.parametrize("shape", [(2, 6, 6), (2, 1, 6, 6)])
def test_a_label_map_beside_scores_wants_the_number_of_classes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`target` must have the shape .* label map.*`num_class"):
        RegionCounts().update(torch.rand(2, 3, 6, 6), torch.ones(shape).long())


def test_channels_may_not_change_where_they_are_told_apart() -> None:
    metric, other = RegionCounts(), RegionCounts(reduction="mean_batch")
    for maps in (torch.zeros(1, 2, 5, 5), torch.zeros(1, 3, 5, 5)):
        metric.update(maps, maps)
        other.update(maps, maps)
    assert metric.compute()["images"] == 5
    with pytest.raises(ValueError, match="`preds` must have the same number of channels"):
        other.compute()


@pytest.mark.parametrize("make", METRICS)
@pytest.mark.parametrize("reduction", ["mean", "mean_batch", "none"])
def test_nothing_to_count(make, reduction: str) -> None:
    metric = make(reduction=reduction)
    maps = torch.zeros(0, 2, 5, 5)
    metric.update(maps, maps)
    result = metric.compute()
    if reduction == "none":
        assert all(value.shape[0] == 0 for value in result.values())
    else:
        assert int(result["images"].sum()) == 0


def test_a_tracker_keeps_the_best_of_one_figure() -> None:
    """`metric["dice"]` is torchmetrics' own way to one entry of a dict."""
    tracker = MetricTracker(LesionWiseScores(min_size=0)["dice"], maximize=True)
    names = ("dice", "hd95")
    figures = MetricCollection({name: LesionWiseScores(min_size=0)[name] for name in names})
    several = MetricTracker(figures, maximize=[True, False])
    target = torch.zeros(1, 1, 20, 20)
    target[..., 5:10, 5:10] = 1
    worse = target.clone()
    worse[..., 15, 15] = 1
    for preds in (worse, target, 0 * target):
        for each in (tracker, several):
            each.increment()
            each.update(preds, target)
    assert tracker.best_metric(return_step=True) == (1.0, 1)
    assert tracker.compute_all().tolist() == [0.5, 1, 0]
    assert several.best_metric() == {"dice": 1, "hd95": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for make in METRICS:  # of a dict, some figures are better high and some low
            with pytest.raises(AttributeError, match="does not have a 'higher_is_better'"):
                MetricTracker(make())
