"""The torchmetrics classes: over batches, channels and processes; BraTS's score by hand."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from gliomaseg_layers.metrics import (
    LesionWiseDice,
    RegionCounts,
    count_regions,
    lesion_wise_dice,
)


def data(count: int = 6, shape: tuple[int, ...] = (24, 24)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    size = [-(-side // 4) for side in shape]
    coarse = torch.rand(2, count, 2, *size, generator=generator)
    for axis in range(len(shape)):
        coarse = coarse.repeat_interleave(4, dim=3 + axis)
    preds, target = coarse[(..., *(slice(side) for side in shape))]
    return preds, target > 0.7


@pytest.mark.parametrize("shape", [(24, 24), (8, 12, 12)])
def test_region_counts_are_the_sum_over_images(shape: tuple[int, ...]) -> None:
    preds, target = data(shape=shape)
    metric = RegionCounts(20)
    for part in (slice(0, 4), slice(4, 6)):
        metric.update(preds[part], target[part])
    pairs = zip(preds.flatten(0, 1) > 0.5, target.flatten(0, 1), strict=True)
    counts = [count_regions(p.numpy(), t.numpy(), max_noise_size=20) for p, t in pairs]
    result = metric.compute()
    assert result["images"] == 12
    for name, values in zip(counts[0]._fields, np.transpose(counts), strict=True):
        assert result[name] == values.sum()
        assert float(result[f"{name}_per_image"]) == pytest.approx(values.mean())
    assert set(result) == {"images", *counts[0]._fields} | {
        f"{n}_per_image" for n in counts[0]._fields
    }
    metric.reset()
    assert metric.images == metric.regions == 0


def test_a_collection_keeps_metrics_of_other_settings_apart() -> None:
    """Also where all are equal after the first batch, as they are after an empty image."""
    empty, island = torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    island[..., 3:8, 3:8] = 0.7
    metrics = {
        "small": RegionCounts(9),
        "large": RegionCounts(49),
        "certain": RegionCounts(49, threshold=0.9),
        "again": RegionCounts(49),
        "lesions": LesionWiseDice(min_size=9),
        "large lesions": LesionWiseDice(min_size=49),
    }
    collection = MetricCollection(copy.deepcopy(metrics))
    for preds, target in ((empty, empty), (island, empty), (empty, island)):
        collection.update(preds, target)
        for metric in metrics.values():
            metric.update(preds, target)
    shared = [group for group in collection.compute_groups.values() if len(group) > 1]
    assert [set(group) for group in shared] == [{"large", "again"}]
    found = collection.compute()
    for name, metric in metrics.items():
        for key, expected in metric.compute().items():
            assert found[f"{name}_{key}"] == expected, (name, key)
    assert (found["small_noise"], found["large_noise"], found["certain_regions"]) == (0, 1, 0)


def test_predictions_of_any_dtype() -> None:
    preds, target = data()
    expected = RegionCounts()(preds, target)
    for dtype in (torch.bool, torch.uint8, torch.int64):
        assert RegionCounts()((preds > 0.5).to(dtype), target.to(dtype)) == expected
    assert RegionCounts(threshold=0.9)(preds, target) != expected
    assert RegionCounts()(preds.requires_grad_(), target.float()) == expected


def square(image: np.ndarray, row: int, column: int, side: int) -> None:
    image[row : row + side, column : column + side] = 1


def test_lesion_wise_dice_by_hand() -> None:
    truth, predicted = np.zeros((60, 80)), np.zeros((60, 80))
    square(truth, 5, 5, 10)  # found with Dice 2 * 50 / (100 + 50)
    square(predicted, 5, 5, 10)
    predicted[10:15, 5:15] = 0
    square(truth, 40, 5, 10)  # missed
    square(truth, 5, 40, 4)  # 16 px: left out, and what finds it is not spurious
    square(predicted, 5, 40, 4)
    square(truth, 30, 40, 10)  # two parts 5 px apart: one lesion of 200 px
    square(truth, 30, 55, 10)
    square(predicted, 30, 40, 10)  # Dice 2 * 100 / (200 + 100)
    square(predicted, 50, 70, 2)  # spurious
    score = lesion_wise_dice(predicted, truth)
    assert score.dice == pytest.approx((2 / 3 + 0 + 2 / 3) / 4)
    assert score[1:] == (2, 1, 1)
    apart = lesion_wise_dice(predicted, truth, dilation=1)
    assert apart.dice == pytest.approx((2 / 3 + 0 + 1 + 0) / 5)
    assert apart[1:] == (2, 2, 1)
    counted = lesion_wise_dice(predicted, truth, min_size=15)
    assert counted.dice == pytest.approx((2 / 3 + 0 + 2 / 3 + 1) / 5)
    assert lesion_wise_dice(predicted, truth, min_size=16) == score  # at most so many go
    in_mm = lesion_wise_dice(predicted, truth, min_size=50, spacing=(2, 2))
    assert in_mm == counted


def test_lesion_wise_dice_of_nothing() -> None:
    none, some = np.zeros((9, 9, 9)), np.ones((9, 9, 9))
    assert lesion_wise_dice(none, none) == (1.0, 0, 0, 0)
    assert lesion_wise_dice(some, none) == (0.0, 0, 0, 1)
    assert lesion_wise_dice(none, some) == (0.0, 0, 1, 0)
    assert lesion_wise_dice(some, some) == (1.0, 1, 0, 0)


def test_a_near_region_finds_a_lesion_that_it_does_not_touch() -> None:
    truth, predicted = np.zeros((30, 30)), np.zeros((30, 30))
    square(truth, 5, 5, 10)
    square(predicted, 5, 17, 5)  # 2 px beside it: its own, with Dice 0
    assert lesion_wise_dice(predicted, truth) == (0.0, 1, 0, 0)
    assert lesion_wise_dice(predicted, truth, dilation=0) == (0.0, 0, 1, 1)


@pytest.mark.parametrize(
    ("shape", "spacing"), [((24, 24), None), ((24, 24), (2, 1)), ((8, 12, 12), (3, 1, 1))]
)
def test_lesion_wise_dice_over_a_data_set(shape: tuple[int, ...], spacing) -> None:
    preds, target = data(shape=shape)
    metric = LesionWiseDice(1, 10, spacing=spacing)
    for part in (slice(0, 1), slice(1, 6)):
        metric.update(preds[part], target[part])
    scores = [
        lesion_wise_dice(p.numpy() > 0.5, t.numpy(), dilation=1, min_size=10, spacing=spacing)
        for p, t in zip(preds.flatten(0, 1), target.flatten(0, 1), strict=True)
    ]
    result = metric.compute()
    assert float(result["dice"]) == pytest.approx(np.mean([score.dice for score in scores]))
    assert result["images"] == 12
    for name in ("found", "missed", "spurious"):
        assert result[name] == sum(getattr(score, name) for score in scores)


@pytest.mark.parametrize(
    "metric", [RegionCounts(), LesionWiseDice()], ids=lambda m: type(m).__name__
)
def test_bad_maps_and_copies(metric) -> None:
    with pytest.raises(TypeError, match=r"`preds` must be a torch.Tensor, got ndarray"):
        metric.update(np.ones((1, 1, 3, 3)), torch.ones(1, 1, 3, 3))
    with pytest.raises(ValueError, match=r"`preds` must be \(N, C, H, W\).*got shape \(3, 3\)"):
        metric.update(torch.ones(3, 3), torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"`target` must have the shape of `preds`"):
        metric.update(torch.ones(1, 1, 3, 3), torch.ones(1, 3, 3))
    with pytest.raises(ValueError, match=r"`target` must have the shape of `preds`"):
        metric.update(torch.ones(1, 2, 3, 3), torch.ones(1, 1, 3, 3))
    preds, target = data()
    again = pickle.loads(pickle.dumps(metric))
    assert again(preds, target) == metric(preds, target)


METRICS = [RegionCounts, LesionWiseDice]


@pytest.mark.parametrize("make", METRICS)
def test_counts_have_no_gradient(make) -> None:
    preds, target = data()
    result = make()(preds.requires_grad_(), target)
    assert not any(value.requires_grad for value in result.values())
    assert not make.is_differentiable


def saved(make) -> tuple[Metric, dict[str, Tensor]]:
    """Return a metric that has seen images, and its state."""
    metric = make()
    metric.persistent(True)
    metric.update(*data())
    return metric, metric.state_dict()


@pytest.mark.parametrize("make", METRICS)
def test_a_state_is_loaded_whole(make) -> None:
    metric, state = saved(make)
    again, other = make(), make()
    again.load_state_dict(state)
    other.load_state_dict(state, strict=False)
    assert again.metric_state == other.metric_state == metric.metric_state
    again.update(*data())
    assert again.images == 2 * metric.images
    assert other.metric_state == metric.metric_state  # copies
    assert {name: metric.metric_state[name] for name in state} == state
    make().load_state_dict({})  # without persistent states there are none


@pytest.mark.parametrize("make", METRICS)
@pytest.mark.parametrize(
    "change",
    [
        lambda total: None,
        lambda total: 3,
        lambda total: "3",
        lambda total: -total - 1,
        lambda total: total.expand(2),
        lambda total: total.to(torch.float32),
        lambda total: total.to(torch.float64) * torch.nan,
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(make, change) -> None:
    metric, state = saved(make)
    before = dict(metric.metric_state)
    for name in state:
        for strict in (True, False):
            with pytest.raises(RuntimeError, match=f"`{name}` must be a finite scalar of torch"):
                metric.load_state_dict({**state, name: change(state[name])}, strict=strict)
        assert metric.metric_state == before
    with pytest.raises(RuntimeError, match="got None"):  # of a version without this count
        metric.load_state_dict(dict(list(state.items())[:-1]))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: RegionCounts(-1), "max_noise_size"),
        (lambda: RegionCounts(connectivity=4), "connectivity"),
        (lambda: RegionCounts(spacing=(1, 0)), "spacing"),
        (lambda: RegionCounts(spacing=(1, 1, 1, 1)), "spacing"),
        (lambda: RegionCounts(spacing=1.0), "spacing"),
        (lambda: RegionCounts(threshold="half"), "threshold"),
        (lambda: LesionWiseDice(-1), "dilation"),
        (lambda: LesionWiseDice(min_size=-1), "min_size"),
        (lambda: LesionWiseDice(spacing=(1, -1)), "spacing"),
        (lambda: LesionWiseDice(spacing=np.array([1.0])), "spacing"),
        (lambda: LesionWiseDice(threshold=None), "threshold"),
    ],
)
def test_bad_settings_fail_at_construction(make, name: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"`{name}`"):
        make()


def work(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    preds, target = data()
    results = []
    for metric in (RegionCounts(), LesionWiseDice(1, 10)):
        metric.update(preds[rank::2], target[rank::2])
        results.append({name: float(value) for name, value in metric.compute().items()})
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_count_as_one(tmp_path) -> None:
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    preds, target = data()
    for rank in range(2):
        for metric, found in zip(
            (RegionCounts(), LesionWiseDice(1, 10)),
            torch.load(tmp_path / f"{rank}.pt"),
            strict=True,
        ):
            whole = metric(preds, target)
            assert found == pytest.approx({name: float(value) for name, value in whole.items()})
