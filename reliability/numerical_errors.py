"""Measure how far every function is from float64, by dtype, size and window; write and print it.

Input is rounded to the dtype, and given to the same function in float64 too. Up to 512 x 512 and
32 x 32 x 32, float64 is held against the slow definitions of tests/support/references.py, as a
second formulation. What was measured before is kept: an interrupted run resumes.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gliomaseg_layers import CompoundLoss
from gliomaseg_layers.functional import (
    box_sum,
    density_map,
    dice_loss,
    outlier_region_loss,
    outlier_weight,
    remove_outlier_regions,
)
from tests.support import references
from tests.support.cases import FORMULATIONS, scene

Array = references.Array
RESULTS = Path(__file__).parent / "results" / "numbers.json"
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
SIZES = [(1, 1), (7, 7), (64, 64), (512, 512), (4096, 4096), (8, 8, 8), (32, 32, 32), (256,) * 3]
WINDOWS = [(3, 7), (7, 21), (15, 63)]
MODES = {"binary": 1, "multilabel": 2, "multiclass": 3}
SMALL = 2**18  # pixels, up to which modes, windows and the second formulation are measured too


def compound_loss(x: Tensor, target: Tensor, **settings: Any) -> Any:
    """Call the module as a function."""
    return CompoundLoss(**settings)(x, target)


def functions(mode: str, windows: tuple[int, int]) -> Iterator[tuple[str, Any, Any, bool]]:
    """Yield name, function, second formulation, and whether it takes logits and a target."""
    given: dict[str, Any] = {"mode": mode, "inner": windows[0], "outer": windows[1]}

    def of(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        return lambda *args, **more: function(*args, **settings, **more)

    if mode == "binary":
        yield "box_sum", of(box_sum, window=windows[1]), box_sum_reference(windows[1]), False
    yield "density_map", of(density_map, **given), of(references.density_map, **given), False
    weight = of(references.outlier_weight, **given)
    yield "outlier_weight", of(outlier_weight, **given), lambda x, upstream: (weight(x),), False
    removal = of(remove_outlier_regions, **given)
    yield "remove_outlier_regions", lambda x: removal(x.detach()), None, False
    dice = {"mode": mode}
    yield "dice_loss", of(dice_loss, **dice), of(references.dice_loss, **dice), True
    for formulation in FORMULATIONS:
        told = given | {"formulation": formulation}
        loss = of(outlier_region_loss, **told), of(references.outlier_region_loss, **told)
        yield f"outlier_region_loss, {formulation}", *loss, True
        both = of(compound_loss, **told), of(references.compound_loss, **told)
        yield f"CompoundLoss, {formulation}", *both, True


def box_sum_reference(window: int) -> Callable[..., Any]:
    """Return the slow sum and, as its own adjoint, its gradient."""
    return lambda x, upstream: (references.box_sum(x, window), references.box_sum(upstream, window))


def evaluate(function: Any, x: Tensor, *args: Tensor) -> tuple[Array, Array | None]:
    """Return a function's value, and the gradient of its sum, in float64."""
    x = x.detach().requires_grad_()
    value = function(x, *args)
    if not value.requires_grad:
        return value.double().numpy(), None
    (grad,) = torch.autograd.grad(value, x, torch.ones_like(value))
    return value.detach().double().numpy(), grad.double().numpy()


def compare(found: Any, true: Any) -> dict[str, float]:
    """Return errors relative to the largest entry, and of how many pixels the term flips."""
    value, expected = found[0], true[0]
    flips = (value == 0) != (expected == 0)
    error = np.abs(value - expected)[~flips].max(initial=0)
    result = {"value": float(error / max(np.abs(expected).max(initial=0), 1e-300))}
    if value.ndim:
        result["flips"] = int(flips.sum())
    if found[1] is not None:
        error = np.abs(found[1] - true[1])
        if value.ndim and found[1].shape == value.shape:
            error = error[~flips]
        result["gradient"] = float(
            error.max(initial=0) / max(np.abs(true[1]).max(initial=0), 1e-300)
        )
    return result


def measure(
    mode: str,
    size: tuple[int, ...],
    windows: tuple[int, int],
    function: Any,
    second: Any,
    raw: bool,
) -> dict[str, dict[str, float]]:
    """Return the errors of a function by dtype."""
    logits, target = scene((1, MODES[mode], *size), mode)
    x = logits if raw else logits.softmax(1) if mode == "multiclass" else logits.sigmoid()
    args = (target,) if raw else ()
    errors = {}
    for name, dtype in DTYPES.items():
        rounded = x.to(dtype)
        true = evaluate(function, rounded.double(), *args)
        if name != "float64":
            errors[name] = compare(evaluate(function, rounded, *args), true)
        elif second is not None and math.prod(size) <= SMALL:
            value = second(x, *args, upstream=torch.ones(true[0].shape, dtype=torch.float64))
            errors[name] = compare(true, value)
    return errors


def cases() -> Iterator[tuple[str, Callable[[], dict[str, dict[str, float]]]]]:
    """Yield what is measured, by name."""
    for size in SIZES:
        small = math.prod(size) <= SMALL
        # In volumes the second formulation takes 65 GB for windows of 63.
        chosen = (WINDOWS if len(size) == 2 else WINDOWS[:2]) if small else WINDOWS[1:2]
        for mode in MODES if small else ["binary"]:
            for windows in chosen:
                for name, function, second, raw in functions(mode, windows):
                    shown = " x ".join(map(str, size))
                    key = f"{name} | {mode} | {shown} | {windows[0]}, {windows[1]}"
                    given = (mode, size, windows, function, second, raw)
                    yield key, partial(measure, *given)


def table(results: dict[str, Any]) -> str:
    """Return the largest errors of every function, over modes, sizes and windows."""
    worst: dict[str, dict[str, dict[str, float]]] = {}
    for key, errors in results.items():
        for dtype, error in errors.items():
            held = worst.setdefault(key.split(" | ")[0], {}).setdefault(dtype, {})
            for kind, amount in error.items():
                held[kind] = max(held.get(kind, 0), amount)
    columns = [f"{dtype}, {kind}" for dtype in DTYPES for kind in ("value", "gradient")]
    lines = [f"| function | {' | '.join(columns)} | pixels that flip |"]
    lines.append("| --- |" + " ---: |" * (len(columns) + 1))
    for name, by_dtype in worst.items():
        cells = [
            f"{by_dtype[dtype][kind]:.0e}" if kind in by_dtype.get(dtype, {}) else ""
            for dtype in DTYPES
            for kind in ("value", "gradient")
        ]
        flips = max(error.get("flips", 0) for error in by_dtype.values())
        lines.append(f"| `{name}` | {' | '.join(cells)} | {flips:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what the results do not hold yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=2**24, help="pixels of the largest image")
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for key, run in cases():
        pixels = math.prod(int(side) for side in key.split(" | ")[2].split(" x "))
        if key not in results and pixels <= args.largest:
            results[key] = run()
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
