"""The one place that knows what ``reduction`` means, and that a mean counts valid entries."""

from torch import Tensor


def reduce(values: Tensor, valid: Tensor | None, reduction: str) -> Tensor:
    """Reduce a map of losses, in which entries that are not ``valid`` count nothing.

    ``valid`` is a boolean map that broadcasts to ``values``, or None where all entries count.
    The mean of no valid entry is 0, with zero gradient.
    """
    if valid is not None:
        valid = valid.expand_as(values)
        values = values.where(valid, 0.0)
    if reduction == "none":
        return values
    total = values.sum()
    if reduction == "sum":
        return total
    if valid is None:
        return total / max(values.numel(), 1)
    return total / valid.sum().clamp(min=1)
