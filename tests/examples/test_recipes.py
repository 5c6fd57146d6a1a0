"""Every recipe end to end in its smoke form: trained, killed, resumed, spread, scored and used."""

import argparse
import functools
import json
import operator
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from examples.brats.standin import write_cases
from examples.folder.data import find_images
from examples.lgg.data import DataError
from examples.recipes import checkpoints, networks, systems
from examples.recipes import training as recipe_training
from examples.recipes.__main__ import main, make_parser, parse
from examples.recipes.checkpoints import load_checkpoint
from examples.recipes.evaluation import predict_items
from examples.recipes.prediction import load_predictor, predict, written_names
from examples.recipes.settings import PRESETS, read_recipe, recipe_names
from examples.recipes.sources import LggSource
from examples.recipes.splits import split

ROOT = Path(__file__).resolve().parents[2]
CPU = ["--workers", "0", "--accelerator", "cpu"]


def smoke(output: Path, name: str, *more: str) -> int:
    return main(["train", name, "--smoke", *CPU, "--output", str(output), *more])


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("brats") / "cases"
    write_cases(folder, cases=6, size=40, slices=9)
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, lgg_folder: Path, cases: Path) -> Path:
    """Each recipe, trained on real slices where there are some."""
    folder = tmp_path_factory.mktemp("runs")
    for name in recipe_names():
        data = cases if name == "msfen" else lgg_folder
        assert smoke(folder / name, name, "--data", str(data), "--patients", "5") == 0
    return folder


def checkpoint(runs: Path, recipe: str, variant: str, kind: str = "best") -> Path:
    return runs / recipe / "fold-1" / variant / f"{kind}.ckpt"


@pytest.mark.parametrize("name", recipe_names())
def test_leaves_a_whole_report(runs: Path, name: str) -> None:
    report = (runs / name / "report.md").read_text()
    recipe = read_recipe(name, smoke=True)
    assert recipe.title in report
    assert "no patient is in more than one part" in report
    pictures = [*(runs / name).glob("*.png")]
    assert len(pictures) >= 3
    for path in pictures:
        assert f"]({path.name})" in report
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 5
    scores = pd.read_csv(runs / name / "scores.csv")
    assert scores[["dice", "iou", "precision", "recall"]].stack().between(0, 1).all()
    assert scores["hd95"].notna().any()
    for variant in recipe.variants:
        assert f"| {variant}, " in report
        history = pd.read_csv(runs / name / "fold-1" / variant / "metrics.csv")
        wanted = ["epoch", "seconds", "train_loss", "val_loss", "val_accuracy", "val_macc"]
        assert history[[*wanted, "val_miou", "val_dice"]].notna().all().all()
        for kind in ("best", "last"):
            saved = torch.load(checkpoint(runs, name, variant, kind), weights_only=True)
            assert saved["recipe"]["settings"] == recipe.variants[variant]


def test_what_only_some_reports_hold(runs: Path) -> None:
    reports = {name: (runs / name / "report.md").read_text() for name in recipe_names()}
    assert "f1-score" in reports["lgg-gate"]
    assert "| u-net, gated, tumour |" in reports["lgg-gate"]
    for name in ("age_at_initial_pathologic", "slice position"):
        assert name in reports["attribute-deeplab"].split("What each attribute adds")[1]
    for text in ("enhancing tumour", "in mm", "5 to 20 mm", "| msfen - fcn |", "2 folds"):
        assert text in reports["msfen"]


def test_folds_differ_in_their_seeds(runs: Path) -> None:
    seeds, weights = [], []
    for number in (1, 2):
        saved = torch.load(runs / "msfen" / f"fold-{number}" / "msfen" / "last.ckpt")
        seeds.append(saved["recipe"]["settings"]["seed"])
        weights.append(saved["state_dict"]["network.modality_attention.bottleneck.0.weight"])
    assert seeds == [23, 24]
    assert not torch.allclose(*weights, atol=1e-2)  # two steps of Adam move them by 2e-3


