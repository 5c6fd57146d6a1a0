"""Recipes with a part of the network, or of the attributes, taken away."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_jaccard_index,
)

from examples.lgg.data import DataError, patient_key
from examples.recipes.__main__ import main
from examples.recipes.checkpoints import load_checkpoint
from examples.recipes.evaluation import accuracies, predict_items
from examples.recipes.networks import make_network
from examples.recipes.prediction import load_predictor, predict
from examples.recipes.settings import TAKEN, read_recipe
from examples.recipes.sources import POSITION, LggSource, attribute_kind

CPU = ["--workers", "0", "--accelerator", "cpu"]
SMALL = {"widths": [4, 8, 16]}
SIDE = 20


def build(settings: dict[str, Any], channels: int = 2) -> Any:
    torch.manual_seed(0)
    return make_network(settings, channels, 1, 0).eval()


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def settings_of(group: str, recipe: str) -> dict[str, dict[str, Any]]:
    return read_recipe(recipe, compare=group).variants


@pytest.mark.parametrize(
    ("network", "part"), [(network, part) for network in TAKEN for part in TAKEN[network]]
)
def test_what_is_left_is_another_network_and_learns(network: str, part: str) -> None:
    settings = read_recipe("mu-net").shared | SMALL | {"network": network}
    whole, less = build(settings), build(settings | {"without": part}).train()
    x = torch.rand(2, 2, SIDE, SIDE)
    assert less.eval()(x).shape == whole(x).shape
    assert set(less.state_dict()) != set(whole.state_dict()) or count(less) != count(whole)
    less.train()(x).sum().backward()
    unused = [name for name, weight in less.named_parameters() if weight.grad is None]
    assert unused == []


def test_without_its_attentions_the_fusion_is_a_weighed_sum() -> None:
    settings = read_recipe("mu-net").shared | SMALL | {"network": "mu-net"}
    fusion = build(settings | {"without": "attention"}).fusions[0]
    x, y = torch.randn(2, 1, 8, 5, 6)
    with torch.no_grad():
        fusion.shallow_weight.fill_(0.3)
        torch.testing.assert_close(fusion(x, y), 0.8 * x + y)


@pytest.mark.parametrize("part", ["channel", "spatial"])
def test_one_attention_gates_alone(part: str) -> None:
    settings = read_recipe("mu-net").shared | SMALL | {"network": "mu-net"}
    fusion = build(settings | {"without": f"{part}-attention"}).fusions[0]
    x, y = torch.randn(2, 1, 8, 5, 6)
    merged = (x + y) / 2
    left = fusion.spatial_attention if part == "channel" else fusion.channel_attention
    gate = left(merged, return_logits=True).sigmoid()
    torch.testing.assert_close(fusion(x, y), merged + gate * x + (1 - gate) * y)


def test_the_fusions_are_compared_at_equal_sizes() -> None:
    sizes = {name: count(build(its)) for name, its in settings_of("fusion", "mu-net").items()}
    assert sizes["concat"] > 1.1 * sizes["msf"]
    for name in ("sum", "no-channel", "no-spatial", "concat-narrow"):
        assert sizes[name] == pytest.approx(sizes["msf"], rel=0.01)
    assert sizes["concat-narrow"] == pytest.approx(sizes["msf"], rel=0.001)


def test_the_minis_are_the_librarys() -> None:
    made = {name: build(its) for name, its in settings_of("minis", "mu-net").items()}
    assert {network.widths for network in made.values()} == {(16, 32, 64, 128, 256)}
    assert count(made["mu-net-mini"]) < count(made["u-net-mini"])


def test_each_part_of_msfen_is_taken_away_once() -> None:
    variants = settings_of("parts", "msfen")
    assert sorted(its["without"] for its in variants.values()) == sorted(["", *TAKEN["msfen"]])
    made = {name: build(its | SMALL, 4) for name, its in variants.items()}
    kernels = {
        name: {m.kernel_size for m in network.encoder.modules() if isinstance(m, nn.Conv2d)}
        for name, network in made.items()
    }
    assert kernels["msfen"] >= {(3, 3), (5, 5), (7, 7)}
    assert (5, 5) not in kernels["no-scales"]
    x = torch.randn(1, 4, SIDE, SIDE)
    attended = [made[name].modality_attention(x) for name in ("msfen", "no-modality-attention")]
    assert not torch.equal(attended[0], x)
    assert torch.equal(attended[1], x)
    assert count(made["no-separable"]) > count(made["msfen"])
    assert count(made["no-pyramid"]) < count(made["msfen"])
    block = made["no-residual"].encoder[0]
    mixed = block.mix(block.channel_attention(torch.cat([b(x) for b in block.branches], 1)))
    torch.testing.assert_close(block(x), block.spatial_attention(mixed))


@pytest.mark.parametrize(
    ("network", "part"), [("u-net", "attention"), ("msfen", "attention"), ("mu-net", "pyramid")]
)
def test_what_a_network_does_not_have_cannot_be_taken_away(network: str, part: str) -> None:
    changes = [f"network={network}", f"without={part}"]
    with pytest.raises(DataError, match=f"'without' must be one of .* for {network}, got '{part}'"):
        read_recipe("attribute-deeplab", changes=changes)


@pytest.fixture(scope="module")
def controls(tmp_path_factory: pytest.TempPathFactory, standin: Path) -> Path:
    output = tmp_path_factory.mktemp("controls") / "a"
    more = ["--compare", "controls", "--data", str(standin), "--output", str(output), *CPU]
    assert main(["train", "attribute-deeplab", "--smoke", *more]) == 0
    return output


def columns_of(run: Path, variant: str) -> list[str]:
    return load_checkpoint(run / "fold-1" / variant / "best.ckpt", "segmenter").recipe["columns"]  # type: ignore[no-any-return]


def test_every_control_has_its_own_attributes(controls: Path) -> None:
    every = columns_of(controls, "with")
    assert {attribute_kind(name) for name in every} == {"genomics", "clinical", "position"}
    assert columns_of(controls, "shuffled") == every
    assert columns_of(controls, "without") == []
    assert columns_of(controls, "position") == [POSITION]
    genomics = columns_of(controls, "genomics")
    assert genomics == [name for name in every if attribute_kind(name) == "genomics"]
    report = (controls / "report.md").read_text()
    assert "| with - genomics |" in report
    scores = pd.read_csv(controls / "scores.csv")
    assert scores[["accuracy", "macc", "miou"]].stack().between(0, 1).all()


@pytest.mark.parametrize("variant", ["position", "genomics", "shuffled"])
def test_a_control_is_scored_and_used_later(
    controls: Path, standin: Path, tmp_path: Path, variant: str
) -> None:
    checkpoint = controls / "fold-1" / variant / "best.ckpt"
    output = tmp_path / "scores.json"
    more = ["--data", str(standin), "--part", "all", "--output", str(output), *CPU]
    assert main(["evaluate", str(checkpoint), *more]) == 0
    system = load_predictor(checkpoint, None)
    source = LggSource(standin, system.settings, None, system.recipe["columns"])
    assert source.columns == system.recipe["columns"]
    item = next(item for item, part in source.tumour_part.items() if part)
    expected, _ = predict_items(system, source, [item])
    assert len(predict(system, source.slices[item].image, tmp_path / "a")) == 3
    assert expected.isfinite().all()


def test_shuffled_attributes_are_another_patients(standin: Path) -> None:
    settings = read_recipe("attribute-deeplab").shared
    own = LggSource(standin, settings)
    shuffled = own.variant(settings | {"attribute_shuffle": True})
    assert own.variant(settings).known.keys() == shuffled.known.keys()
    rows = {patient_key(case): tuple(row) for case, row in own.known.items()}
    given = {patient_key(case): tuple(row) for case, row in shuffled.known.items()}
    differs = [key for key in rows if str(rows[key]) != str(given[key])]
    assert len(differs) == len(rows)
    assert sorted(map(str, rows.values())) == sorted(map(str, given.values()))
    again = LggSource(standin, settings | {"attribute_shuffle": True})
    assert {case: str(row) for case, row in again.known.items()} == {
        case: str(row) for case, row in shuffled.known.items()
    }
    # The position is the slice's own.
    item = next(iter(own.tumour_part))
    assert own.read(item)[2][-1] == shuffled.read(item)[2][-1]


def test_the_position_needs_no_table(broken: Path) -> None:
    (broken / "data.csv").unlink()
    settings = read_recipe("attribute-deeplab").shared | {"attribute_set": "position"}
    source = LggSource(broken, settings)
    assert source.columns == [POSITION]
    positions = [source.read(item)[2] for item in source.tumour_part]
    assert all(position.shape == (1,) and 0 <= position <= 1 for position in positions)
    with pytest.raises(DataError, match=r"no data\.csv"):
        source.variant(settings | {"attribute_set": "genomics"})


def test_some_variants_of_a_group(standin: Path, tmp_path: Path, capsys) -> None:
    more = ["--data", str(standin), "--smoke", "--compare", "fusion", *CPU, "--output"]
    chosen = ["--variants", "concat", "sum"]
    assert main(["train", "mu-net", *more, str(tmp_path / "a"), *chosen]) == 0
    assert sorted(path.name for path in (tmp_path / "a" / "fold-1").iterdir()) == ["concat", "sum"]
    assert main(["train", "mu-net", *more, str(tmp_path / "b"), "--variants", "add"]) == 1
    assert "no variant 'add' in mu-net: it has msf, no-channel" in capsys.readouterr().err


def test_accuracies_are_torchmetrics() -> None:
    predicted, true = (torch.rand(2, 3, 9, 9) > 0.7).int()

    def expected(metric: Any, average: str) -> float:
        return float(metric(predicted, true, num_classes=2, average=average))

    assert accuracies(predicted, true) == {
        "accuracy": pytest.approx(expected(multiclass_accuracy, "micro")),
        "macc": pytest.approx(expected(multiclass_accuracy, "macro")),
        "miou": pytest.approx(expected(multiclass_jaccard_index, "macro")),
    }
    nothing: Tensor = torch.zeros(3, 3)
    assert set(accuracies(nothing, nothing).values()) == {1.0}
    assert math.isclose(accuracies(nothing, torch.eye(3))["accuracy"], 2 / 3)
