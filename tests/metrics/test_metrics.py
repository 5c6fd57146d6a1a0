"""The torchmetrics classes: over batches, channels, settings, saved states and processes."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.wrappers import Running

from gliomaseg_layers.metrics import (
    LesionWiseScores,
    RegionCounts,
    count_regions,
    lesion_wise_scores,
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
    assert metric.channel == metric.regions == []


def test_a_collection_keeps_metrics_of_other_settings_apart() -> None:
    """Also where all are equal after the first batch, as they are after an empty image."""
    empty, island = torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    island[..., 3:8, 3:8] = 0.7
    metrics = {
        "small": RegionCounts(9),
        "large": RegionCounts(49),
        "certain": RegionCounts(49, threshold=0.9),
        "again": RegionCounts(49),
        "per channel": RegionCounts(49, reduction="mean_batch", ignore_empty=True),
        "lesions": LesionWiseScores(min_size=9),
        "large lesions": LesionWiseScores(min_size=49),
    }
    collection = MetricCollection(copy.deepcopy(metrics))
    for preds, target in ((empty, empty), (island, empty), (empty, island)):
        collection.update(preds, target)
        for metric in metrics.values():
            metric.update(preds, target)
    shared = [group for group in collection.compute_groups.values() if len(group) > 1]
    assert [set(group) for group in shared] == [{"large", "again", "per channel"}]
    found = collection.compute()
    for name, metric in metrics.items():
        for key, expected in metric.compute().items():
            torch.testing.assert_close(found[f"{name}_{key}"], expected, rtol=0, atol=0)
    assert (found["small_noise"], found["large_noise"], found["certain_regions"]) == (0, 1, 0)


@pytest.mark.parametrize("make", [RegionCounts, LesionWiseScores])
def test_a_reset_leaves_a_kept_state_alone(make) -> None:
    """torchmetrics empties the lists of a state, which its wrapper of running windows keeps."""
    metric, running = make(), Running(make(), window=2)
    preds, target = data()
    for image in range(6):
        running.update(preds[image : image + 1], target[image : image + 1])
    metric.update(preds[4:], target[4:])
    expected, state = metric.compute(), metric.metric_state
    assert running.compute() == expected
    before = plain(state)
    metric.reset()
    assert plain(state) == before != plain(metric.metric_state)


def test_predictions_of_any_dtype() -> None:
    preds, target = data()
    expected = RegionCounts()(preds, target)
    for dtype in (torch.bool, torch.uint8, torch.int64):
        assert RegionCounts()((preds > 0.5).to(dtype), target.to(dtype)) == expected
    assert RegionCounts(threshold=0.9)(preds, target) != expected
    assert RegionCounts()(preds.requires_grad_(), target.float()) == expected


@pytest.mark.parametrize(
    ("shape", "spacing"), [((24, 24), None), ((24, 24), (2, 1)), ((8, 12, 12), (3, 1, 1))]
)
def test_lesion_wise_scores_are_the_mean_over_images(shape: tuple[int, ...], spacing) -> None:
    preds, target = data(shape=shape)
    metric = LesionWiseScores(1, 10, spacing=spacing)
    for part in (slice(0, 1), slice(1, 6)):
        metric.update(preds[part], target[part])
    scores = [
        lesion_wise_scores(p.numpy() > 0.5, t.numpy(), dilation=1, min_size=10, spacing=spacing)
        for p, t in zip(preds.flatten(0, 1), target.flatten(0, 1), strict=True)
    ]
    result = metric.compute()
    assert result.pop("images") == 12
    assert tuple(result) == scores[0]._fields
    for name, values in zip(scores[0]._fields, np.transpose(scores), strict=True):
        counted = name in ("found", "missed", "spurious")
        assert float(result[name]) == pytest.approx(values.sum() if counted else values.mean())


@pytest.mark.parametrize(
    "metric", [RegionCounts(), LesionWiseScores()], ids=lambda m: type(m).__name__
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


METRICS = [RegionCounts, LesionWiseScores]


@pytest.mark.parametrize("make", METRICS)
def test_counts_have_no_gradient(make) -> None:
    preds, target = data()
    result = make()(preds.requires_grad_(), target)
    assert not any(value.requires_grad for value in result.values())
    assert not make.is_differentiable


def saved(make) -> tuple[Metric, dict[str, list[Tensor]]]:
    """Return a metric that has seen two batches, and its state."""
    metric = make()
    metric.persistent(True)
    metric.update(*data())
    metric.update(*data(2))
    return metric, metric.state_dict()


def plain(state: dict[str, list[Tensor]]) -> dict[str, list[float]]:
    return {name: [float(x) for part in parts for x in part] for name, parts in state.items()}


@pytest.mark.parametrize("make", METRICS)
def test_a_state_is_loaded_whole(make) -> None:
    metric, state = saved(make)
    again, other = make(), make()
    again.load_state_dict(state)
    other.load_state_dict(state, strict=False)
    assert plain(again.metric_state) == plain(other.metric_state) == plain(metric.metric_state)
    again.update(*data())
    assert again.compute()["images"] == metric.compute()["images"] + 12
    assert plain(other.metric_state) == plain(metric.metric_state)  # lists of their own
    assert plain(state) == plain(saved(make)[1])
    make().load_state_dict({})  # without persistent states there are none


@pytest.mark.parametrize("make", METRICS)
@pytest.mark.parametrize(
    "change",
    [
        lambda column: None,
        lambda column: 3,
        lambda column: column[0].sum(),
        lambda column: [part - 1000 for part in column],
        lambda column: [part[None] for part in column],
        lambda column: [part.to(torch.float16) for part in column],
        lambda column: [part.to(torch.float32) * torch.nan for part in column],
        lambda column: [part[1:] for part in column],
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(make, change) -> None:
    metric, state = saved(make)
    before = plain(metric.metric_state)
    for name in state:
        for strict in (True, False):
            with pytest.raises(RuntimeError, match=r"must be a list of tensors \(n,\) of torch"):
                metric.load_state_dict({**state, name: change(state[name])}, strict=strict)
        assert plain(metric.metric_state) == before
    with pytest.raises(RuntimeError, match="got None"):  # of a version without this figure
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
        (lambda: LesionWiseScores(-1), "dilation"),
        (lambda: LesionWiseScores(min_size=-1), "min_size"),
        (lambda: LesionWiseScores(spacing=(1, -1)), "spacing"),
        (lambda: LesionWiseScores(spacing=np.array([1.0])), "spacing"),
        (lambda: LesionWiseScores(penalty=-1), "penalty"),
        (lambda: LesionWiseScores(threshold=None), "threshold"),
        (lambda: LesionWiseScores(num_classes=1), "num_classes"),
        (lambda: LesionWiseScores(num_classes=2.0), "num_classes"),
        (lambda: RegionCounts(include_background=True), "include_background"),
        (lambda: RegionCounts(reduction="sum"), "reduction"),
        (lambda: RegionCounts(ignore_empty=1), "ignore_empty"),
    ],
)
def test_bad_settings_fail_at_construction(make, name: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"`{name}`"):
        make()


def work(rank: int, folder: str, images: int) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    results = []
    for make in METRICS:
        for reduction in ("mean", "none"):
            metric = make(reduction=reduction)
            preds, target = data(images)
            for part in range(rank, images, 2):
                metric.update(preds[part : part + 1], target[part : part + 1])
            results.append(metric.compute())
            assert len(metric.channel) == len(range(rank, images, 2))  # its own again
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("images", [5, 1])
def test_two_processes_count_as_one(images: int, tmp_path) -> None:
    """Also where one has fewer images, or none. The cases come in the order of the processes."""
    mp.spawn(work, (str(tmp_path), images), nprocs=2)
    preds, target = data(images)
    order = [*range(0, images, 2), *range(1, images, 2)]
    for rank in range(2):
        found = iter(torch.load(tmp_path / f"{rank}.pt"))
        for make in METRICS:
            for reduction in ("mean", "none"):
                whole = make(reduction=reduction)(preds[order], target[order])
                for name, value in next(found).items():
                    torch.testing.assert_close(value, whole[name])
