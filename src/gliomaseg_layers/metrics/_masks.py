"""Maps of predictions and targets, image by image, as masks on the host."""

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from gliomaseg_layers._checks import check_tensor


def mask_pairs(
    preds: Tensor, target: Tensor, threshold: float
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield predicted and true mask of every channel of every sample."""
    check_tensor("preds", preds)
    check_tensor("target", target)
    if preds.dim() not in (4, 5):
        raise ValueError(
            f"`preds` must be (N, C, H, W) or (N, C, D, H, W), got shape {tuple(preds.shape)}"
        )
    if preds.shape != target.shape:
        raise ValueError(
            f"`target` must have the shape of `preds`, {tuple(preds.shape)}, "
            f"got {tuple(target.shape)}"
        )
    found = preds > threshold if preds.is_floating_point() else preds != 0
    masks = [mask.flatten(0, 1).cpu().numpy() for mask in (found, target != 0)]
    yield from zip(*masks, strict=True)
