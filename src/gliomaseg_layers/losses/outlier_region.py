"""Module face of ``functional.outlier_region_loss``."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from gliomaseg_layers.functional import outlier_region_loss
from gliomaseg_layers.functional.outlier_region import check_outlier_settings

__all__ = ["OutlierRegionLoss"]


class OutlierRegionLoss(nn.Module):
    """Cross-entropy with a term for outlier regions: islands too small to be believed.

    The module of :func:`gliomaseg_layers.functional.outlier_region_loss`, which has the formula
    and says what the arguments mean, what is raised, and what each formulation does. Weights
    given as tensors move with ``.to()``; a loss learns nothing, so its ``state_dict`` is empty.

    Shapes: ``input`` ``(N, C, *spatial)``; ``target`` like it, or class indices ``(N, *spatial)``
    in multiclass mode; the result is a scalar, or a map with ``reduction="none"``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range.
        RuntimeError: ``backend="triton"`` where its kernels cannot run, or a class index out of
            range.

    Source: [WAN23] eq. 12 for ``formulation="paper"``.

    Example:
        >>> import torch
        >>> loss = OutlierRegionLoss(mode="multiclass")
        >>> logits = torch.randn(2, 4, 32, 32, requires_grad=True)
        >>> target = torch.randint(4, (2, 32, 32))
        >>> loss(logits, target).backward()
        >>> loss(logits, target, mask=target != 3).shape
        torch.Size([])
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        *,
        mode: str = "binary",
        formulation: str = "balanced",
        inner: int | Sequence[int] = 7,
        outer: int | Sequence[int] = 21,
        smooth: float = 1.0,
        threshold: float | None = None,
        strength: float | None = None,
        levels: Sequence[float] | None = None,
        share: float = 0.1,
        from_logits: bool = True,
        pos_weight: float | Tensor | None = None,
        class_weights: float | Tensor | None = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.mode = mode
        self.formulation = formulation
        self.inner = inner
        self.outer = outer
        self.smooth = smooth
        self.threshold = threshold
        self.strength = strength
        self.levels = levels
        self.share = share
        self.from_logits = from_logits
        self.pos_weight: float | Tensor | None
        self.class_weights: float | Tensor | None
        self._keep_weight("pos_weight", pos_weight)
        self._keep_weight("class_weights", class_weights)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.backend = backend
        check_outlier_settings(**self.term_arguments(), reduction=reduction, backend=backend)

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return outlier_region_loss(
            input,
            target,
            mask=mask,
            reduction=self.reduction,
            backend=self.backend,
            **self.term_arguments(),
        )

    def term_arguments(self) -> dict[str, Any]:
        """Return the arguments that decide the value of the loss at a pixel."""
        return {
            "mode": self.mode,
            "formulation": self.formulation,
            "inner": self.inner,
            "outer": self.outer,
            "smooth": self.smooth,
            "threshold": self.threshold,
            "strength": self.strength,
            "levels": self.levels,
            "share": self.share,
            "from_logits": self.from_logits,
            "pos_weight": self.pos_weight,
            "class_weights": self.class_weights,
            "ignore_index": self.ignore_index,
        }

    def extra_repr(self) -> str:
        shown = self.term_arguments() | {"reduction": self.reduction, "backend": self.backend}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items() if value is not None)

    def _keep_weight(self, name: str, weight: float | Tensor | None) -> None:
        if isinstance(weight, Tensor):
            self.register_buffer(name, weight, persistent=False)
        else:
            setattr(self, name, weight)
