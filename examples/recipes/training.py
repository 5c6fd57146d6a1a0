"""Train the variants of a recipe one after another, fold by fold, score them and report.

<output>/run.json                       what is run; --resume goes on with the same
<output>/fold-1/<variant>/last.ckpt     to resume from, after every epoch
<output>/fold-1/<variant>/best.ckpt     the weights of the best epoch
<output>/fold-1/<variant>/metrics.csv   the figures of every epoch
<output>/fold-1/<variant>/results.json  the test slices' scores, once it is trained
<output>/report.md, scores.csv, slices.csv, *.png   once all are
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch

from examples.lgg.pixels import DataError
from examples.lgg.report import markdown_table
from examples.recipes.checkpoints import load_checkpoint
from examples.recipes.data import augmentation
from examples.recipes.evaluation import evaluate, importance, presence_report
from examples.recipes.fitting import first_process, fit, make_trainer
from examples.recipes.report import (
    choose_slices,
    dice_within,
    draw_curves,
    draw_slices,
    pool,
    training_facts,
    write_report,
)
from examples.recipes.settings import Recipe, Settings
from examples.recipes.sources import Item, Source
from examples.recipes.splits import PARTS, Parts, choose_folds, say_folds, say_split
from examples.recipes.systems import PresenceClassifier, Segmenter
from examples.saving.whole_files import read_json, write_whole
from gliomaseg_layers.networks import GatedSegmenter


def prepare(recipe: Recipe, source: Source, options: argparse.Namespace) -> dict[int, Parts]:
    """Split the slices into folds, and refuse what cannot be trained before any training."""
    folds = choose_folds(recipe.shared, source, options)
    for training, _, _ in folds.values():
        if not any(source.tumour_part[item] for item in training):
            where = options.data or "the stand-in"
            raise DataError(f"no tumour in the {len(training)} training slices of {where}")
    make_trainer(options)
    for name, settings in recipe.variants.items():
        seen, parts = source.variant(settings), next(iter(folds.values()))
        described = _describe(settings | {"pretrained": False}, seen, parts)
        try:
            Segmenter(described)
            if settings["gate"]:
                PresenceClassifier(described)
            augmentation(settings)
        except (ValueError, TypeError, RuntimeError) as error:
            raise DataError(f"settings of {name} do not fit: {error}") from error
    return folds


def train(
    recipe: Recipe,
    source: Source,
    folds: dict[int, Parts],
    options: argparse.Namespace,
    output: Path,
    data_name: str,
) -> None:
    """Run the whole recipe, except for what ``output`` holds already."""
    shared = recipe.shared
    results: dict[str, list[dict[str, Any]]] = defaultdict(list)
    histories: dict[str, list[pd.DataFrame]] = defaultdict(list)
    trainings: dict[str, dict[str, Any]] = {}
    texts: dict[str, str] = {}
    pictures: dict[str, str] = {}
    for number, parts in folds.items():
        home, suffix = output / f"fold-{number}", f", fold {number}" if len(folds) > 1 else ""
        systems: dict[str, Segmenter] = {}
        for name, variant in recipe.variants.items():
            settings = variant | {"seed": _seed(variant, number)}
            gate, seen = None, source.variant(settings)
            if settings["gate"]:
                kept = home / f"gate-{settings['gate']}"
                gate = _gate(seen, parts, settings, options, kept)
                texts[f"The gate, {settings['gate']}{suffix}"] = _read(kept)["report"]
            folder = home / name
            _run(name, settings, seen, parts, options, folder, gate)
            for kind, result in _read(folder)["results"].items():
                results[f"{name}{kind}"].append(result)
            if table := _read(folder).get("importance"):
                texts[f"What each attribute adds, {name}{suffix}"] = table
            systems[name] = load_checkpoint(folder / "best.ckpt", "segmenter")
            histories[name].append(pd.read_csv(folder / "metrics.csv"))
            trainings[f"{name}{suffix}"] = training_facts(
                histories[name][-1], systems[name].network, systems[name].recipe["weights"]
            )
        latest = {name: trained[-1] for name, trained in histories.items()}
        shortest = min(history["seconds"].cumsum().iloc[-1] for history in latest.values())
        for name, history in latest.items():
            trainings[f"{name}{suffix}"]["Dice in equal time"] = dice_within(history, shortest)
        for kind, title in (("overlays", "Contours"), ("heat-maps", "Heat maps")):
            pictures[f"{kind}-{number}.png"] = f"{title}{suffix}"
            if first_process():
                chosen, heat = choose_slices(source, parts[2]), kind == "heat-maps"
                draw_slices(output / f"{kind}-{number}.png", source, chosen, systems, heat=heat)
    if not first_process():
        return
    draw_curves(output / "curves.png", histories)
    facts = {
        "data": data_name,
        "sizes": ", ".join(
            f"{len(part)} {what} slices of {len({item.case for item in part})} cases"
            for what, part in zip(PARTS, next(iter(folds.values())), strict=True)
        ),
        "size": shared["size"],
        "split": say_split(folds, options.groups),
        "folds": say_folds(folds, options),
        "seed": ", ".join(str(_seed(shared, number)) for number in folds),
        "smoke": options.smoke,
        "spacing": source.spacing,
        "pictures": pictures,
    }
    pooled = {name: pool(found) for name, found in results.items()}
    write_report(output, recipe, facts, pooled, trainings, texts)


def _seed(settings: Settings, fold: int) -> int:
    """Give every fold a seed of its own, so that the spread over folds holds that of training."""
    return int(settings["seed"]) + max(fold - 1, 0)


def _run(
    name: str,
    settings: Settings,
    source: Source,
    parts: Parts,
    options: argparse.Namespace,
    folder: Path,
    gate: PresenceClassifier | None,
) -> None:
    """Train and score one variant, unless that has been done."""
    if (folder / "results.json").exists():
        return
    L.seed_everything(settings["seed"], workers=True, verbose=False)
    system = Segmenter(_describe(settings, source, parts))
    device = fit(system, source, parts, options, folder, name)
    test = _few(source, parts[2], options)
    best = load_checkpoint(folder / "best.ckpt", "segmenter").to(device)
    found: dict[str, Any] = {"results": {"": evaluate(best, source, test)}}
    repeats = settings["importance"]
    if best.recipe["columns"] and repeats and first_process():
        table = importance(best, source, test, repeats=repeats, seed=settings["seed"])
        table = table.rename(columns={"fall": "fall of pooled Dice", "spread": "+-"})
        found["importance"] = markdown_table(table.set_index("attribute"), {})
    if gate is not None:
        best.network = GatedSegmenter(gate.to(device), best.network, mode=best.output.mode).eval()
        found["results"][", gated"] = evaluate(best, source, test)
    _finish(folder, found)


def _gate(
    source: Source, parts: Parts, settings: Settings, options: argparse.Namespace, folder: Path
) -> PresenceClassifier:
    """Train the classifier of presence, unless that has been done."""
    if not (folder / "results.json").exists():
        settings = settings | {"epochs": settings["gate_epochs"] or settings["epochs"]}
        L.seed_everything(settings["seed"], workers=True, verbose=False)
        system = PresenceClassifier(_describe(settings, source, parts))
        device = fit(system, source, parts, options, folder, folder.name)
        best = load_checkpoint(folder / "best.ckpt", "presence").to(device)
        report = presence_report(best, source, _few(source, parts[2], options))
        report = f"Weights at the start: {best.recipe['weights']}.\n\n```\n{report}```"
        _finish(folder, {"report": report})
    return load_checkpoint(folder / "best.ckpt", "presence")  # type: ignore[no-any-return]


def _describe(settings: Settings, source: Source, parts: Parts) -> dict[str, Any]:
    """Return what a system is built from, in plain types, for its checkpoint."""
    tumour = [source.tumour_part[item] for item in parts[0]]
    present = sum(part > 0 for part in tumour)
    part = sum(tumour) / len(tumour)
    weigh = settings["pos_weight"]
    return {
        "settings": settings,
        "channels": source.channels,
        "classes": source.classes,
        "regions": list(source.regions.values()),
        "values": source.values,
        "columns": source.columns,
        "pos_weight": (1 - part) / part if weigh else None,
        "gate_pos_weight": max(len(tumour) - present, 1) / present if weigh else None,
        # Names and numbers of the slices, so that nobody tests on what was trained on.
        "parts": {
            name: [list(item) for item in part] for name, part in zip(PARTS, parts, strict=True)
        },
    }


def _few(source: Source, items: list[Item], options: argparse.Namespace) -> list[Item]:
    """Keep, in a smoke test, only the four slices with most tumour of each of two cases."""
    if not options.smoke:
        return items
    most = sorted(items, key=lambda item: source.tumour_part[item], reverse=True)
    cases = sorted({item.case for item in items})[:2]
    return [item for case in cases for item in [i for i in most if i.case == case][:4]]


def _finish(folder: Path, found: dict[str, Any]) -> None:
    """Write the results, which say that this is done; the other processes wait for them."""
    if first_process():
        write_whole(folder / "results.json", json.dumps(found))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def _read(folder: Path) -> dict[str, Any]:
    return read_json(folder / "results.json")
