"""Checks of arguments. Each error names the argument, what was expected and what came."""

import operator
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Rational, Real
from typing import Any

import torch
from torch import Tensor

MODES = ("binary", "multilabel", "multiclass")
REDUCTIONS = ("none", "mean", "sum")
SMALLEST, LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


def shown(value: object) -> str:
    """Write a value down; of an array its shape, for all its numbers would drown the message."""
    shape = getattr(value, "shape", ())
    if not (isinstance(shape, tuple) and shape):
        return repr(value)
    return f"{type(value).__name__} of shape {tuple(shape)}"


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if not (isinstance(value, str) and value in choices):
        expected = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {expected}, got {shown(value)}")


def check_positive(name: str, value: float) -> None:
    check_number(name, value)
    if not SMALLEST <= value <= LARGEST:
        raise ValueError(f"`{name}` must be finite and > 0, in fp32 too, got {value}")


def check_not_negative(name: str, value: float) -> None:
    check_number(name, value)
    if not 0 <= value <= LARGEST:
        raise ValueError(f"`{name}` must be finite and >= 0, in fp32 too, got {value}")


def check_fraction(name: str, value: float) -> None:
    check_number(name, value)
    if not 0 <= value < 1:
        raise ValueError(f"`{name}` must be at least 0 and below 1, got {value}")


def check_levels(name: str, levels: Sequence[float]) -> None:
    if not isinstance(levels, Sequence) or isinstance(levels, str):
        raise TypeError(f"`{name}` must be a sequence of numbers, got {shown(levels)}")
    if not levels:
        raise ValueError(f"`{name}` must hold at least one probability, got {levels!r}")
    for level in levels:
        check_number(name, level)
        if not 0 < level < 1:
            raise ValueError(f"`{name}` must lie between 0 and 1, without either, got {levels!r}")


def check_int(name: str, value: int) -> None:
    if not _is_int(value):
        raise TypeError(f"`{name}` must be an int, got {shown(value)}")


def check_bool(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False, got {shown(value)}")


def check_window(
    name: str, window: int | Sequence[int], axes: int | None = None
) -> tuple[int, ...]:
    """Return one side per axis; without ``axes`` an int stands for one axis."""
    sides = tuple(window) if isinstance(window, Sequence) else (window,) * (axes or 1)
    for side in sides:
        if not _is_int(side):
            expected = "an int or one int per spatial axis"
            raise TypeError(f"`{name}` must be {expected}, got {shown(window)}")
        if side < 1 or side % 2 == 0:
            raise ValueError(f"`{name}` must be odd and positive on every axis, got {window!r}")
    if axes is not None and len(sides) != axes:
        raise ValueError(f"`{name}` must be an int or {axes} ints, one per axis, got {window!r}")
    return tuple(operator.index(side) for side in sides)


def check_windows(
    inner: int | Sequence[int], outer: int | Sequence[int], axes: int | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return both windows with one side per axis, the outer the larger."""
    if axes is None:
        lengths = {len(window) for window in (inner, outer) if isinstance(window, Sequence)}
        axes = max(lengths, default=1)
    small, large = check_window("inner", inner, axes), check_window("outer", outer, axes)
    if small == large or any(i > j for i, j in zip(small, large, strict=True)):
        raise ValueError(
            "`outer` must be at least `inner` on every axis and larger on one, "
            f"got inner={inner!r} and outer={outer!r}"
        )
    return small, large


def check_tensor(name: str, tensor: Tensor) -> None:
    if isinstance(tensor, torch.fx.Proxy):
        raise TypeError(
            f"`{name}` must be a torch.Tensor, got a Proxy of torch.fx.symbolic_trace, which "
            "cannot follow the checks of sizes; torch.export makes an fx graph too"
        )
    if not isinstance(tensor, Tensor):
        raise TypeError(f"`{name}` must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.layout != torch.strided:
        raise TypeError(f"`{name}` must be dense, of torch.strided, got {tensor.layout}")


def check_image(name: str, tensor: Tensor, *, integers: bool = False) -> None:
    check_tensor(name, tensor)
    if not tensor.is_floating_point() and not (integers and is_integer(tensor)):
        expected = "a floating or integer" if integers else "a floating"
        raise TypeError(f"`{name}` must have {expected} dtype, got {tensor.dtype}")
    if tensor.dim() not in (4, 5):
        raise ValueError(
            f"`{name}` must be (N, C, H, W) or (N, C, D, H, W), got shape {tuple(tensor.shape)}"
        )


def check_beside(name: str, tensor: Tensor, input: Tensor) -> None:
    """Check that ``tensor`` is a tensor, and on the device of ``input``."""
    check_tensor(name, tensor)
    if tensor.device != input.device:
        raise ValueError(
            f"`{name}` must be on the device of `input`, {input.device}, got {tensor.device}"
        )


def is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _is_int(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_number(name: str, value: float) -> None:
    if type(value) in (int, float):  # to ask the abstract classes takes ten times as long
        return
    fraction = isinstance(value, Rational) and not isinstance(value, Integral)  # unknown to torch
    if not isinstance(value, Real) or isinstance(value, bool) or fraction:
        raise TypeError(f"`{name}` must be a number, got {shown(value)}")


def check_weight(name: str, weight: float | Tensor) -> None:
    """Check a weight of channels, as far as that needs no input."""
    if isinstance(weight, Tensor):
        return
    if hasattr(weight, "__len__"):  # a list, a tuple, an array of NumPy
        raise TypeError(
            f"`{name}` must be a number or a tensor of shape () or (C,), "
            f"got {shown(weight)}; write torch.as_tensor({name})"
        )
    check_not_negative(name, weight)


def check_settings(**settings: Any) -> None:
    """Check the arguments of a loss by their names, so that a module fails where it is built."""
    for name, value in settings.items():
        if not (value is None and name in OPTIONAL):
            SETTINGS[name](name, value)
    mode = settings.get("mode")
    if mode == "multiclass" and settings.get("pos_weight") is not None:
        raise ValueError(
            "`pos_weight` weighs the positives of binary and multilabel channels, "
            "got it with mode='multiclass'; use `class_weights`"
        )
    if mode != "multiclass" and settings.get("include_background") is False:
        raise ValueError(
            "`include_background` may be False in multiclass mode, whose class 0 it leaves out, "
            f"got it with mode={mode!r}"
        )
    if "inner" in settings:
        check_windows(settings["inner"], settings["outer"])


SETTINGS: dict[str, Callable[[str, Any], object]] = {
    "mode": partial(check_choice, choices=MODES),
    "window": check_window,
    "max_noise_size": check_not_negative,
    "levels": check_levels,
    "strength": check_not_negative,
    "share": check_positive,
    "inner": check_window,
    "outer": check_window,
    "size": check_window,
    "scnp": check_window,
    "smooth": check_positive,
    "threshold": check_not_negative,
    "from_logits": check_bool,
    "batch": check_bool,
    "include_background": check_bool,
    "soft_label": check_bool,
    "pos_weight": check_weight,
    "class_weights": check_weight,
    "ignore_index": check_int,
    "reduction": partial(check_choice, choices=REDUCTIONS),
}
OPTIONAL = (
    "max_noise_size",
    "share",
    "threshold",
    "pos_weight",
    "class_weights",
    "ignore_index",
    "scnp",
)
