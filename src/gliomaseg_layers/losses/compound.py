"""Cross-entropy, Dice and outlier-region loss in one pass."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gliomaseg_layers._checks import check_bool, check_choice, check_not_negative, check_positive
from gliomaseg_layers.functional._weighted_loss import weighted_loss
from gliomaseg_layers.losses.outlier_region import OutlierRegionLoss

__all__ = ["CompoundLoss"]


class CompoundLoss(nn.Module):
    r"""Weighted sum of cross-entropy, Dice loss and outlier-region term.

    .. math:: L = \alpha \, CE + \beta \, Dice + \gamma \, O

    O is what the outlier-region loss adds to the cross-entropy, so that CE is counted once. With
    ``formulation="paper"`` O is the whole loss, CE - D, as eq. 13 has it: CE is then counted
    twice, with weight :math:`\alpha + \gamma`. Sigmoid or softmax and CE are computed once for all
    three terms.

    The weights are non-persistent 0-d buffers ``alpha``, ``beta`` and ``gamma``: they move with
    ``.to()``, keep double precision whatever dtype the module is cast to, and can be raised during
    training by :class:`WeightRamp` without a recompilation. The ``state_dict`` is empty.

    Args:
        alpha: weight of the cross-entropy, >= 0.
        beta: weight of the Dice loss, >= 0. [WANG-MSFEN] has 0.3 / 0.7 and 0.7 / 0.3 with gamma 0.
        gamma: weight of the outlier term, >= 0.
        dice_smooth: ``smooth`` of the Dice loss, in pixels, > 0.
        mode: this, and all arguments up to ``backend`` but ``reduction``, are those of
            :func:`gliomaseg_layers.functional.outlier_region_loss`. The pixel weights apply to the
            cross-entropy, not to Dice; ``pos_weight`` is [LGG-GATE]'s.
        reduction: "mean" or "sum", of every term. There is no "none": Dice has no value per pixel.

    Shapes: ``input`` ``(N, C, *spatial)``; ``target`` like it, or class indices ``(N, *spatial)``
    in multiclass mode; the result is a scalar.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range.
        RuntimeError: ``backend="triton"`` where its kernels cannot run, or a class index out of
            range.

    Source: [WAN23] eq. 13.

    Example:
        >>> import torch
        >>> criterion = CompoundLoss()
        >>> logits = torch.randn(2, 1, 32, 32, requires_grad=True)
        >>> target = torch.rand(2, 1, 32, 32) > 0.9
        >>> loss, terms = criterion(logits, target, return_terms=True)
        >>> loss.backward()
        >>> sorted(terms)
        ['ce', 'dice', 'outlier']
    """

    alpha: Tensor
    beta: Tensor
    gamma: Tensor

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        *,
        mode: str = "binary",
        formulation: str = "balanced",
        dice_smooth: float = 1.0,
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
        for name, weight in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
            check_not_negative(name, weight)
            self.register_buffer(
                name, torch.tensor(weight, dtype=torch.float64, device="cpu"), persistent=False
            )
        check_choice("reduction", reduction, ("mean", "sum"))
        check_positive("dice_smooth", dice_smooth)
        self.dice_smooth = dice_smooth
        self.outlier = OutlierRegionLoss(
            mode=mode,
            formulation=formulation,
            inner=inner,
            outer=outer,
            smooth=smooth,
            threshold=threshold,
            strength=strength,
            levels=levels,
            share=share,
            from_logits=from_logits,
            pos_weight=pos_weight,
            class_weights=class_weights,
            ignore_index=ignore_index,
            reduction=reduction,
            backend=backend,
        )

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        return_terms: bool = False,
        *,
        mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; with ``return_terms`` also its terms, detached and unweighted."""
        check_bool("return_terms", return_terms)  # a mask may have come in its place
        # Copies: a ramp may step, in place, between this forward and its backward.
        alpha, beta, gamma = (weight.clone() for weight in (self.alpha, self.beta, self.gamma))
        paper = self.outlier.formulation == "paper"  # whose term holds the cross-entropy again
        loss, (ce, dice, outlier) = weighted_loss(
            input,
            target,
            mask=mask,
            weights=(alpha + gamma if paper else alpha, beta, gamma),
            dice_smooth=self.dice_smooth,
            reduction=self.outlier.reduction,
            backend=self.outlier.backend,
            settings=self.outlier.term_arguments(),
        )
        if not return_terms:
            return loss
        return loss, {"ce": ce, "dice": dice, "outlier": ce + outlier if paper else outlier}

    def extra_repr(self) -> str:
        weights = {name: getattr(self, name) for name in ("alpha", "beta", "gamma")}
        shown = (f"{name}={'?' if w.is_meta else f'{float(w):g}'}" for name, w in weights.items())
        return f"{', '.join(shown)}, dice_smooth={self.dice_smooth}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "CompoundLoss":
        """Move the weights with the module, but never round them to the dtype it is cast to."""
        exact = {name: getattr(self, name) for name in ("alpha", "beta", "gamma")}
        try:
            for name, weight in exact.items():
                self._buffers[name] = weight.float()  # what every device can hold
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        finally:
            for name, weight in exact.items():
                moved = getattr(self, name)
                # Apple's GPUs have no float64.
                dtype = torch.float32 if moved.device.type == "mps" else torch.float64
                source = moved if weight.is_meta else weight  # a meta tensor holds no value
                self._buffers[name] = source.to(moved.device, dtype)
        return self