def test_the_gate_weighs_slices_and_the_segmenter_pixels(runs: Path, lgg_folder: Path) -> None:
    recipe = load_checkpoint(checkpoint(runs, "lgg-gate", "u-net"), "segmenter").recipe
    source = LggSource(lgg_folder, recipe["settings"], 5)
    items = list(source.tumour_part)
    patients = [item.case for item in items]
    training = split(items, patients, recipe["settings"]["parts"], 1, 23)[1][0]
    masks = [np.asarray(Image.open(source.slices[item].mask)) > 0 for item in training]
    tumour = np.mean(masks)
    present = np.mean([mask.any() for mask in masks])
    assert recipe["pos_weight"] == pytest.approx((1 - tumour) / tumour)
    assert recipe["gate_pos_weight"] == pytest.approx((1 - present) / present)


def test_resumes_where_it_was_killed(standin: Path, tmp_path: Path, kill, capsys) -> None:
    """Killed in the middle, a run goes on to what it would have come to; no other meanwhile."""
    more = ["--data", str(standin), "--set", "epochs=12", "cosine=true", "flip=true"]
    more += ["--workers", "1"]  # which read ahead
    assert smoke(tmp_path / "whole", "mu-net", *more) == 0
    last = checkpoint(tmp_path, "killed", "mu-net", "last")
    capsys.readouterr()

    def try_another() -> None:
        for go_on in ([], ["--resume"]):
            assert smoke(tmp_path / "killed", "mu-net", *more, *go_on) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert line == f"recipes: another run is at work in {tmp_path / 'killed'}"

    command = ["-m", "examples.recipes", "train", "mu-net", "--smoke", *CPU, *more]
    kill([*command, "--output", tmp_path / "killed"], last, try_another)
    epoch = torch.load(last, weights_only=True)["epoch"] + 1
    assert epoch < 12
    assert not (tmp_path / "killed" / "report.md").exists()
    assert smoke(tmp_path / "killed", "mu-net", *more) == 1
    assert smoke(tmp_path / "killed", "mu-net", *more, "--epochs", "13", "--resume") == 1
    assert smoke(tmp_path / "killed", "mu-net", *more, "--resume") == 0
    for variant in ("mu-net", "u-net"):
        whole, killed = (
            pd.read_csv(tmp_path / name / "fold-1" / variant / "metrics.csv").drop(
                columns="seconds"
            )
            for name in ("whole", "killed")
        )
        pd.testing.assert_frame_equal(whole, killed)
    whole, killed = ((tmp_path / name / "scores.csv").read_text() for name in ("whole", "killed"))
    assert whole == killed
    checkpoint(tmp_path, "whole", "u-net", "last").unlink()  # nobody needs it any more
    assert smoke(tmp_path / "whole", "mu-net", *more, "--resume") == 0
    results = tmp_path / "killed" / "fold-1" / "u-net" / "results.json"
    results.unlink()
    last = checkpoint(tmp_path, "killed", "u-net", "last")
    best, other = checkpoint(tmp_path, "killed", "u-net"), checkpoint(tmp_path, "whole", "mu-net")
    gone = {"recipe": {}}, torch.load(last, weights_only=True) | {"optimizer_states": []}
    torch.save(gone[0], tmp_path / "no recipe")
    torch.save(gone[1], tmp_path / "no optimiser")
    (tmp_path / "cut").write_bytes(last.read_bytes()[:1000])
    for foreign in (
        best,
        other,
        *(tmp_path / name for name in ("no recipe", "no optimiser", "cut")),
    ):
        shutil.copyfile(foreign, last)
        capsys.readouterr()
        assert smoke(tmp_path / "killed", "mu-net", *more, "--resume") == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert str(last) in line


def break_off(patch: pytest.MonkeyPatch, epoch: int, how: Callable[[], None]) -> None:
    """Do something at the beginning of an epoch, from 0."""
    begin = checkpoints.History.on_train_epoch_start
    patch.setattr(
        checkpoints.History,
        "on_train_epoch_start",
        lambda self, trainer, module: (
            how() if trainer.current_epoch == epoch else None,
            begin(self, trainer, module),
        ),
    )


def stop() -> None:
    raise DataError("stopped")


