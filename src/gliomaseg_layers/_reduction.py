"""The one place that knows what a valid entry is, and what ``reduction`` makes of them."""

from torch import Tensor


def keep(values: Tensor, valid: Tensor | None) -> Tensor:
    """Replace what is not ``valid`` by 0, whatever it is, and cut its gradient."""
    return values if valid is None else values.where(valid, values.new_zeros(()))


def reduce(values: Tensor, valid: Tensor | None, reduction: str) -> Tensor:
    """Reduce a map of losses, in which entries that are not ``valid`` count nothing.

    ``valid`` is a boolean map that broadcasts to ``values``, or None where all entries count.
    The mean of no valid entry is 0, with zero gradient.
    """
    values = keep(values, valid)
    if reduction == "none":
        return values
    total = values.sum()
    if reduction == "sum":
        return total
    if valid is None:
        return total / max(values.numel(), 1)
    return total / valid.expand_as(values).sum().clamp(min=1)
