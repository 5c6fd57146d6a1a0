"""The evidence run: rivals as their sources define them, sums by hand, a whole run in small."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from benchmarks.evidence import methods, page, run, scoring, summary
from examples.lgg.standin import write_standin
from gliomaseg_layers.functional import dice_loss

pytestmark = [pytest.mark.filterwarnings(f"ignore:{message}") for message in run.EXPECTED_WARNINGS]


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits of two images, and masks: one with two regions, one with none."""
    mask = torch.zeros(2, 1, 32, 32)
    mask[0, 0, 4:14, 4:14] = mask[0, 0, 20:23, 20:23] = 1
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(mask.shape, generator=generator), mask


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_prefers_the_truth(name: str) -> None:
    logits, mask = scene()
    logits.requires_grad_()
    loss = methods.METHODS[name](logits, mask)
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss.shape == ()
    assert grad.isfinite().all()
    assert grad.any()
    perfect = methods.METHODS[name](20 * mask - 10, mask)
    assert perfect < loss < methods.METHODS[name](10 - 20 * mask, mask)


def test_scnp_takes_the_worst_neighbour_of_the_class() -> None:
    logits, mask = scene()
    found = methods.scnp(logits, mask)[:, 0].numpy()
    for image, row, column in [(0, 4, 4), (0, 8, 9), (0, 3, 3), (0, 0, 0), (1, 31, 16)]:
        near = (slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2))
        white = mask[image, 0, row, column] > 0
        same = logits[image, 0][near][(mask[image, 0][near] > 0) == white]
        assert found[image, row, column] == (same.min() if white else same.max())


def test_component_flag_marks_small_islands_and_holes() -> None:
    white = torch.zeros(2, 1, 30, 30, dtype=torch.bool)
    white[0, 0, 2:5, 2:6] = True  # 12 pixels
    white[1, 0, 2:5, 2:6] = True
    white[1, 0, 5, 6] = True  # joined by its corner: 13
    white[0, 0, 10:25, 10:25] = True
    white[0, 0, 12, 12] = white[0, 0, 13, 13] = False  # two holes: the background joins by edges
    expected = torch.zeros(2, 1, 30, 30)
    expected[0, 0, 2:5, 2:6] = expected[0, 0, 12, 12] = expected[0, 0, 13, 13] = 1
    assert torch.equal(methods.component_flag(white.float() - 0.5, white), expected)


def test_flagged_adds_the_mean_over_what_is_flagged() -> None:
    mask = torch.zeros(1, 1, 40, 40)
    logits = torch.full_like(mask, -9.0)
    logits[..., 5:8, 5:8] = 2.0
    logits[..., 20, 20] = -1.0  # 0.27: white at 0.1, black at 0.3
    costs = F.softplus(torch.tensor([2.0, -1.0]))
    n = 11**2
    island = 9 * (1 - 9 / n) * torch.tensor(1.0)
    dot = (1 - 1 / n) / 2  # at one level of two
    for levels, expected in [
        ((0.5,), costs[0]),
        ((0.1, 0.5), (island * costs[0] + dot * costs[1]) / (island + dot)),
    ]:
        extra = methods.flagged(3.0, levels)(logits, mask) - methods.bce_dice(logits, mask)
        torch.testing.assert_close(extra, 3 * expected)
    empty = torch.full_like(mask, -9.0)
    assert methods.flagged(3.0)(empty, mask) == methods.bce_dice(empty, mask)


def test_boundary_and_blob_and_top_k_by_hand() -> None:
    logits, mask = scene()
    truth = mask[0, 0].numpy() > 0
    signed = ndimage.distance_transform_edt(~truth) - ndimage.distance_transform_edt(truth)
    mean = (logits[0, 0].sigmoid() * torch.tensor(signed)).sum() / mask.numel()
    base = methods.bce_dice(logits, mask)
    torch.testing.assert_close(methods.boundary(logits, mask) - base, (0.01 * mean).float())

    blobs = []
    for area, other in (
        (np.s_[4:14, 4:14], np.s_[20:23, 20:23]),
        (np.s_[20:23, 20:23], np.s_[4:14, 4:14]),
    ):
        one, use = torch.zeros(32, 32), torch.ones(32, 32, dtype=torch.bool)
        one[area], use[other] = 1, False
        z, t = logits[0, 0][use], one[use]
        dice = dice_loss(z.view(1, 1, 1, -1), t.view(1, 1, 1, -1))
        blobs.append(F.binary_cross_entropy_with_logits(z, t) + dice)
    expected = 2 * base + sum(blobs) / 2 / 2  # two regions, two images
    torch.testing.assert_close(methods.blob(logits, mask), expected)

    cost = F.binary_cross_entropy_with_logits(logits, mask, reduction="none").flatten()
    hardest = cost.sort(descending=True).values[:204].mean()
    torch.testing.assert_close(methods.top_k(logits, mask), hardest + dice_loss(logits, mask))


