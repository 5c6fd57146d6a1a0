"""Cross-entropy, Dice and outlier term, weighed."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gliomaseg_layers._checks import (
    check_bool,
    check_not_negative,
    check_settings,
    check_window,
    shown,
)
from gliomaseg_layers._reduction import reduce
from gliomaseg_layers.functional._cross_entropy import cross_entropy_map
from gliomaseg_layers.functional._scores import read_labelled
from gliomaseg_layers.functional._values import check_weights
from gliomaseg_layers.functional.scnp import worst_of_class
from gliomaseg_layers.losses.dice import DiceLoss
from gliomaseg_layers.losses.outlier_region import DensityLoss, OutlierRegionLoss

__all__ = ["CompoundLoss"]

WEIGHTS = ("alpha", "beta", "gamma")


class CompoundLoss(nn.Module):
    r"""Weighted sum of cross-entropy, Dice loss and outlier term.

    .. math:: L = \alpha \, CE + \beta \, Dice + \gamma \, O

    With ``scnp``, CE and Dice are those of the worst logits nearby, see
    :func:`gliomaseg_layers.functional.scnp`; O stays that of the plain ones.

    O is what ``outlier`` adds to its cross-entropy. Of an :class:`OutlierRegionLoss` that is
    k w CE, w the outlier weight and k its strength; of a :class:`DensityLoss` it is -D.
    Cross-entropy, sigmoid and softmax are computed once for all three.
    Equation 13 of [WAN23], with its three weights of 1, is ``CompoundLoss(DensityLoss(),
    alpha=2.0)``: its third term holds the cross-entropy a second time.

    The weights are non-persistent 0-d buffers ``alpha``, ``beta`` and ``gamma``: they move with
    ``.to()``, keep double precision whatever dtype the module is cast to, and can be raised during
    training by :class:`WeightRamp` without a recompilation. A weight of 0 switches its term off for
    good: it is not computed. The ``state_dict`` is empty.

    Args:
        outlier: the loss that brings the cross-entropy and the outlier term, with ``mode``, pixel
            weights, ``ignore_index``, ``from_logits`` and ``reduction`` ("mean" or "sum", of every
            term); None for ``OutlierRegionLoss()``, the default for binary masks.
        dice: the Dice loss, with the mode and ``ignore_index`` of ``outlier``; None for
            ``DiceLoss()`` with these. Its own ``from_logits`` and ``reduction`` are not read.
        alpha: weight of the cross-entropy, >= 0.
        beta: weight of the Dice loss, >= 0. [WANG-MSFEN] has 0.3 and 0.7, or 0.7 and 0.3, for alpha
            and beta, with gamma 0.
        gamma: weight of the outlier term, >= 0.
        scnp: side of SCNP's window in pixels, odd; one int, or one per spatial axis. None for the
            plain logits alone.

    Shapes: ``input`` ``(N, C, *spatial)``; ``target`` like it, or class indices ``(N, *spatial)``
    in multiclass mode; ``mask`` boolean, False outside the image; the result is a scalar.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the two losses do not fit.
        RuntimeError: a class index is out of range.

    Source: [WAN23] eq. 13.

    Example:
        >>> import torch
        >>> criterion = CompoundLoss()
        >>> logits = torch.randn(2, 1, 32, 32, requires_grad=True)
        >>> target = torch.rand(2, 1, 32, 32) > 0.9
        >>> criterion.check_values(logits, target)  # once, on a first batch
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
        outlier: OutlierRegionLoss | DensityLoss | None = None,
        dice: DiceLoss | None = None,
        *,
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        scnp: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_settings(scnp=scnp)
        if outlier is None:
            outlier = OutlierRegionLoss()
        if not isinstance(outlier, (OutlierRegionLoss, DensityLoss)):
            raise TypeError(
                f"`outlier` must be an OutlierRegionLoss or a DensityLoss, got {shown(outlier)}"
            )
        if outlier.reduction == "none":
            raise ValueError(
                "`outlier` must have reduction 'mean' or 'sum', for Dice has no value per pixel, "
                "got reduction='none'"
            )
        if dice is None:
            dice = DiceLoss(outlier.mode, ignore_index=outlier.ignore_index)
        if not isinstance(dice, DiceLoss):
            raise TypeError(f"`dice` must be a DiceLoss, got {shown(dice)}")
        for name, own, others in (
            ("mode", dice.mode, outlier.mode),
            ("ignore_index", dice.ignore_index, outlier.ignore_index),
        ):
            if own != others:
                raise ValueError(
                    f"`dice` must have the {name} of `outlier`, {others!r}, got {own!r}"
                )
        self.outlier = outlier
        self.dice = dice
        self.scnp = scnp
        for name, weight in zip(WEIGHTS, (alpha, beta, gamma), strict=True):
            check_not_negative(name, weight)
            self.register_buffer(
                name, torch.tensor(weight, dtype=torch.float64, device="cpu"), persistent=False
            )
        if alpha == beta == gamma == 0:
            raise ValueError(
                "`alpha`, `beta` and `gamma` must not all be 0, which leaves no loss, "
                f"got {alpha}, {beta} and {gamma}"
            )
        # Decided here once: to look at a weight in a step would wait for the device.
        weights = zip(WEIGHTS, (alpha, beta, gamma), strict=True)
        self.enabled = {name: bool(weight > 0) for name, weight in weights}

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        *,
        return_terms: bool = False,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; with ``return_terms`` also its terms, detached and unweighted.

        The terms are "ce", "dice" and "outlier"; one that is switched off is 0.
        """
        check_bool("return_terms", return_terms)
        given, reduction = self.outlier.settings, self.outlier.reduction
        plain, labels = read_labelled(
            input, target, mask=mask, **given("mode", "from_logits", "ignore_index")
        )
        scores = plain
        if self.scnp is not None:
            sides = check_window("scnp", self.scnp, input.dim() - 2)
            scores = worst_of_class(plain, labels, sides)
        ce = dice = outlier = plain.values.new_zeros(())
        weights = given("pos_weight", "class_weights")
        if self.enabled["alpha"]:
            cost = cross_entropy_map(scores, labels, **weights)
            ce = reduce(cost, plain.valid, reduction)
        if self.enabled["beta"]:
            dice = self.dice.of(scores, labels, reduction)
        if self.enabled["gamma"]:
            if not self.enabled["alpha"] or self.scnp is not None:
                cost = cross_entropy_map(plain, labels, **weights)
            outlier = reduce(self.outlier.term(plain, cost), plain.valid, reduction)
        # Copies: a ramp may step, in place, between this forward and its backward.
        alpha, beta, gamma = (
            weight.to(ce.dtype, copy=True) for weight in (self.alpha, self.beta, self.gamma)
        )
        loss = alpha * ce + beta * dice + gamma * outlier
        if not return_terms:
            return loss
        terms = {"ce": ce, "dice": dice, "outlier": outlier}
        return loss, {name: value.detach() for name, value in terms.items()}

    def check_values(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Look for values that would make the loss silently wrong; call it on a first batch.

        See :meth:`OutlierRegionLoss.check_values`.
        """
        self.outlier.check_values(input, target, mask)
        check_weights(input, **self.dice.settings("class_weights"))

    def extra_repr(self) -> str:
        weights = {name: getattr(self, name) for name in WEIGHTS}
        shown = [
            f"{name}={'?' if weight.is_meta else f'{float(weight):g}'}"
            for name, weight in weights.items()
        ]
        return ", ".join(shown + [f"scnp={self.scnp}"] * (self.scnp is not None))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "CompoundLoss":
        """Move the weights with the module, but never round them to the dtype it is cast to."""
        exact = {name: getattr(self, name) for name in WEIGHTS}
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
