"""The recipes' scores against hand counts and slow definitions."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import binary_erosion
from scipy.stats import ttest_rel
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from examples.lgg.data import DataError
from examples.recipes import evaluation
from examples.recipes.checkpoints import WholeFiles
from examples.recipes.evaluation import by_size, compare, evaluate, hausdorff, importance, overlaps
from examples.recipes.outputs import Output
from examples.recipes.report import dice_within
from examples.recipes.settings import read_recipe
from examples.recipes.sources import POSITION, Item, LggSource, encode_attributes
from examples.saving.whole_files import write_whole

MONAIS_OWN = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")


class Toy:
    """Two cases of a few slices; a source and, by what it predicts, a system too."""

    channels = 1
    classes = 4
    settings = {"batch_size": 2, "data": "brats"}  # noqa: RUF012
    device = torch.device("cpu")
    regions = {"whole": [1, 2, 3], "core": [1, 3]}  # noqa: RUF012
    output = Output("multiclass", 4, [])
    spacing = (3.0, 1.0, 1.0)

    def __init__(self, labels: Tensor, predicted: Tensor, columns: list[str]) -> None:
        self.labels, self.columns = labels, columns
        self.logits = 10.0 * torch.nn.functional.one_hot(predicted, 4).movedim(-1, 1)
        self.known = torch.zeros(len(labels), len(columns))
        self.items = [Item("ab"[i // 3], i % 3) for i in range(len(labels))]
        self.tumour_part = dict.fromkeys(self.items, 0.5)

    def read(self, item: Item) -> tuple[Tensor, Tensor, Tensor]:
        index = self.items.index(item)
        image = torch.full((1, *self.labels.shape[1:]), float(index))
        return image, self.labels[index], self.known[index]

    def probabilities(self, images: Tensor, attributes: Tensor) -> Tensor:
        return self.logits[images[:, 0, 0, 0].long()].softmax(1)


@pytest.fixture
def toy() -> Toy:
    labels, predicted = torch.zeros(2, 6, 12, 12, dtype=torch.long)
    labels[0:2, 2:6, 2:6] = 2
    labels[1, 3:5, 3:5] = 3
    predicted[0:2, 2:6, 3:7] = 2
    predicted[1, 3:5, 3:5] = 1
    predicted[5, 0, 0] = 2  # the second case has no tumour
    return Toy(labels, predicted, [])


@MONAIS_OWN
def test_cases_are_scored_by_region(toy: Toy) -> None:
    result = evaluate(toy, toy, toy.items)
    rows = pd.DataFrame(result["cases"]).set_index(["case", "region"])
    found, true = (toy.logits[:3].argmax(1) > 0), toy.labels[:3] > 0
    both = int((found & true).sum())
    whole = rows.loc[("a", "whole")]
    assert whole["dice"] == pytest.approx(2 * both / int(found.sum() + true.sum()))
    assert whole["iou"] == pytest.approx(both / int((found | true).sum()))
    assert whole["precision"] == pytest.approx(both / int(found.sum()))
    assert whole["recall"] == pytest.approx(both / int(true.sum()))
    assert whole["hd95"] == pytest.approx(surface_distance(found, true, toy.spacing))
    # 1 and 3 both belong to the core.
    assert rows.loc[("a", "core"), "dice"] == 1
    assert rows.loc[("a", "core"), "hd95"] == 0
    assert rows.loc[("b", "core"), "dice"] == 1
    assert rows.loc[("b", "whole"), "dice"] == 0
    assert rows.loc[("b", "whole"), "hd95"] == pytest.approx(math.hypot(9, 12, 12))
    assert result["roc"]["core"]["area"] == pytest.approx(1)
    smoothed = pd.DataFrame(result["smoothed"])
    assert list(smoothed["tumour"]) == [1, 1, 0, 0, 0, 0]
    per_slice = [(2 * 12 + 1) / (16 + 16 + 1)] * 2 + [1, 1, 1, 1 / 2]
    assert smoothed["dice"].tolist() == pytest.approx(per_slice)


@MONAIS_OWN
def test_islands_are_counted_per_slice(toy: Toy) -> None:
    true, found = torch.zeros(2, 2, 9, 9, dtype=torch.bool)
    true[0, 1:6, 1:6] = found[0, 1:6, 1:6] = True
    found[0, 3, 3] = False  # a hole
    found[0, 8, 0] = found[0, 0, 8] = True
    true[1, 8, 8] = True  # missed
    assert evaluation.islands(found, true) == {"spurious": 1, "holes": 0.5, "missed": 0.5}
    rows = pd.DataFrame(evaluate(toy, toy, toy.items)["cases"]).set_index(["case", "region"])
    assert rows.loc[("b", "whole"), "spurious"] == 1 / 3


def test_the_curve_of_counts_is_that_of_the_pixels() -> None:
    probs, true = torch.rand(3, 20, 20), torch.rand(3, 20, 20) > 0.7
    probs = (probs + 0.3 * true).clamp(max=1.0).mul(1000).round() / 1000
    curve = evaluation._curve(sum(map(evaluation._levels, probs, true)))
    area = binary_auroc(probs.flatten(), true.flatten().int())
    assert curve["area"] == pytest.approx(float(area), abs=1e-6)
    assert [curve[name][end] for end in (0, -1) for name in ("false", "true")] == [0, 0, 1, 1]
    nothing = evaluation._curve(evaluation._levels(probs, true & False))
    assert math.isnan(nothing["area"])


@MONAIS_OWN
def test_no_distance_across_missing_slices(toy: Toy) -> None:
    result = evaluate(toy, toy, [toy.items[0], toy.items[2]])
    assert all(math.isnan(row["hd95"]) for row in result["cases"])


def surface_distance(one: Tensor, two: Tensor, spacing: tuple[float, ...]) -> float:
    """The definition: the larger of the 95 % quantiles of the distances from edge to edge."""
    edges = []
    for mask in (one.numpy(), two.numpy()):
        edges.append(np.argwhere(mask & ~binary_erosion(mask)) * np.array(spacing))
    distances = np.linalg.norm(edges[0][:, None] - edges[1][None], axis=-1)
    return max(np.quantile(distances.min(axis), 0.95) for axis in (0, 1))


@MONAIS_OWN
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.5, 0.7)])
def test_hausdorff_is_in_mm(spacing: tuple[float, ...]) -> None:
    one, two = torch.zeros(2, 6, 20, 20, dtype=torch.bool)
    one[1:4, 3:12, 4:9] = True
    two[2:5, 5:16, 4:11] = True
    expected = surface_distance(one, two, spacing)
    assert hausdorff(one, two, spacing) == pytest.approx(expected)
    # Without a spacing every slice with tumour counts by itself.
    slices = [
        surface_distance(one[i], two[i], (1.0, 1.0)) if one[i].any() else math.hypot(20, 20)
        for i in (2, 3, 4)
    ]
    assert hausdorff(one, two, None) == pytest.approx(np.mean(slices))
    assert math.isnan(hausdorff(one, torch.zeros_like(two), None))


def test_nothing_found_of_nothing_is_perfect() -> None:
    nothing, something = torch.zeros(4, 4), torch.ones(4, 4)
    assert set(overlaps(nothing, nothing).values()) == {1.0}
    assert overlaps(nothing, something) == {"dice": 0, "iou": 0, "precision": 1, "recall": 0}


def test_sizes_are_diameters(toy: Toy) -> None:
    whole = toy.labels > 0
    items = [Item("a", number) for number in range(len(whole))]
    rows = evaluation._slice_rows(items, "whole", whole, whole, (3.0, 2.0, 2.0))
    slices = pd.DataFrame(rows)
    assert slices["slice"].tolist() == [n for n in range(len(whole)) if whole[n].any()]
    # 16 pixels of 4 square mm.
    assert slices["diameter"].tolist() == pytest.approx([2 * math.sqrt(64 / math.pi)] * 2)
    frame = pd.DataFrame({"region": "r", "diameter": [4.9, 5, 60, 1], "dice": [0.2, 0.5, 1, 0.4]})
    table = by_size(frame)
    assert [(size.left, size.right) for _, size in table.index] == [(0, 5), (5, 20), (50, math.inf)]
    assert table["mean"].tolist() == pytest.approx([0.3, 0.5, 1])
    assert table["count"].tolist() == [2, 1, 1]


def test_variants_are_compared_by_case() -> None:
    rng = np.random.default_rng(0)
    keys = {"case": [f"case {i}" for i in range(12)], "region": "r"}
    base = pd.DataFrame(keys | {name: rng.uniform(0.5, 0.9, 12) for name in evaluation.TESTED})
    more = pd.DataFrame({name: rng.uniform(0.01, 0.05, 12) for name in evaluation.TESTED})
    better = base.assign(**(base[list(more)] + more))
    shuffled = better.sample(frac=1, random_state=1)  # pairs are by name, not by place
    rows = compare({"new": shuffled, "old": base}).to_dict("records")
    assert [row["figure"] for row in rows] == list(evaluation.TESTED)
    for row in rows:
        difference = more[row["figure"]]
        assert row["variants"] == "new - old"
        assert row["difference"] == pytest.approx(difference.mean())
        half = 1.96 * difference.std() / math.sqrt(12)  # of a normal distribution
        assert row["from"] == pytest.approx(difference.mean() - half, abs=0.3 * half)
        assert row["to"] == pytest.approx(difference.mean() + half, abs=0.3 * half)
        assert row["p"] == pytest.approx(2 / 2**12)  # all signs alike, exact
        assert ttest_rel(better[row["figure"]], base[row["figure"]]).pvalue < 0.05
    thrice = {"new": pd.concat([shuffled] * 3), "old": pd.concat([base] * 3)}  # in three folds
    pd.testing.assert_frame_equal(compare(thrice), pd.DataFrame(rows))
    for same in compare({"a": base, "b": base}).to_dict("records"):
        assert same["p"] == 1
        assert same["from"] == same["to"] == 0


def test_the_loss_of_a_case_is_cross_entropy_and_dice() -> None:
    probs, true = torch.tensor([[[0.9, 0.2]], [[0.5, 0.0]]]), torch.tensor([[[1, 0]], [[1, 0]]])
    cross_entropy = -np.log([0.9, 0.8, 0.5, 1.0]).mean()
    dice = 1 - (2 * 1.4 + 1) / (1.6 + 2 + 1)
    assert evaluation._loss(probs, true) == pytest.approx(cross_entropy + dice, rel=1e-6)
    assert math.isfinite(evaluation._loss(1 - true.double(), true))


def test_only_what_the_network_uses_is_important() -> None:
    class Knowing(Toy):
        """Finds the tumour only of patients whose grade is 2."""

        def probabilities(self, images: Tensor, attributes: Tensor) -> Tensor:
            probs = super().probabilities(images, attributes)
            blind = torch.eye(4)[0].view(1, 4, 1, 1).expand_as(probs)
            return torch.where(attributes[:, 1].view(-1, 1, 1, 1) > 0, probs, blind)

    labels = torch.zeros(6, 8, 8, dtype=torch.long)
    labels[:3, 2:6, 2:6] = 1
    toy = Knowing(labels, labels, ["grade=1", "grade=2", "age=3", POSITION])
    toy.known[:3, 1] = 1
    toy.known[3:, 0] = 1
    toy.known[:, 3] = torch.linspace(0, 1, 6)
    table = importance(toy, toy, toy.items, repeats=8, seed=0).set_index("attribute")
    assert table.index[0] == "grade"
    assert table.loc["grade", "fall"] > 0.2
    assert (table.drop("grade")["fall"] == 0).all()


def test_attributes_are_one_hot_and_unknown_patients_nan() -> None:
    table = pd.DataFrame(
        {
            "grade": pd.array([1, 2, None, None], "Int64"),
            "age_at_initial_pathologic": pd.array([34, 39, 51, None], "Int64"),
        },
        index=["a", "b", "c", "d"],
    )
    hot = encode_attributes(table)
    age = "age_at_initial_pathologic"
    assert list(hot.columns) == ["grade=1", "grade=2", f"{age}=3", f"{age}=5"]
    assert hot.loc["a"].tolist() == [1, 0, 1, 0]
    assert hot.loc["b"].tolist() == [0, 1, 1, 0]
    assert hot.loc["c"].tolist() == [0, 0, 0, 1]
    assert hot.loc["d"].isna().all()
    # In a network's own columns, whatever the table holds.
    again = encode_attributes(table.iloc[2:], [*hot.columns, POSITION])
    pd.testing.assert_frame_equal(again, hot.iloc[2:])
    assert encode_attributes(pd.DataFrame(), list(hot.columns)).reindex(["x"]).isna().all().all()


@pytest.mark.parametrize("values", [["male", "female"], ["1,0", "2,0"]])
def test_a_column_without_a_number_is_refused(values: list[str]) -> None:
    table = pd.DataFrame(
        {"gender": values, "grade": [1, 2], "empty": [None, None]}, index=["a", "b"]
    )
    with pytest.raises(DataError, match=r"columns of data\.csv must hold numbers, not so: gender$"):
        encode_attributes(table)
    assert encode_attributes(table, ["grade=1", POSITION])["grade=1"].tolist() == [1, 0]
    assert encode_attributes(table, []).shape == (2, 0)


@pytest.mark.parametrize("table", [None, "Patient,grade\nTCGA-CS-5000,high\n"])
def test_a_training_with_attributes_has_some(broken: Path, table: str | None) -> None:
    (broken / "data.csv").unlink()
    if table:
        (broken / "data.csv").write_text(table)
    settings = read_recipe("attribute-deeplab").shared
    with pytest.raises(DataError, match=f"no data.csv in {broken}, or none .* as TCGA_CS_5000"):
        LggSource(broken, settings)
    assert LggSource(broken, settings | {"attributes": False}).columns == []


def test_files_are_whole_or_what_they_were(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"epoch": 1}, path)
    with pytest.raises(AttributeError):
        WholeFiles().save_checkpoint({"epoch": 2, "bad": lambda: 0}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    write_whole(tmp_path / "deeper" / "a.txt", "whole")
    assert (tmp_path / "deeper" / "a.txt").read_text() == "whole"
    assert [each.name for each in (tmp_path / "deeper").iterdir()] == ["a.txt"]


def test_dice_in_equal_time() -> None:
    history = pd.DataFrame({"seconds": [2.0, 2.0, 2.0], "val_dice": [0.3, 0.2, 0.9]})
    assert dice_within(history, 6.0) == 0.9
    assert dice_within(history, 5.0) == 0.3
    assert math.isnan(dice_within(history, 1.0))
