"""What the runs of the evidence are summed up to: savings at equal misses, places, tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.evidence import gradients, islands, methods, page, summary
from benchmarks.evidence.methods import BASELINE
from benchmarks.evidence.scoring import HALF, MEASURES, THRESHOLDS

GROUPS = 6


def sums(spurious: float, missed: float) -> np.ndarray:
    """Return sums of groups of 10 images and 10 true regions: islands fall, and misses rise."""
    found = np.zeros((GROUPS, len(THRESHOLDS), 2, len(MEASURES)))
    steps = np.arange(len(THRESHOLDS))[:, None]
    values = {
        "images": 10,
        "true": 10,
        "true_small": 2,
        "spurious": spurious * (20 - steps),
        "holes": spurious,
        "missed": missed + 0.5 * (steps - HALF),
        "dice": 8,
        "dice_of": 10,
    }
    for name, value in values.items():
        found[..., MEASURES.index(name)] = value
    return found


def test_a_curve_is_read_at_equal_misses() -> None:
    islands, missed = np.array([9.0, 7, 5, 3]), np.array([0.0, 1, 1, 2])
    assert summary.at_misses(islands, missed, 1) == 5
    assert summary.at_misses(islands, missed, 1.5) == 4
    assert summary.at_misses(islands, missed, 0.5) == 7
    assert summary.at_misses(islands, missed, 9) == 3  # no threshold misses as many


def test_half_the_islands_at_equal_misses_are_half_saved() -> None:
    base, half = sums(2, 4).sum(0), sums(1, 4).sum(0)
    left = 100 * 2 * (20 - HALF + 1) / 10
    assert summary.saved(base, base, 1) == pytest.approx((0, left))
    assert summary.saved(half, base, 1) == pytest.approx((left / 2, left))
    # One step more timid: as many islands, at half a miss more, are no gain.
    shifted = sums(2, 4.5).sum(0)
    assert summary.saved(shifted, base, 1)[0] == pytest.approx(-100 * 2 / 10)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write two folds of two methods, a part that was killed, and sum them up."""
    monkeypatch.setattr(summary, "RUNS", tmp_path)
    monkeypatch.setattr(summary, "RESULTS", tmp_path)
    monkeypatch.setattr(summary, "DRAWS", 20)
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    for job in summary.JOBS[:2]:
        home = tmp_path / "lgg" / str(job)
        home.mkdir(parents=True)
        np.save(home / "SCNP.part.npy", sums(0, 0))
        np.save(home / f"{BASELINE}.npy", sums(2 if job == summary.JOBS[1] else 8, 4))
    np.save(tmp_path / "lgg" / str(summary.JOBS[1]) / "SCNP.npy", sums(1, 4))
    summary.main(["lgg"])
    return tmp_path


def test_savings_say_what_they_are_of(written: Path) -> None:
    savings = pd.read_csv(written / "lgg-savings.csv").set_index(["method", "mask"])
    assert set(savings.index.unique("method")) == {BASELINE, "SCNP"}
    found = savings.loc[("SCNP", "cleaned")]
    assert (found["jobs"], found["groups"]) == (1, GROUPS)
    assert found["part"] == pytest.approx(0.5)
    assert found["part_low"] <= 0.5 <= found["part_high"]
    assert savings.loc[(BASELINE, "cleaned"), "jobs"] == 2
    assert savings.loc[(BASELINE, "cleaned"), "saved"] == 0


def test_the_page_has_every_method(written: Path) -> None:
    assert "| SCNP | 50 (50 to 50) [1] |" in page.saved_table(page.read("savings"))
    curves, savings = (page.read(kind)["lgg"] for kind in ("curves", "savings"))
    table = page.set_table("lgg", curves, savings)
    assert table.count("| cleaned |") == table.count("| as predicted |") == 2
    assert "| 0.8 |" in table


def test_islands_are_counted_where_they_lie() -> None:
    truth = np.zeros((3, 40, 40), bool)
    truth[0, 10:20, 10:20] = truth[1, 10:20, 10:20] = True
    masks = truth.copy()
    masks[0, 23, 12] = True  # beside the true region
    masks[0, 30:36, 30:36] = True  # elsewhere
    masks[2, 5, 5] = masks[2, 9, 9] = True  # in an image without foreground
    assert islands.places(masks, truth, 4) == {
        "in images without foreground": 2,
        "beside true regions": 1,
        "elsewhere": 1,
        "small": 3,
        "all": 4,
    }


def test_lesions_near_each_other_are_one() -> None:
    truth = np.zeros((3, 20, 20), bool)
    truth[0, 2:5, 2:5] = truth[0, 2:5, 8:11] = truth[0, 14:18, 14:18] = True
    masks = np.zeros_like(truth)
    masks[0, 2:5, 2:5] = True
    masks[1, 5:9, 5:9] = masks[1, 15, 15] = True  # the single pixel is cleaned away
    found = islands.lesions(masks, truth, 4)
    assert found == {"lesions": 1, "lesions missed": 1, "lesions spurious": 1}
    table = pd.DataFrame([{"method": "a"} | found, {"method": "b"} | found | {"lesions": 0}])
    assert "| a | 0.500 |" in page.lesion_table({"lgg": table})


def test_pixels_are_islands_holes_or_borders_and_none_is_two() -> None:
    labels = np.zeros((2, 30, 30), np.uint8)
    labels[0, 5:20, 5:20] = 1
    found = labels.copy()
    found[0, 12, 12] = 0  # a hole
    found[0, 26:28, 26:28] = 2  # an island
    found[1, 3, 3] = 1  # another, where nothing is true
    places = gradients.wheres(found, labels)
    assert {name: int(where.sum()) for name, where in places.items()} == {
        "islands": 5,
        "holes": 1,
        "borders": 19**2 - 11**2,
    }
    assert sum(where.astype(int) for where in places.values()).max() == 1


def test_places_and_gradients_are_tables_of_the_main_methods() -> None:
    counts = dict.fromkeys(page.PLACES, 3)
    rows = [{"method": name, "images": 200} | counts for name in (*methods.MAIN, "another")]
    table = page.place_table({"lgg": pd.DataFrame(rows)})
    assert f"| LGG | elsewhere | {' | '.join(['1.5'] * len(methods.MAIN))} |" in table
    assert "another" not in table
    looks = [{"method": "SCNP", "step": step} | dict.fromkeys(page.SEEN, step) for step in (0, 3)]
    assert "| LGG | SCNP | 1.5 | 1.5 |" in page.gradient_table({"lgg": pd.DataFrame(looks)})