def test_a_full_disk_leaves_the_last_checkpoint(
    standin: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    more = ["--data", str(standin), "--epochs", "3"]
    last = checkpoint(tmp_path, "a", "mu-net", "last")
    part = last.with_name(f".part-{last.name}")
    with monkeypatch.context() as patch:
        break_off(patch, 2, lambda: part.symlink_to("/dev/full"))
        assert smoke(tmp_path / "a", "mu-net", *more) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"recipes: [Errno 28] No space left on device: '{last}'"
    assert torch.load(last, weights_only=True)["epoch"] == 1
    assert not part.is_symlink()
    assert smoke(tmp_path / "a", "mu-net", *more, "--resume") == 0


def test_a_run_without_patience_left_does_not_go_on(
    standin: Path, tmp_path: Path, monkeypatch
) -> None:
    """Nor does it forget which epoch was the best, wherever its folder is now."""
    worse = iter([0.5, 0.4, 0.3, 0.9, *[0.1] * 20])
    log = systems.System.record
    monkeypatch.setattr(
        systems.System,
        "record",
        lambda system, **values: log(
            system,
            **(
                values | {"val_dice": torch.tensor(next(worse))} if "val_dice" in values else values
            ),
        ),
    )
    more = ["--data", str(standin), "--set", "patience=2", "epochs=9"]
    with monkeypatch.context() as patch:
        patch.setattr(recipe_training, "evaluate", lambda *_: stop())
        assert smoke(tmp_path / "a", "mu-net", *more) == 1
    (tmp_path / "a").rename(tmp_path / "b")
    assert smoke(tmp_path / "b", "mu-net", *more, "--resume") == 0
    history = pd.read_csv(tmp_path / "b" / "fold-1" / "mu-net" / "metrics.csv")
    assert list(history["val_dice"].round(3)) == [0.5, 0.4, 0.3]


def test_a_moved_run_remembers_its_best_epoch(standin: Path, tmp_path: Path, monkeypatch) -> None:
    more = ["--data", str(standin), "--epochs", "6", "--set", "learning_rate=0.3"]
    assert smoke(tmp_path / "whole", "mu-net", *more) == 0
    with monkeypatch.context() as patch:
        break_off(patch, 4, stop)
        assert smoke(tmp_path / "a", "mu-net", *more) == 1
    (tmp_path / "a").rename(tmp_path / "b")
    assert smoke(tmp_path / "b", "mu-net", *more, "--resume") == 0
    best = [
        torch.load(checkpoint(tmp_path, name, "mu-net"), weights_only=True)["epoch"]
        for name in ("whole", "b")
    ]
    assert best[0] == best[1]


def test_a_run_of_corrupt_files_is_refused_in_one_line(
    runs: Path, cases: Path, tmp_path: Path, capsys
) -> None:
    run = Path(shutil.copytree(runs / "msfen", tmp_path / "a"))
    more = ["--data", str(cases), "--patients", "5", "--resume"]
    cache = next((run / "cache").rglob("*-labels.npy"))
    for path in (cache, run / "fold-1" / "msfen" / "results.json", run / "run.json"):
        for content in (b"", b"[]", path.read_bytes()[:100]):
            path.write_bytes(content)
            assert smoke(run, "msfen", *more) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert str(path) in line
        shutil.copyfile(runs / "msfen" / path.relative_to(run), path)
    assert smoke(run, "msfen", *more) == 0


def test_the_ramp_goes_on_too(standin: Path, tmp_path: Path, monkeypatch) -> None:
    """gamma, which no checkpoint of the loss holds, is raised from where it was."""
    seen: list[float] = []
    step = systems.WeightRamp.step
    monkeypatch.setattr(
        systems.WeightRamp,
        "step",
        lambda ramp: (seen.append(ramp.last_value), step(ramp))[1],
    )

    more = ["--data", str(standin), "--epochs", "4"]
    with monkeypatch.context() as patch:
        break_off(patch, 2, stop)
        assert smoke(tmp_path / "a", "attribute-deeplab", *more) == 1
    assert smoke(tmp_path / "a", "attribute-deeplab", *more, "--resume") == 0
    assert seen == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1, 1, 1])


def run_apart(*arguments: object) -> str:
    command = [sys.executable, "-m", "examples.recipes", *map(str, arguments), *CPU]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_processes_score_as_one_does(runs: Path, cases: Path, tmp_path: Path) -> None:
    more = ["--data", cases, "--part", "training", "--output"]
    evaluate = ["evaluate", checkpoint(runs, "msfen", "msfen"), *more]
    assert main([*map(str, evaluate), str(tmp_path / "1.json"), *CPU]) == 0
    run_apart(*evaluate, tmp_path / "2.json", "--devices", 2, "--strategy", "ddp")
    one, two = (json.loads((tmp_path / f"{count}.json").read_text()) for count in (1, 2))
    assert len(one["smoothed"]) % 2  # does not go into two halves
    assert one["pixels"] == pytest.approx(two["pixels"])
    # Not bit for bit: a batch of another size is rounded another way, and a pixel changes its bin.
    areas = [{name: curve["area"] for name, curve in run["roc"].items()} for run in (one, two)]
    assert areas[0] == pytest.approx(areas[1], abs=1e-3)
    for rows in ("cases", "slices", "smoothed"):
        tables = [pd.DataFrame(sorted(run[rows], key=str)) for run in (one, two)]
        for name in tables[0]:  # the loss, too, is rounded another way; the rest is equal
            columns = (table[name] for table in tables)
            pd.testing.assert_series_equal(*columns, check_exact=name != "loss")


