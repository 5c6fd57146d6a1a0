"""Raise a weight of a loss during training."""

import math
from collections.abc import Mapping
from typing import Any

from gliomaseg_layers._checks import check_choice, check_int, check_not_negative
from gliomaseg_layers.losses.compound import CompoundLoss

__all__ = ["WeightRamp"]

SHAPES = ("linear", "cosine", "step")


class WeightRamp:
    r"""Raise a weight of a :class:`CompoundLoss` from ``start`` to ``end`` during training.

    The weight at step t, with :math:`f = (t - warmup) / (total - warmup)` clamped to [0, 1]:

    .. math::
        \text{linear:} \; s + (e - s) f, \qquad
        \text{cosine:} \; s + (e - s) (1 - \cos \pi f) / 2, \qquad
        \text{step:} \; e \text{ where } f > 0 \text{, else } s

    Construction is step 0 and sets ``start``; call :meth:`step` after every optimiser step (or
    epoch: the unit is yours), as with a learning-rate scheduler. Beyond ``total_steps`` the weight
    stays at ``end``. It is written into the loss's buffer, so a compiled step is not compiled
    again. Save its :meth:`state_dict` beside the optimiser's: the loss itself keeps no state.

    Args:
        loss: the loss whose weight is raised, built with a weight that is not 0.
        name: "alpha", "beta" or "gamma".
        total_steps: step at which ``end`` is reached, warm-up included; > ``warmup_steps``.
        start: weight at step 0 and through the warm-up, >= 0.
        end: weight from ``total_steps`` on, >= 0.
        warmup_steps: steps for which ``start`` is held, >= 0.
        shape: "linear", "cosine" or "step" (which jumps after the warm-up).

    Attributes:
        last_value: the weight that was set last.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or a state does not fit.

    Source: [WAN23] 3.4.3 lets the conventional loss dominate early in training.

    Example:
        >>> loss = CompoundLoss()
        >>> ramp = WeightRamp(loss, "gamma", total_steps=4)
        >>> for _ in range(3):
        ...     ramp.step()
        >>> ramp.last_value, float(loss.gamma)
        (0.75, 0.75)
    """

    def __init__(
        self,
        loss: CompoundLoss,
        name: str,
        *,
        total_steps: int,
        start: float = 0.0,
        end: float = 1.0,
        warmup_steps: int = 0,
        shape: str = "linear",
    ) -> None:
        if not isinstance(loss, CompoundLoss):
            raise TypeError(f"`loss` must be a CompoundLoss, got {type(loss).__name__}")
        check_choice("name", name, tuple(loss.enabled))
        if not loss.enabled[name]:
            raise ValueError(
                f"`loss` must have a weight {name!r} that is not 0, which switches its term off "
                f"for good, got {name}=0; the ramp itself begins at `start`"
            )
        check_int("total_steps", total_steps)
        check_int("warmup_steps", warmup_steps)
        check_not_negative("warmup_steps", warmup_steps)
        if total_steps <= warmup_steps:
            raise ValueError(
                f"`total_steps` must be > `warmup_steps`, got {total_steps} and {warmup_steps}"
            )
        check_not_negative("start", start)
        check_not_negative("end", end)
        check_choice("shape", shape, SHAPES)
        self.loss = loss
        self.name = name
        self.total_steps = total_steps
        self.start = start
        self.end = end
        self.warmup_steps = warmup_steps
        self.shape = shape
        self.last_step = 0
        self._write(self.value_at(0))

    def value_at(self, step: int) -> float:
        """Return the weight at a step."""
        if step <= self.warmup_steps:
            return self.start
        if step >= self.total_steps or self.shape == "step":
            return self.end
        part = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        if self.shape == "cosine":
            part = (1 - math.cos(math.pi * part)) / 2
        return self.start + (self.end - self.start) * part

    def step(self) -> None:
        """Go on by one step and write its weight into the loss."""
        self.last_step += 1
        self._write(self.value_at(self.last_step))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; the schedule itself is given at construction."""
        return {"name": self.name, "last_step": self.last_step, "last_value": self.last_value}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved state, and write its weight into the loss.

        A state that does not fit raises, and changes nothing.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"`state_dict` must be a mapping, got {type(state_dict).__name__}")
        missing = {"name", "last_step", "last_value"} - set(state_dict)
        if missing:
            raise ValueError(f"`state_dict` must be a WeightRamp's, got one without {missing}")
        if state_dict["name"] != self.name:
            raise ValueError(
                f"`state_dict` must be of a ramp of {self.name!r}, got {state_dict['name']!r}"
            )
        check_int("last_step", state_dict["last_step"])
        check_not_negative("last_step", state_dict["last_step"])
        check_not_negative("last_value", state_dict["last_value"])
        self.last_step = state_dict["last_step"]
        self._write(state_dict["last_value"])

    def _write(self, value: float) -> None:
        self.last_value = value
        getattr(self.loss, self.name).fill_(value)
