"""Train, evaluate and use the four papers' systems, each with its data, loss and report.

    python -m examples.recipes train mu-net --data kaggle_3m
    python -m examples.recipes evaluate runs/mu-net/fold-1/mu-net/best.ckpt --data kaggle_3m
    python -m examples.recipes predict runs/mu-net/fold-1/mu-net/best.ckpt slice.tif --output masks

The settings are in recipes.toml. Nothing here is a medical device.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import warnings
from contextlib import nullcontext
from pathlib import Path

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException

from examples.brats import standin as brats_standin
from examples.lgg import standin as lgg_standin
from examples.lgg.data import DataError
from examples.recipes.cached import BratsSource, FolderSource
from examples.recipes.checkpoints import load_checkpoint
from examples.recipes.data import RecipeData
from examples.recipes.evaluation import evaluate
from examples.recipes.fitting import first_process, make_trainer
from examples.recipes.prediction import load_predictor, predict
from examples.recipes.settings import PRESETS, Settings, read_recipe, recipe_names
from examples.recipes.sources import LggSource, Source
from examples.recipes.splits import PARTS
from examples.recipes.training import prepare, train
from examples.saving.run_folder import alone_in, check_plan
from examples.saving.whole_files import write_whole


def open_source(
    settings: Settings,
    options: argparse.Namespace,
    scratch: Path,
    cache: Path,
    columns: list[str] | None = None,
) -> Source:
    """Read the data folder; where none is given, generate a stand-in."""
    folder: Path | None = options.data
    if settings["data"] == "brats":
        if folder is None:
            folder = scratch / "cases"
            brats_standin.write_cases(folder)
        return BratsSource(folder, settings, cache, options.patients)
    if settings["data"] == "folder":
        if folder is None:
            raise DataError('data = "folder" needs --data, a folder of images and masks')
        return FolderSource(folder, settings, cache, options.patients)
    if folder is None:
        folder = scratch / "kaggle_3m"
        lgg_standin.write_standin(folder, patients=8, slices=12, size=64)
    return LggSource(folder, settings, options.patients, columns)


def run_training(options: argparse.Namespace, scratch: Path) -> None:
    own = {"epochs": options.epochs, "folds": options.folds}
    recipe = read_recipe(
        options.recipe,
        path=options.presets,
        compare=options.compare,
        only=options.variants,
        changes=[*options.set, *(f"{key}={own[key]}" for key in own if own[key] is not None)],
        smoke=options.smoke,
    )
    output: Path = options.output or Path("runs") / options.recipe
    plan = {
        "variants": recipe.variants,
        **{
            name: str(path.resolve()) if (path := getattr(options, name)) else None
            for name in ("data", "groups", "split_file")
        },
        **{name: getattr(options, name) for name in ("split", "fold", "smoke", "patients")},
    }
    settings = recipe.shared | {
        "attributes": any(variant["attributes"] for variant in recipe.variants.values())
    }
    names = {"lgg": "The LGG Segmentation Dataset", "brats": "BraTS cases", "folder": "Own images"}
    name = names[settings["data"]] if options.data else "A generated stand-in, no patient's data"
    with alone_in(output) if first_process() else nullcontext():
        if first_process():
            check_plan(output, plan, resume=options.resume, kept="cache")
        source = open_source(settings, options, scratch, options.cache or output / "cache")
        folds = prepare(recipe, source, options)
        if first_process():
            write_whole(output / "run.json", json.dumps(plan, indent=1))
        train(recipe, source, folds, options, output, name)
    if first_process():
        print((output / "report.md").read_text())
        print(f"Results: {output}")


def run_evaluation(options: argparse.Namespace, scratch: Path) -> None:
    if options.output and options.output.exists() and not options.force:
        raise DataError(f"exists already: {options.output} (--force writes over it)")
    system = load_checkpoint(options.checkpoint, "segmenter")
    columns = system.recipe["columns"]
    settings = system.settings | {"attributes": bool(columns)}
    cache = options.cache or scratch / "cache"
    source = open_source(settings, options, scratch, cache, columns or None)
    if source.classes > system.recipe["classes"]:
        raise DataError(
            f"labels of {source.classes} classes in {options.data}, "
            f"the checkpoint knows {system.recipe['classes']}"
        )
    items = list(source.tumour_part)
    if options.part != "all":
        chosen = system.parts[options.part]
        items = [item for item in items if item in chosen]
        if len(items) < len(chosen):
            raise DataError(
                f"{len(chosen) - len(items)} of the checkpoint's {len(chosen)} {options.part} "
                f"slices are not in {options.data or 'the stand-in'} (--part all takes any)"
            )
    trainer = make_trainer(options, enable_checkpointing=False)
    data = RecipeData(source, [], items, settings, options.workers)
    (figures,) = trainer.validate(system, datamodule=data, verbose=False)
    result = evaluate(system.to(trainer.strategy.root_device), source, items)
    if first_process():
        figures = {name.removeprefix("val_"): value for name, value in figures.items()}
        if options.output:
            write_whole(options.output, json.dumps({"pixels": figures} | result, indent=1))
        print(json.dumps(figures))


def run_prediction(options: argparse.Namespace, scratch: Path) -> None:
    system = load_predictor(options.checkpoint, options.gate)
    system.to(L.Fabric(accelerator=options.accelerator, devices=1).device)
    written = predict(
        system, options.input, options.output, tiles=options.tiles, force=options.force
    )
    print(f"{len(written)} files in {options.output}")


def make_parser() -> argparse.ArgumentParser:
    form = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m examples.recipes", description=(__doc__ or "").splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)

    place = argparse.ArgumentParser(add_help=False)
    add = place.add_argument
    add("--accelerator", default="auto", choices=["auto", "cpu", "gpu", "mps"], help="where to run")

    machine = argparse.ArgumentParser(add_help=False, parents=[place])
    add = machine.add_argument
    add("--devices", type=int, default=1, help="how many of them")
    add("--strategy", default="auto", help="Lightning's, as ddp, for several devices")
    add("--precision", default="32-true", help="Lightning's, as bf16-mixed")
    add("--workers", type=int, default=min(2, os.cpu_count() or 1), help="loading processes")

    data = argparse.ArgumentParser(add_help=False)
    add = data.add_argument
    add("--data", type=Path, help="kaggle_3m folder, BraTS cases or own images; else a stand-in")
    add("--patients", type=int, help="use only so many patients, for a quick look")
    add(
        "--cache",
        type=Path,
        help="keep uncompressed cases here; unset: train in its results, evaluate nowhere",
    )

    one = commands.add_parser(
        "train", parents=[data, machine], formatter_class=form, help="train a recipe and report"
    )
    add = one.add_argument
    add("recipe", help=f"one of the presets: {', '.join(recipe_names())}")
    add("--presets", type=Path, default=PRESETS, help="file of settings, a changed copy of ours")
    add(
        "--split",
        default="patient",
        choices=["patient", "slice"],
        help="what is kept apart; by slice leaks, and only repeats who split so",
    )
    add("--groups", type=Path, help="csv of case and group, kept apart; the names' if unset")
    add("--split-file", type=Path, help="folds of nnU-Net (splits_final.json) or MONAI (datalist)")
    add("--fold", type=int, help="this fold alone, as the split file numbers it, else from 1")
    add("--compare", default="", help="group of variants in the presets; networks if unset")
    add("--variants", nargs="+", default=[], metavar="NAME", help="of the group; all if unset")
    add("--set", nargs="+", default=[], metavar="SETTING=VALUE", help="change settings")
    add("--epochs", type=int, help="of every variant; the presets' if unset")
    add("--folds", type=int, help="above 1: K-fold; the presets' if unset")
    add("--output", type=Path, help="folder of the results; runs/<recipe> if unset")
    add("--resume", action="store_true", help="go on with what the folder holds")
    add("--smoke", action="store_true", help="two steps of everything, small")

    two = commands.add_parser(
        "evaluate", parents=[data, machine], formatter_class=form, help="score a checkpoint"
    )
    add = two.add_argument
    add("checkpoint", type=Path, help="best.ckpt or last.ckpt of a segmenter")
    add("--part", default="test", choices=[*PARTS, "all"], help="of its data")
    add("--output", type=Path, help="JSON file of every case's scores")
    add("--force", action="store_true", help="write over it")

    three = commands.add_parser(
        "predict", parents=[place], formatter_class=form, help="write masks of new images"
    )
    add = three.add_argument
    add("checkpoint", type=Path, help="best.ckpt or last.ckpt of a segmenter")
    add("input", type=Path, help="image, folder of images, BraTS case or folder of cases")
    add("--gate", type=Path, help="checkpoint of a presence classifier: no tumour, empty mask")
    add("--output", type=Path, required=True, help="folder of masks, probabilities and overlays")
    add("--tiles", action="store_true", help="slide over large images at their own scale")
    add("--force", action="store_true", help="write over what is there")

    return parser


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = make_parser()
    options = parser.parse_args(arguments)
    options.smoke = getattr(options, "smoke", False)
    for name in ("devices", "patients", "epochs", "folds"):
        if getattr(options, name, None) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} must be 1 or more")
    if getattr(options, "workers", 0) < 0:
        parser.error("--workers must be 0 or more")
    if getattr(options, "split_file", None) and (options.folds or options.split == "slice"):
        parser.error("--split-file says what the folds are: no --folds, no --split slice")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.* is deprecated",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*`always_return_as_numpy` has been deprecated.*",  # MONAI warns of its own call
    ):
        warnings.filterwarnings("ignore", message)
    runs = {"train": run_training, "evaluate": run_evaluation, "predict": run_prediction}
    try:
        with tempfile.TemporaryDirectory() as scratch:
            runs[options.command](options, Path(scratch))
    except (DataError, MisconfigurationException, OSError) as error:
        print(f"recipes: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