def test_two_processes_train(standin: Path, tmp_path: Path) -> None:
    run_apart(
        *("train", "mu-net", "--smoke", "--data", standin, "--output", tmp_path / "a"),
        *("--devices", 2, "--strategy", "ddp"),
    )
    assert (tmp_path / "a" / "report.md").is_file()
    history = pd.read_csv(tmp_path / "a" / "fold-1" / "u-net" / "metrics.csv")
    assert len(history) == 1


@pytest.mark.parametrize("by_patient", [True, False])
@pytest.mark.parametrize("folds", [1, 3])
def test_splits_keep_apart_what_they_should(standin: Path, by_patient: bool, folds: int) -> None:
    items = list(LggSource(standin, read_recipe("lgg-gate").shared).tumour_part)
    groups = [item.case if by_patient else str(item) for item in items]
    parts = split(items, groups, (0.6, 0.2, 0.2), folds, 23)
    assert list(parts) == list(range(1, folds + 1))
    for three in parts.values():
        assert sorted(functools.reduce(operator.iadd, three, [])) == sorted(items)
        patients = [{item.case for item in part} for part in three]
        apart = sum(map(len, patients)) == len(set.union(*patients))
        assert apart == by_patient
    tested = [item for *_, test in parts.values() for item in test]
    assert len(tested) == len(set(tested))
    if folds > 1:
        assert sorted(tested) == sorted(items)
    assert parts == split(items, groups, (0.6, 0.2, 0.2), folds, 23)
    assert parts != split(items, groups, (0.6, 0.2, 0.2), folds, 24)


def test_a_split_by_slice_is_called_leaky(standin: Path, tmp_path: Path) -> None:
    assert smoke(tmp_path / "a", "mu-net", "--data", str(standin), "--split", "slice") == 0
    assert "LEAKY" in (tmp_path / "a" / "report.md").read_text()


@pytest.mark.parametrize("name", recipe_names())
def test_every_group_of_variants_can_be_read(name: str) -> None:
    groups = tomllib.loads(PRESETS.read_text())[name]["compare"]
    assert "networks" in groups
    for group, content in groups.items():
        variants = read_recipe(name, compare=group).variants
        assert list(variants) == [key for key, its in content.items() if isinstance(its, dict)]
        for key, value in content.items():
            if key not in variants:
                for variant, settings in variants.items():
                    assert settings[key] == content[variant].get(key, value)


# Of each recipe, and of a group of its variants.
GIVEN: dict[tuple[str, str], dict[str, object]] = {
    ("mu-net", ""): {
        "channels": [2, 1],
        "tumour_only": True,
        "optimizer": "adam",
        "epochs": 200,
    },
    ("lgg-gate", ""): {"gate": "resnet18", "pos_weight": True, "alpha": 1.0, "beta": 0.0},
    ("msfen", ""): {
        "size": 256,
        "parts": [0.7, 0.15, 0.15],
        "alpha": 0.3,
        "beta": 0.7,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "cosine": True,
        "cosine_end": 5e-4,
        "epochs": 100,
        "batch_size": 16,
        "flip": True,
    },
    ("attribute-deeplab", ""): {
        "encoder": "regnetz_040",
        "attributes": True,
        "alpha": 1.0,
        "beta": 1.0,
        "gamma": 1.0,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "seed": 23,
        "parts": [0.7, 0.15, 0.15],
    },
    ("attribute-deeplab", "loss"): {"attributes": True},
    # By their figures, these two tables were made with BCE alone.
    ("attribute-deeplab", "attributes"): {"alpha": 1.0, "beta": 0.0, "gamma": 0.0},
    ("attribute-deeplab", "encoders"): {"beta": 0.0, "gamma": 0.0, "attributes": False},
}


