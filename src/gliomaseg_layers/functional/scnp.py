"""SCNP: every logit gives way to the worst one of its class nearby."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gliomaseg_layers._checks import check_settings, check_window
from gliomaseg_layers.functional._scores import Scores, read_labelled

__all__ = ["scnp", "worst_of_class"]


def scnp(
    input: Tensor,
    target: Tensor,
    *,
    mode: str = "binary",
    size: int | Sequence[int] = 3,
    from_logits: bool = True,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Replace every logit by the worst one of its class in a small window around it.

    With :math:`y_c(p)` whether pixel p is of class c, and W(p) the window around p,

    .. math::
        \tilde z_c(p) = \begin{cases}
            \min \, \{ z_c(r) : r \in W(p), \, y_c(r) = 1 \} & \text{if } y_c(p) = 1 \\
            \max \, \{ z_c(r) : r \in W(p), \, y_c(r) = 0 \} & \text{else}
        \end{cases}

    The result goes into any loss in the place of the logits. A pixel then costs as much as its
    worst neighbour, so that one wrong pixel may be counted as often as the window has pixels, and a
    network learns to leave neither islands nor holes. Same class neighbour penalization (SCNP) is
    its authors' name for this.

    Args:
        input: logits, or probabilities with ``from_logits=False``, ``(N, C, H, W)`` or
            ``(N, C, D, H, W)``.
        target: as for ``outlier_region_loss``. Where it is soft, a pixel is of class c above 0.5.
        mode: "binary" (C = 1), "multilabel" (C >= 1) or "multiclass" (C >= 2).
        size: side of the window in pixels, odd; one int, or one per spatial axis. Thick slices want
            ``(1, 3, 3)``. 1 changes nothing.
        from_logits: False where ``input`` holds probabilities, which are clamped to [0, 1].
        ignore_index: pixels whose target has this value are nobody's neighbour, and become 0. Not
            with floating multiclass targets.
        mask: boolean, False for pixels that are nobody's neighbour likewise; ``(N, *spatial)``,
            ``(N, 1, *spatial)``, or the shape of ``input`` in binary and multilabel mode.

    Returns:
        The worst logits, of the shape and dtype of ``input``.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument is out of its range, or shapes or devices do not fit.

    Source: arXiv 2603.18671, of which this is a new implementation; none of the library's papers.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[[-4.0, -3.0, 2.0, 5.0, 1.0]]]])
        >>> target = torch.tensor([[[[0, 0, 0, 1, 1]]]])
        >>> scnp(logits, target)  # the third pixel is wrong, and so its neighbour counts as wrong
        tensor([[[[-3.,  2.,  2.,  1.,  1.]]]])
    """
    check_settings(size=size)
    scores, labels = read_labelled(input, target, mode, from_logits, ignore_index, mask)
    sides = check_window("size", size, input.dim() - 2)
    return worst_of_class(scores, labels, sides).values.to(input.dtype)


def worst_of_class(scores: Scores, target: Tensor, sides: Sequence[int]) -> Scores:
    """Return the worst scores nearby, of scores and a target read already and a window checked."""
    values = scores.values
    if not values.numel():  # which torch's pooling refuses
        return scores
    if target.is_floating_point():
        member = target > 0.5
    else:
        classes = torch.arange(values.shape[1], device=values.device)
        member = target.unsqueeze(1) == classes.view(-1, *[1] * (values.dim() - 2))
    others = ~member
    if scores.inside is not None:
        member, others = member & scores.inside, others & scores.inside
    # A window beyond the image on every side sees no more.
    seen = zip(sides, values.shape[2:], strict=True)
    sides = [side if side < 2 * size else 2 * size - 1 for side, size in seen]
    around = [side // 2 for side in reversed(sides) for _ in range(2)]
    pool = F.max_pool2d if values.dim() == 4 else F.max_pool3d

    def highest_of(values: Tensor, peers: Tensor) -> Tensor:
        # Where no pixel is a peer, a compiled pool looks for the gradient's place in the padding.
        # So that this place exists, the padding is ours.
        found = F.pad(values.where(peers, -torch.inf), around, value=-torch.inf)
        for axis, side in enumerate(sides):  # one after the other: fewer comparisons
            found = pool(found, [side if other == axis else 1 for other in range(len(sides))], 1)
        return found

    lowest, highest = -highest_of(-values, member), highest_of(values, others)
    # Pixels outside the image are neither.
    worst = lowest.where(member, highest.where(others, values))
    return Scores(worst, scores.mode, scores.from_logits, scores.valid)
