"""Maps of predictions and targets as masks on the host, one for every class of every image."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from gliomaseg_layers._checks import check_tensor

Masks = NDArray[Any]


def read_maps(
    preds: Tensor,
    target: Tensor,
    threshold: float,
    num_classes: int | None,
    include_background: bool,
) -> tuple[Masks, Masks]:
    """Return both as masks ``(N, C, *spatial)``, read by the same rule."""
    for name, maps in (("preds", preds), ("target", target)):
        check_tensor(name, maps)
        if maps.is_floating_point() and maps.isnan().any():  # which would pass for background
            raise ValueError(f"`{name}` must hold no NaN")
    if num_classes is None:
        masks = _read_channels(preds, target, threshold)
    else:
        both = {"preds": preds, "target": target}
        known = [_spatial_axes(name, maps, num_classes) for name, maps in both.items()]
        axes = known[0] or known[1]
        if axes is None:
            raise ValueError(
                f"`preds` must be bool or floating where it has channels, or (N, 1, D, H, W) where "
                f"it is a label map: integers of shape {tuple(preds.shape)} may be {num_classes} "
                f"channels or volumes of depth {num_classes}, got {preds.dtype}"
            )
        first = 0 if include_background else 1
        masks = [
            _read_classes(name, maps, axes, num_classes)[:, first:] for name, maps in both.items()
        ]
    if masks[0].shape != masks[1].shape:
        hint = "; beside scores a label map needs `num_classes`" if num_classes is None else ""
        raise ValueError(
            f"`target` must have the shape of `preds`, {tuple(preds.shape)}, "
            f"got {tuple(target.shape)}{hint}"
        )
    predicted, truth = (mask.cpu().numpy() for mask in masks)
    return predicted, truth


def _read_channels(preds: Tensor, target: Tensor, threshold: float) -> list[Tensor]:
    """Read every channel as an image of its own."""
    if preds.dim() not in (4, 5):
        raise ValueError(
            f"`preds` must be (N, C, H, W) or (N, C, D, H, W), got shape {tuple(preds.shape)}"
        )
    if target.is_floating_point() and not 0 <= threshold < 1:
        raise ValueError(
            f"`target` must be bool or integer with threshold={threshold}, which would cut a "
            f"floating one too, got {target.dtype}"
        )
    return [maps > threshold if maps.is_floating_point() else maps != 0 for maps in (preds, target)]


def _spatial_axes(name: str, maps: Tensor, num_classes: int) -> int | None:
    """Return 2 or 3; None for integers that may be channels of planes, or volumes."""
    if maps.dim() in (3, 5):
        return 2 if maps.dim() == 3 else 3
    if maps.dim() != 4:
        raise ValueError(
            f"`{name}` must be a label map (N, *spatial) or (N, 1, *spatial), or (N, C, *spatial), "
            f"got shape {tuple(maps.shape)}"
        )
    depth = maps.shape[1]
    if maps.is_floating_point() or maps.dtype == torch.bool or depth == 1:
        return 2
    return None if depth == num_classes else 3


def _read_classes(name: str, maps: Tensor, axes: int, num_classes: int) -> Tensor:
    if maps.dim() == axes + 2 and maps.shape[1] != 1:
        return _one_hot(name, maps, num_classes)
    labels = maps.squeeze(1) if maps.dim() == axes + 2 else maps
    if labels.dim() != axes + 1:
        expected = f"a label map or channels with {axes} spatial axes, as the other has"
        raise ValueError(f"`{name}` must be {expected}, got shape {tuple(maps.shape)}")
    masks = torch.stack([labels == number for number in range(num_classes)], 1)
    other = ~masks.any(1)
    if other.any():
        raise ValueError(
            f"`{name}` must hold classes 0 to {num_classes - 1} where it is a label map, "
            f"got {labels[other][0].item()}"
        )
    return masks


def _one_hot(name: str, maps: Tensor, num_classes: int) -> Tensor:
    if maps.shape[1] != num_classes:
        raise ValueError(
            f"`{name}` must have {num_classes} channels, or 1 where it is a label map, "
            f"got shape {tuple(maps.shape)}"
        )
    if not maps.is_floating_point():
        return maps != 0
    best = maps.argmax(1)
    return torch.stack([best == number for number in range(num_classes)], 1)