@pytest.mark.parametrize(("name", "group"), GIVEN)
def test_the_presets_are_the_papers_where_these_give_them(name: str, group: str) -> None:
    for settings in read_recipe(name, compare=group).variants.values():
        assert GIVEN[name, group].items() <= settings.items()


def test_the_presets_of_the_gate_are_the_slides() -> None:
    settings = read_recipe("lgg-gate").shared
    assert round(3929 * settings["parts"][2]) == 393
    kept = 28, 30, 27  # the gate, U-Net and the mini
    assert settings["epochs"] >= max(kept)
    assert (settings["gate_epochs"] or settings["epochs"]) >= max(kept)


def test_the_learning_rate_ends_where_it_should(standin: Path, tmp_path: Path) -> None:
    more = ["--data", str(standin), "--epochs", "4", "--set", "cosine=true", "cosine_end=2e-4"]
    assert smoke(tmp_path / "a", "mu-net", *more) == 0
    rates = pd.read_csv(tmp_path / "a" / "fold-1" / "mu-net" / "metrics.csv")["learning_rate"]
    assert rates.is_monotonic_decreasing
    assert rates.iloc[-1] == pytest.approx(2e-4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["sise=32"], "no setting 'sise': there are title, data"),
        (["size=big"], "'size' must be int, got 'big'"),
        (["size=0"], "'size' must be positive"),
        (["alpha=true"], "'alpha' must be float, got True"),
        (["network=v-net"], "'network' must be one of u-net"),
        (["parts=[0.5,0.5]"], "'parts' must be three"),
        (["channels=[3]"], "'channels' must be of 0, 1 and 2"),
        (["data=brats", "contrast=0.1"], "'contrast' is for slices"),
        (["saturation=0.1"], "'saturation' needs three channels"),
        (["data=brats", "attributes=true"], "'attributes' come from"),
        (["ramp=[0.5]"], "'ramp' must be [from, to]"),
        (["ramp=[0.5, 0.1]"], "'ramp' must be [from, to]"),
        (["ramp=[0.1, 0.5]"], "'ramp' raises 'gamma', which must not be 0 then"),
        (["outlier=paper"], "'outlier' must be one of region, density"),
        (['widths=["x"]'], "'widths' must be a list of numbers"),
        (["size"], "--set takes <setting>=<value>"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes: list[str], expected: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(expected)}"):
        read_recipe("mu-net", changes=changes)


def test_settings_reach_the_loss() -> None:
    changes = ["gamma=1.0", "window=11", "scnp=5"]
    settings = read_recipe("mu-net", changes=changes).shared
    region = systems.make_loss(settings, "binary", 3.0)
    assert (region.scnp, region.outlier.window, region.outlier.pos_weight) == (5, 11, 3.0)
    density = systems.make_loss(settings | {"outlier": "density"}, "multiclass", 3.0)
    assert (density.outlier.inner, density.outlier.outer, density.outlier.pos_weight) == (
        3,
        11,
        None,
    )
    preset = systems.make_loss(settings | {"outlier": "density", "window": 21}, "binary", None)
    assert (preset.outlier.inner, preset.outlier.outer) == (7, 21)  # [WAN23]'s


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--set", "gate=foo"], "settings of mu-net do not fit: Unknown model (foo)"),
        (["--set", "scale=2.0"], "settings of mu-net do not fit: "),
        (["--set", "widths=[8, 0]"], "settings of mu-net do not fit: `widths` must be"),
        (["--set", "window=8"], "settings of mu-net do not fit: `window` must be"),
        (["--set", "scnp=4"], "settings of mu-net do not fit: `scnp` must be"),
        (["--precision", "bf16mixed"], "Precision 'bf16mixed' is invalid"),
        (["--strategy", "dpp"], "You selected an invalid strategy name"),
    ],
)
def test_what_cannot_be_trained_is_said_before_training(
    standin: Path, tmp_path: Path, capsys, options: list[str], expected: str
) -> None:
    assert smoke(tmp_path / "a", "mu-net", "--data", str(standin), *options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"recipes: {expected}")
    assert not (tmp_path / "a").exists()


def test_the_second_variant_is_looked_at_before_the_first_is_trained(
    standin: Path, tmp_path: Path, capsys
) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[mine]\n[mine.compare.gate]\na = {}\nb = {gate = "resnet81"}\n')
    more = ["--presets", str(own), "--data", str(standin), "--compare", "gate"]
    assert smoke(tmp_path / "a", "mine", *more) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "recipes: settings of b do not fit: Unknown model (resnet81)"
    assert not (tmp_path / "a").exists()


