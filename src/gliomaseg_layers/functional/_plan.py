"""What the closed forms of the loss read: its settings, without open defaults, and its maps."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from gliomaseg_layers._checks import check_windows
from gliomaseg_layers.functional._cross_entropy import per_channel
from gliomaseg_layers.functional._outlier_terms import DEFAULT_LEVELS, DEFAULT_STRENGTH
from gliomaseg_layers.functional._scores import arrange_mask, arrange_target, can_hold, check_input
from gliomaseg_layers.functional.region_density import default_threshold


class Plan(NamedTuple):
    """The settings of the loss. Without ``dice_smooth`` it has no Dice term."""

    formulation: str
    inner: tuple[int, ...]
    outer: tuple[int, ...]
    smooth: float
    threshold: float
    strength: float
    levels: tuple[float, ...]
    share: float
    reduction: str
    dice_smooth: float | None

    @property
    def log_odds(self) -> tuple[float, ...]:
        """Return the logit of every level."""
        return tuple(math.log(level / (1 - level)) for level in self.levels)

    @property
    def largest_count(self) -> int:
        """Return S as the whole number of pixels that it amounts to."""
        return min(math.floor(self.threshold), math.prod(self.outer))

    def within(self, spatial: Sequence[int]) -> "Plan":
        """Clip the windows to what sees all of an image from anywhere in it."""

        def clip(window: tuple[int, ...]) -> tuple[int, ...]:
            sides = zip(window, spatial, strict=True)
            return tuple(min(side, max(2 * length - 1, 1)) for side, length in sides)

        return self._replace(inner=clip(self.inner), outer=clip(self.outer))


class Maps(NamedTuple):
    """What the loss reads, as it is given: views ``(N, C, *spatial)``, and weights ``(C,)``."""

    logits: Tensor
    target: Tensor
    mask: Tensor | None
    ignore_index: int | None
    pos_weight: Tensor | None
    class_weights: Tensor | None


def make_plan(
    axes: int, settings: dict[str, Any], reduction: str, dice_smooth: float | None
) -> Plan:
    """Fill in the defaults of checked settings, for images of two or three axes."""
    formulation = settings["formulation"]
    inner, outer = check_windows(settings["inner"], settings["outer"], axes)
    threshold = settings["threshold"]
    if threshold is None:
        threshold = default_threshold(inner) if formulation == "paper" else math.prod(inner)
    strength, levels = settings["strength"], settings["levels"]
    if formulation == "paper":  # which reads neither
        strength, levels = 1.0, (0.5,)
    if strength is None:
        strength = DEFAULT_STRENGTH[formulation]
    if levels is None:
        levels = DEFAULT_LEVELS[formulation]
    return Plan(
        formulation,
        inner,
        outer,
        float(settings["smooth"]),
        float(threshold),
        float(strength),
        tuple(map(float, levels)),
        float(settings["share"]),
        reduction,
        dice_smooth,
    )


def read_maps(input: Tensor, target: Tensor, mask: Tensor | None, settings: dict[str, Any]) -> Maps:
    """Check the maps of a binary or multilabel loss and bring them to one shape, without copies."""
    mode, ignore_index = settings["mode"], settings["ignore_index"]
    check_input("input", input, mode)
    if mask is not None:
        mask = arrange_mask("mask", mask, input, False).expand(input.shape)
    target = arrange_target(input, target, mode, ignore_index)
    if ignore_index is not None and not can_hold(target.dtype, ignore_index):
        ignore_index = None
    weights = (
        None if settings[name] is None else per_channel(name, settings[name], input).view(-1)
        for name in ("pos_weight", "class_weights")
    )
    return Maps(input, target, mask, ignore_index, *weights)
