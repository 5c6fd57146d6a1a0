"""Measure how far every function is from float64, by dtype; print a table of the largest errors.

Input is rounded to the dtype, and given to the same function in float64 too. Up to 2**15 pixels
float64 itself is held against the slow definitions of tests/support/references.py.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gliomaseg_layers import CompoundLoss, OutlierRegionLoss
from gliomaseg_layers.functional import (
    box_sum,
    density_loss,
    density_map,
    dice_loss,
    outlier_region_loss,
    outlier_weight,
    remove_outlier_regions,
    scnp,
)
from tests.support import references
from tests.support.cases import scene

Array = references.Array
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
SIZES = [(1, 1), (7, 7), (128, 128), (2048, 2048), (8, 8, 8), (32, 32, 32)]
WINDOWS = [(3, 7), (7, 21), (15, 63)]
MODES = {"binary": 1, "multilabel": 2, "multiclass": 3}
SMALL = 2**15  # pixels, up to which modes, windows and the second formulation are measured too
Case = tuple[str, Callable[..., Tensor], Callable[..., Any] | None]


def functions(mode: str, inner: int, outer: int) -> Iterator[tuple[str, Case]]:
    """Yield what a function takes ("probs" or "labelled"), and the function's forms."""
    given: dict[str, Any] = {"mode": mode}
    counted, density = given | {"window": outer}, given | {"inner": inner, "outer": outer}

    def of(function: Callable[..., Any], settings: dict[str, Any]) -> Callable[..., Any]:
        return lambda *args, **more: function(*args, **settings, **more)

    def compound(x: Tensor, target: Tensor) -> Any:
        return CompoundLoss(OutlierRegionLoss(**counted))(x, target)

    def summed(x: Tensor, upstream: Tensor) -> Any:  # a box sum is its own adjoint
        return references.box_sum(x, outer), references.box_sum(upstream, outer)

    def weight(x: Tensor, upstream: Tensor) -> Any:
        return (references.outlier_weight(x, **counted),)

    if mode == "binary":
        yield "probs", ("box_sum", lambda x: box_sum(x, outer), summed)
    yield "probs", ("outlier_weight", of(outlier_weight, counted), weight)
    removal = of(remove_outlier_regions, counted)
    yield "probs", ("remove_outlier_regions", lambda x: removal(x.detach()), None)
    named: list[tuple[str, Any, dict[str, Any]]] = [
        ("probs", density_map, density),
        ("labelled", outlier_region_loss, counted),
        ("labelled", density_loss, density),
        ("labelled", dice_loss, given),
        ("labelled", scnp, given),
    ]
    for takes, function, settings in named:
        second = getattr(references, function.__name__)
        yield takes, (function.__name__, of(function, settings), of(second, settings))
    yield "labelled", ("CompoundLoss", compound, of(references.compound_loss, counted))


def evaluate(function: Any, x: Tensor, *args: Tensor) -> tuple[Array, Array | None]:
    """Return a function's value, and the gradient of its sum, in float64."""
    x = x.detach().requires_grad_()
    value = function(x, *args)
    if not value.requires_grad:
        return value.double().numpy(), None
    (grad,) = torch.autograd.grad(value, x, torch.ones_like(value))
    return value.detach().double().numpy(), grad.double().numpy()


def errors(found: Any, true: Any) -> dict[str, float]:
    """Return errors relative to the largest entry, and how many entries are flagged otherwise."""
    value, expected = found[0], true[0]
    flips = (value == 0) != (expected == 0)
    result = {"value": largest(np.where(flips, 0, value - expected), expected)}
    result["flips"] = float(flips.sum()) if value.ndim else 0.0
    if found[1] is not None:
        difference = found[1] - true[1]
        if value.ndim and difference.shape == value.shape:
            difference = np.where(flips, 0, difference)
        result["gradient"] = largest(difference, true[1])
    return result


def largest(difference: Array, expected: Array) -> float:
    return float(np.abs(difference).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-300))


def measure(mode: str, size: tuple[int, ...], takes: str, case: Case) -> Iterator[Any]:
    """Yield a function's errors by dtype."""
    _, function, second = case
    logits, target = scene((1, MODES[mode], *size), mode)
    x = logits
    if takes == "probs":
        x = logits.softmax(1) if mode == "multiclass" else logits.sigmoid()
    args = (target,) if takes == "labelled" else ()
    for name, dtype in DTYPES.items():
        rounded = x.to(dtype)
        true = evaluate(function, rounded.double(), *args)
        if name != "float64":
            yield name, errors(evaluate(function, rounded, *args), true)
        elif second is not None and math.prod(size) <= SMALL:
            value = second(x, *args, upstream=torch.ones(true[0].shape, dtype=torch.float64))
            yield name, errors(true, value)


def main() -> None:
    """Print the largest errors of every function, over modes, sizes and windows."""
    worst: dict[str, dict[tuple[str, str], float]] = {}
    for size in SIZES:
        small = math.prod(size) <= SMALL
        # In volumes the second formulation is too slow for windows of 63.
        windows = (WINDOWS if len(size) == 2 else WINDOWS[:2]) if small else WINDOWS[1:2]
        for mode in MODES if small else ["binary"]:
            for inner, outer in windows:
                for takes, case in functions(mode, inner, outer):
                    held = worst.setdefault(case[0], {})
                    for dtype, found in measure(mode, size, takes, case):
                        for kind, error in found.items():
                            key = (dtype, kind)
                            held[key] = max(held.get(key, 0.0), error)
    print(f"| value, gradient | {' | '.join(DTYPES)} | flips |")
    print("| --- |" + " ---: |" * (len(DTYPES) + 1))
    for name, held in worst.items():
        cells = [
            ", ".join(
                f"{held[dtype, kind]:.0e}"
                for kind in ("value", "gradient")
                if (dtype, kind) in held
            )
            for dtype in DTYPES
        ]
        flips = max(error for (_, kind), error in held.items() if kind == "flips")
        print(f"| `{name}` | {' | '.join(cells)} | {flips:.0f} |")


if __name__ == "__main__":
    main()