def test_training_slices_without_tumour_are_refused(broken: Path, tmp_path: Path, capsys) -> None:
    for mask in broken.glob("*/*_mask.tif"):
        Image.new("L", (48, 48)).save(mask)
    assert smoke(tmp_path / "a", "lgg-gate", "--data", str(broken)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"recipes: no tumour in the 36 training slices of {broken}"


def test_a_users_own_presets(tmp_path: Path, standin: Path, capsys) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '[mine]\nnetwork = "u-net-mini"\n[mine.compare.loss]\na = {}\nb = {beta = 0.0}\n'
    )
    more = ["--presets", str(own), "--data", str(standin), "--compare", "loss"]
    assert smoke(tmp_path / "a", "mine", *more) == 0
    assert "| b, tumour |" in capsys.readouterr().out
    for name, expected in (("mu-net", "it has mine"), ("mine", "it has loss")):
        assert smoke(tmp_path / "b", name, *more[:-1], "colour") == 1
        assert expected in capsys.readouterr().err
    own.write_text("[mine")
    assert smoke(tmp_path / "b", "mine", *more) == 1
    assert "unreadable settings" in capsys.readouterr().err


def test_without_pretrained_weights_random_ones_are_used(monkeypatch) -> None:
    made = networks.networks.AttributeDeepLab

    def offline(*arguments: object, pretrained: bool, **more: object) -> torch.nn.Module:
        if pretrained:
            raise OSError("no route to host")
        return made(*arguments, pretrained=False, **more)

    monkeypatch.setattr(networks.networks, "AttributeDeepLab", offline)
    settings = read_recipe("attribute-deeplab", smoke=True, changes=["pretrained=true"]).shared
    recipe = {"settings": settings, "channels": 3, "classes": 1, "columns": [], "pos_weight": None}
    recipe |= {"regions": [[1]], "values": [0, 255]}
    with pytest.warns(UserWarning, match="random ones instead"):
        assert systems.Segmenter(recipe).recipe["weights"] == "random"


def test_predicts_images_of_any_size_in_their_format(runs: Path, tmp_path: Path) -> None:
    system = load_predictor(
        checkpoint(runs, "lgg-gate", "u-net"), checkpoint(runs, "lgg-gate", "gate-resnet18")
    )
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    (tmp_path / "in").mkdir()
    for name in ("a.tif", "b.png", "c.jpg"):
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "in" / "a_mask.tif")
    for tiles in (False, True):
        written = predict(system, tmp_path / "in", tmp_path / f"out{tiles}", tiles=tiles)
        masks = sorted(path.name for path in written if "_mask" in path.name)
        assert masks == ["a_mask.tif", "b_mask.png", "c_mask.png"]
        with Image.open(written[0]) as mask, Image.open(written[1]) as probability:
            assert mask.size == probability.size == (90, 70)
            assert set(np.unique(mask)) <= {0, 255}
            np.testing.assert_array_equal(np.asarray(mask) > 0, np.asarray(probability) > 0.5)
    with pytest.raises(DataError, match=r"exists already: .*a_mask\.tif"):
        predict(system, tmp_path / "in", tmp_path / "outTrue")
    predict(system, tmp_path / "in", tmp_path / "outTrue", force=True)
    with pytest.raises(DataError, match="no such file or folder"):
        predict(system, tmp_path / "nowhere", tmp_path / "out")


def test_what_a_prediction_wrote_is_no_image(tmp_path: Path) -> None:
    names = ["a.tif", "A_MASK.TIF", "a_mask.png", "a_probability.tif", "a_overlay.png", "b.JPG"]
    for name in names:
        (tmp_path / name).touch()
    found = {name: [path.name for path in paths] for name, paths in find_images(tmp_path).items()}
    assert found == {"a": ["a.tif"], "b": ["b.JPG"]}


@pytest.mark.parametrize(
    ("image", "mask"),
    [("a.TIF", "a_mask.TIF"), ("a.bmp", "a_mask.bmp"), ("a", "a_mask.png")]
    + [(f"a.{ending}", "a_mask.png") for ending in ("JPG", "webp", "jfif", "jp2", "dcm")],
)
def test_a_mask_is_not_blurred(image: str, mask: str) -> None:
    assert written_names("a", Path(image))[0] == mask