def test_sums_of_a_patient_by_hand() -> None:
    masks, predictions = np.zeros((2, 3, 40, 40), bool)
    masks[0, 5:15, 5:15] = True  # 100 px, half of it found
    predictions[0, 5:10, 5:15] = True
    predictions[0, 30:32, 30:32] = True  # noise
    masks[1, 20:27, 20:27] = True  # 49 px, small, missed
    patients = np.array([7, 7, 9])
    sums = scoring.score_patients(predictions, masks, patients, whole=True)
    assert set(sums) == {"7", "9"}
    dice = 100 / 154
    assert sums["7"] == {
        "slices": 2,
        "tumour_slices": 2,
        "overlap": 50,
        "predicted": 54,
        "true": 149,
        "dice": round(dice, 4),
        "dice_tumour": round(dice, 4),
        "regions": 2,
        "spurious": 1,
        "noise": 1,
        "holes": 0,
        "missed": 1,
        "true_regions": 2,
        "true_small": 1,
        "missed_small": 1,
        "lesion_dice": round((2 / 3 + 0) / 2, 4),
        # The diagonal where nothing was predicted; else the noise, 4 of its 30 pixels at the edges.
        "hd95": round(math.hypot(40, 40) + math.hypot(16, 17), 4),
    }
    assert (sums["9"]["dice"], sums["9"]["lesion_dice"], sums["9"]["hd95"]) == (1, 1, 0)


def test_post_processing() -> None:
    masks = np.zeros((1, 40, 40), bool)
    masks[0, 5:8, 5:9] = True  # 12 px
    masks[0, 20:30, 20:30] = True
    for clean in run.POST_PROCESSING.values():
        cleaned = clean(masks)
        assert cleaned.sum() == 100
        assert cleaned[0, 20:30, 20:30].all()
    assert not run.keep_largest(np.zeros_like(masks)).any()


def test_a_whole_run_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_standin(tmp_path / "data", seed=1)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    for name, steps in (("WARM_STEPS", 2), ("STEPS", 1)):
        monkeypatch.setattr(run, name, steps)
    names = ("BCE + Dice", "BCE twice + Dice")
    for fold in run.FOLDS:
        run.run(tmp_path / "data", fold, 0, names[: 1 if fold else 2])
    first = run.results_file(0, 0)
    before = first.read_text()
    assert run.run(tmp_path / "data", 0, 0, names).endswith("nothing to do")
    assert run.run(tmp_path / "data", 1, 0, names).endswith("done")  # the other method alone
    assert first.read_text() == before
    scores = run.finished(first)
    cleaned = [f"{name}, {post}" for name in names for post in run.POST_PROCESSING]
    assert set(scores) == {*names, *cleaned}
    tested = [set(run.finished(run.results_file(fold, 0))[names[0]]["0.5"]) for fold in run.FOLDS]
    assert sum(map(len, tested)) == len(set.union(*tested)) == 12  # every patient once

    scratch = run.FROM_SCRATCH + names[0]
    run.run(tmp_path / "data", 1, 0, [scratch])
    found = run.finished(run.results_file(1, 0))
    assert set(found) == {*scores, scratch}
    assert found[scratch] != found[names[0]]

    for fold in run.FOLDS[2:]:
        run.run(tmp_path / "data", fold, 0, names)
    stages = {
        "final": (run.FOLDS, [0, 1], names),  # of seed 1 there is nothing yet
        "screen": ([1], [0], (*names, "SCNP")),
        "scratch": ([1], [0], (scratch,)),
    }
    for module in (summary, page):
        monkeypatch.setattr(module, "STAGES", stages)
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    summary.write(stages)
    monkeypatch.setattr(page, "HERE", tmp_path)
    monkeypatch.setattr(page, "RESAMPLES", 20)
    text = "\n".join(page.parts(pd.Series({"BCE + Dice": 3.2})))
    assert "5 of 5 folds: 12 patients" in text
    assert text.count("seeds: 0.") == 3
    assert text.count(" | 3.2 |\n") == 2  # the loss's time, beside the baseline alone
    assert text.endswith(" | 3.2 |")  # and from scratch
    assert all(f"\n| {name} | " in text for name in (*names, *cleaned, scratch))
    assert "SCNP" not in text
    assert (tmp_path / "images" / "final-trade.svg").stat().st_size > 10_000
    # What was screened is summed over the patients of its fold, as in the runs.
    table = pd.read_csv(tmp_path / "results" / "screening.csv", index_col="method")
    overlaps = [sums["overlap"] for sums in found[scratch]["0.5"].values()]
    assert table.loc[scratch, "overlap"] == sum(overlaps)


def test_intervals_are_of_resampled_patients() -> None:
    """One of two patients has all spurious regions: a resample holds it 0, 1 or 2 times."""
    rows = [
        {"method": name, "threshold": at, "seed": 0, "patient": patient}
        | {
            "slices": 10,
            "true_regions": 5,
            "missed": missed,
            "spurious": 0 if patient else spurious,
        }
        for name, spurious in (("BCE + Dice", 6), ("other", 2))
        for at, missed in ((0.3, 0), (0.5, 1), (0.9, 4))
        for patient in (0, 1)
    ]
    sample = page.Bootstrap(pd.DataFrame(rows).set_index(page.INDEX).sort_index())
    values = sample.metric("spurious", "BCE + Dice")
    assert values[0] == 30
    assert set(values) == {0.0, 30.0, 60.0}
    paired = sample.metric("spurious", "other") - values
    assert set(paired) == {0.0, -20.0, -40.0}
    assert np.allclose(sample.above_curve("other"), paired)  # as many missed as at 0.5
    assert page.interval(values) == (30.0, 0.0, 60.0)
