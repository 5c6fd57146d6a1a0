"""From the sums over every channel of every image to the loss, its terms and its slopes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gliomaseg_layers._reduction import reduce
from gliomaseg_layers.functional._plan import Plan


class Slopes(NamedTuple):
    """The loss's derivatives by its sums, or with reduction "none" the map's by its entries."""

    cross_entropy: Tensor  # of all planes alike
    term: Tensor  # this and the others: of each
    probs: Tensor
    overlap: Tensor


class Totals:
    """Sums over the pixels of every plane (image of a channel), in double precision.

    ``term`` is what the formulation adds to the cross-entropy before its strength, ``weight`` the
    outlier weight, ``overlap`` the product of probabilities and target, ``pixels`` a count.
    """

    def __init__(self, planes: int) -> None:
        self.table = torch.zeros(7, planes, dtype=torch.float64, device="cpu")
        self.cross_entropy, self.term, self.weight = self.table[:3]
        self.probs, self.overlap, self.target, self.pixels = self.table[3:]

    def finish(
        self, plan: Plan, weights: Sequence[float | Tensor], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Slopes]:
        """Return the weighted sum of the terms, the terms (CE, Dice, the formulation's), slopes."""
        alpha, beta, gamma = weights
        strength = torch.full_like(self.term, plan.strength)
        if plan.formulation == "balanced":
            # The floor acts where nothing is flagged.
            balance = plan.share * self.pixels / self.weight.clamp(min=1e-30)
            strength = balance.clamp(max=plan.strength)
        count = self.pixels.sum().clamp(min=1) if plan.reduction == "mean" else 1
        cross_entropy = self.cross_entropy.sum() / count
        term = (strength * self.term).sum() / count
        dice, by_probs, by_overlap = self._dice(plan)
        loss = alpha * cross_entropy + beta * dice + gamma * term
        slopes = (
            torch.as_tensor(alpha / count, device="cpu"),
            gamma * strength / count,
            beta * by_probs,
            beta * by_overlap,
        )
        terms = torch.stack([cross_entropy, dice, term])
        return loss.to(dtype), terms.to(dtype), Slopes(*(slope.to(dtype) for slope in slopes))

    def _dice(self, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
        """Return the reduced Dice loss, and its slopes by the sums it is made of."""
        if plan.dice_smooth is None:
            nothing = self.table.new_zeros(())
            return nothing, nothing, nothing
        counted = self.pixels > 0
        above = 2 * self.overlap + plan.dice_smooth
        below = self.probs + self.target + plan.dice_smooth
        number = counted.sum().clamp(min=1) if plan.reduction == "mean" else 1
        dice = reduce(1 - above / below, counted, plan.reduction)
        return dice, above / (below.square() * number), -2 / (below * number)
