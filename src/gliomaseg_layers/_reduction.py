"""What "none", "mean" and "sum" make of a map in which not every entry counts."""

import torch
from torch import Tensor

from gliomaseg_layers._checks import REDUCTIONS, check_choice


def keep(values: Tensor, valid: Tensor | None) -> Tensor:
    """Replace what is not ``valid`` by 0, whatever it is, and cut its gradient."""
    return values if valid is None else values.where(valid, values.new_zeros(()))


def reduce(
    values: Tensor, valid: Tensor | None, reduction: str, weights: Tensor | None = None
) -> Tensor:
    """Reduce a map of losses, in which entries that are not ``valid`` count nothing.

    ``valid`` is a boolean map that broadcasts to ``values``, or None where all entries count.
    ``weights`` broadcast likewise: the mean divides by their sum over the valid entries. The mean
    of no valid entry is 0, with zero gradient.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    values = keep(values if weights is None else values * weights, valid)
    if reduction == "none":
        return values
    if reduction == "mean" and weights is None and valid is None and values.numel():
        return values.mean()
    total = values.sum()
    if reduction == "sum":
        return total
    if weights is not None:
        count = keep(weights.expand_as(values), valid).sum()
        return total / count.clamp(min=torch.finfo(count.dtype).tiny)
    if valid is None:  # of no entry
        return total
    return total / valid.expand_as(values).sum().clamp(min=1)
