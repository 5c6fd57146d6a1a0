"""Figures of every case, kept in the states of a torchmetrics metric and reduced at the end."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torchmetrics import Metric

from gliomaseg_layers._checks import check_bool, check_choice, check_int, check_number
from gliomaseg_layers.metrics._masks import read_maps

REDUCTIONS = ("mean", "mean_batch", "none")  # as MONAI calls them


class CaseMetric(Metric):
    """A metric with the same figures of every case, which is a class (or channel) of an image.

    Each state is a column of a table: a list of 1-D tensors, with an entry for every case. So
    nothing is summed up in a narrow dtype, and no state is float64, which not every device has.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(
        self,
        score: partial[Any],
        figures: type[NamedTuple],
        *,
        spacing: Sequence[float] | None,
        threshold: float,
        num_classes: int | None,
        include_background: bool,
        reduction: str,
        ignore_empty: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_number("threshold", threshold)
        check_bool("include_background", include_background)
        check_choice("reduction", reduction, REDUCTIONS)
        check_bool("ignore_empty", ignore_empty)
        if num_classes is not None:
            check_int("num_classes", num_classes)
            if num_classes < 2:
                raise ValueError(f"`num_classes` must be at least 2, or None, got {num_classes}")
        elif include_background:
            raise ValueError(
                "`include_background` may be True with `num_classes`, got None of them"
            )
        empty = np.zeros((1,) * (2 if np.asarray(spacing).size == 2 else 3))
        score(empty, empty, spacing=spacing)  # a bad setting fails here
        self.score = score
        self.spacing = spacing
        self.threshold = threshold
        self.num_classes = num_classes
        self.include_background = include_background
        self.reduction = reduction
        self.ignore_empty = ignore_empty
        self.columns = {"channel": torch.long, "nonempty": torch.long}
        for name, kind in figures.__annotations__.items():
            self.columns[name] = torch.long if kind is int else torch.float32
        for name in self.columns:
            self.add_state(name, [], dist_reduce_fx="cat")
        # A MetricCollection updates only one of the metrics whose states have equal names and,
        # after the first batch, equal values. An empty image gives all settings equal values. So
        # metrics with other settings have an empty state that is named after them.
        settings = (score.keywords, spacing, threshold, num_classes, include_background)
        self.add_state(f"{settings}", [], dist_reduce_fx=None)

    def update(
        self, preds: Tensor, target: Tensor, spacing: ArrayLike | Tensor | None = None
    ) -> None:
        """Add the figures of every image of a batch."""
        predicted, truth = read_maps(
            preds, target, self.threshold, self.num_classes, self.include_background
        )
        images, channels, *shape = truth.shape
        sides = _read_spacing(self.spacing if spacing is None else spacing, images, len(shape))
        rows = []
        for image, channel in np.ndindex(images, channels):
            pair = predicted[image, channel], truth[image, channel]
            figures = self.score(*pair, spacing=sides[image])
            rows.append((channel, bool(pair[1].any()), *figures))
        for number, (name, dtype) in enumerate(self.columns.items()):
            column = torch.tensor([row[number] for row in rows], dtype=dtype, device=self.device)
            getattr(self, name).append(column)

    def compute(self) -> dict[str, Tensor]:
        """Return the figures of all images since the last reset."""
        table = {name: self._column(name).cpu() for name in self.columns}
        channel, nonempty = table.pop("channel"), table.pop("nonempty") > 0
        kept = self._arrange(nonempty | (not self.ignore_empty), channel)
        table = {name: self._arrange(column, channel) for name, column in table.items()}
        if self.reduction == "none":
            for name, column in table.items():
                if column.is_floating_point():
                    table[name] = column.where(kept, torch.nan)
        else:
            images = kept.sum(0)
            for name, column in table.items():
                if column.is_floating_point():
                    table[name] = (column.double().where(kept, 0).sum(0) / images).float()
                else:
                    table[name] = column.where(kept, 0).sum(0)
            table = {"images": images} | table
        return {name: figure.to(self.device) for name, figure in table.items()}

    def reset(self) -> None:
        """Forget all images."""
        # New lists: torchmetrics would empty the old ones, of which its `Running` and whoever asked
        # for `metric_state` keep no copy.
        for name in self.columns:
            setattr(self, name, [])
        super().reset()

    def _arrange(self, column: Tensor, channel: Tensor) -> Tensor:
        """Return a column ``(N * C,)`` as ``(N, C)``, unless the mean is over both."""
        if self.reduction == "mean":
            return column
        channels = int(channel.max()) + 1 if channel.numel() else 1
        if not torch.equal(channel, torch.arange(len(channel), device=channel.device) % channels):
            raise ValueError(
                f"`preds` must have the same number of channels in every update with "
                f"reduction={self.reduction!r}, got others"
            )
        return column.reshape(-1, channels)

    def _column(self, name: str) -> Tensor:
        parts = getattr(self, name)  # a list, or a tensor once processes are synchronised
        if isinstance(parts, Tensor):
            return parts
        if parts:
            return torch.cat(parts)
        return torch.zeros(0, dtype=self.columns[name], device=self.device)

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        """Give a process without images columns of the dtypes that the others have."""
        for name in self.columns:
            setattr(self, name, [self._column(name)])
        super()._sync_dist(*args, **kwargs)

    def _apply(
        self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ""
    ) -> nn.Module:
        """Follow to another device, not into another dtype: bfloat16 counts to 256."""

        def move(state: Tensor) -> Tensor:
            like = fn(state.new_empty(0))
            return fn(state) if like.dtype == state.dtype else state.to(like.device)

        return super()._apply(move, exclude_state)

    def persistent(self, mode: bool = False) -> None:
        """Choose whether a state dict has the figures."""
        for name in self.columns:
            self._persistent[name] = mode

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        names = {prefix + name: dtype for name, dtype in self.columns.items()}
        if any(name in state_dict for name in names):  # they are not, by default
            length = None
            for name, dtype in names.items():
                column: Any = state_dict.get(name)
                if not _is_column(column, dtype, length):
                    error_msgs.append(
                        f"`{name}` must be a list of tensors (n,) of {dtype}, finite and >= 0, as "
                        f"many as the other columns have, got {column}"
                    )
                    return
                length = sum(map(len, column))
                # Copies, for they are the state from now on.
                state_dict[name] = [part.to(self.device, copy=True) for part in column]
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )


def _is_column(column: Any, dtype: torch.dtype, length: int | None) -> bool:
    return (
        isinstance(column, list)
        and all(
            isinstance(part, Tensor)
            and part.dim() == 1
            and part.dtype == dtype
            and bool((part.isfinite() & (part >= 0)).all())
            for part in column
        )
        and length in (None, sum(map(len, column)))
    )


def _read_spacing(
    spacing: ArrayLike | Tensor | None, images: int, axes: int
) -> list[list[float] | None]:
    """Return the spacing of every image."""
    if spacing is None:
        return [None] * images
    sides = np.asarray(spacing.tolist() if isinstance(spacing, Tensor) else spacing, float)
    if sides.shape not in ((axes,), (images, axes)) or not (np.isfinite(sides) & (sides > 0)).all():
        raise ValueError(
            f"`spacing` must have {axes} positive entries, one an axis, or a row of them for each "
            f"of {images} images, got {spacing!r}"
        )
    rows: list[list[float] | None] = np.broadcast_to(sides, (images, axes)).tolist()
    return rows