def test_predicts_as_it_is_scored(runs: Path, lgg_folder: Path, tmp_path: Path) -> None:
    """A slice of the data, with its attributes, gives what evaluation sees."""
    system = load_predictor(checkpoint(runs, "attribute-deeplab", "attribute-deeplab"), None)
    source = LggSource(lgg_folder, system.settings, 5, system.recipe["columns"])
    item = next(item for item, part in source.tumour_part.items() if part)
    expected, _ = predict_items(system, source, [item])
    path = source.slices[item].image
    with torch.no_grad():
        _, written, _ = predict(system, path, tmp_path / "a")
    with Image.open(written) as file:
        found = torch.from_numpy(np.array(file))[None, None]
    resized = torch.nn.functional.interpolate(
        expected[:, 1:], found.shape[2:], mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(found, resized, atol=1e-5, rtol=1e-5)
    # Somewhere else nobody is known.
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    _, other, _ = predict(system, tmp_path / "b", tmp_path / "c")
    with Image.open(other) as file:
        assert np.abs(np.array(file) - found[0, 0].numpy()).max() > 1e-6


@pytest.mark.parametrize("year", [2021, 2023])
def test_predicts_cases_on_their_own_grid(runs: Path, tmp_path: Path, year: int) -> None:
    write_cases(tmp_path / "in", cases=2, size=28, slices=5, year=year)
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    for path in tmp_path.glob("in/*/*.nii.gz"):
        nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), affine), path)
        if "seg" in path.name:
            path.unlink()
    system = load_predictor(checkpoint(runs, "msfen", "msfen"), None)
    written = predict(system, tmp_path / "in", tmp_path / "out")
    assert [path.name.split("_")[-1] for path in written[:3]] == [
        "seg.nii.gz",
        "probabilities.nii.gz",
        "overlay.png",
    ]
    labels, probs = (nib.load(path) for path in written[:2])
    assert labels.shape == (28, 28, 5)
    assert probs.shape == (28, 28, 5, 4)
    for file in (labels, probs):
        np.testing.assert_array_equal(file.affine, affine)
        np.testing.assert_allclose(file.header.get_zooms()[:3], (1, 1, 2))
    values = np.asarray(labels.dataobj)
    assert labels.get_data_dtype() == np.uint8
    assert set(np.unique(values)) <= {0, 1, 2, 4 if year == 2021 else 3}
    np.testing.assert_array_equal(
        np.where(values == 4, 3, values), np.asarray(probs.dataobj).argmax(-1)
    )
    np.testing.assert_allclose(np.asarray(probs.dataobj).sum(-1), 1, atol=1e-5)


def test_foreign_checkpoints_are_refused_in_one_line(
    runs: Path, cases: Path, tmp_path: Path, capsys
) -> None:
    good = checkpoint(runs, "msfen", "msfen")
    foreign = {
        "text": b"no checkpoint",
        "empty": b"",
        "cut": good.read_bytes()[:-2000],
    }
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content)
    torch.save({"state_dict": {}}, tmp_path / "other")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module")
    saved = torch.load(good, weights_only=True)
    saved["state_dict"].popitem()
    torch.save(saved, tmp_path / "less")
    gate = checkpoint(runs, "lgg-gate", "gate-resnet18")
    paths = [*(tmp_path / name for name in (*foreign, "other", "module", "less", "nowhere")), gate]
    for path in paths:
        options = ["predict", str(path), str(cases), "--output", str(tmp_path / "out")]
        assert main([*options, "--accelerator", "cpu"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("recipes: ")
        assert str(path) in line
    assert not (tmp_path / "out").exists()


def test_every_option_has_help() -> None:
    parser = make_parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    actions = [action for one in commands.choices.values() for action in one._actions]
    assert len(actions) > 30
    assert [action.dest for action in actions if not action.help] == []


def test_bad_options_are_refused(tmp_path: Path, capsys) -> None:
    for option in ("--devices", "--patients", "--epochs", "--folds"):
        with pytest.raises(SystemExit):
            parse(["train", "mu-net", option, "0"])
        assert f"{option} must be 1 or more" in capsys.readouterr().err
    assert smoke(tmp_path / "a", "mu-net", "--data", str(tmp_path / "nowhere")) == 1
    assert "no such folder" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
