"""The maps of a batch in pieces of one channel, which a CPU's closed form takes one by one."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gliomaseg_layers.functional._bands import Band, bands
from gliomaseg_layers.functional._plan import Maps, Plan
from gliomaseg_layers.functional._scores import arithmetic_dtype
from gliomaseg_layers.functional._totals import Totals

# Pixels to take at once: what keeps a piece in the processor's cache, and the calls few.
PIXELS = 2**19


class Cut(NamedTuple):
    """Where a piece lies in the maps, and in the list of their planes (images of a channel)."""

    channel: int
    band: Band
    planes: slice

    def of(self, maps: Tensor, margin: bool = False) -> Tensor:
        return self.band.of(maps[:, self.channel], margin)

    def of_planes(self, maps: Tensor) -> Tensor:
        """Return the piece of maps ``(planes, *spatial)``."""
        return maps[self.planes, self.band.rows]

    def each_image(self, values: Tensor, like: Tensor) -> Tensor:
        """Return the piece's part of a value per plane, to broadcast over its pixels."""
        return values[self.planes].view([-1] + [1] * (like.dim() - 1))


class Piece(NamedTuple):
    """One channel over a band, in the dtype of the arithmetic, 0 where not valid."""

    cut: Cut
    around: Tensor  # the logits, with the rows that the windows see where they are wanted
    valid_around: Tensor | None
    logits: Tensor
    target: Tensor
    valid: Tensor | None
    pos_weight: Tensor | None
    class_weight: Tensor | None

    @property
    def band(self) -> Band:
        return self.cut.band

    @property
    def planes(self) -> slice:
        return self.cut.planes

    def of(self, maps: Tensor) -> Tensor:
        return self.cut.of(maps)

    def each_image(self, values: Tensor) -> Tensor:
        return self.cut.each_image(values, self.target)

    def inside(self, values: Tensor) -> Tensor:
        return values if self.valid is None else values.mul_(self.valid)

    def cross_entropy(self) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(
            self.logits, self.target, pos_weight=self.pos_weight, reduction="none"
        )
        return self._weighed(loss)

    def room_in(self, result: Tensor) -> Tensor:
        """Return the piece's part of a result to compute in, or memory like it."""
        part = self.of(result)
        if part.dtype == self.logits.dtype and part.is_contiguous():
            return part
        return torch.empty_like(self.logits)

    def slope(self, probs: Tensor, out: Tensor) -> Tensor:
        """Write the derivative of the cross-entropy by the logits."""
        if self.pos_weight is None:
            return self._weighed(torch.sub(probs, self.target, out=out))
        positive = self.target * self.pos_weight
        weight = 1 - self.target + positive
        return self._weighed(torch.mul(probs, weight, out=out).sub_(positive))

    def add_to(self, totals: Totals, plan: Plan, cross_entropy: Tensor) -> None:
        pixels = self.target[0].numel() if self.valid is None else self.valid.flatten(1).sum(1)
        totals.pixels[self.planes].add_(pixels)
        totals.cross_entropy[self.planes].add_(cross_entropy.flatten(1).sum(1))
        if plan.dice_smooth is not None:
            probs = self.inside(self.logits.sigmoid()).flatten(1)
            target = self.target.flatten(1)
            totals.probs[self.planes].add_(probs.sum(1))
            totals.target[self.planes].add_(target.sum(1))
            totals.overlap[self.planes].add_(probs.mul_(target).sum(1))

    def _weighed(self, values: Tensor) -> Tensor:
        return self.inside(values if self.class_weight is None else values.mul_(self.class_weight))


def cuts(shape: Sequence[int], plan: Plan) -> Iterator[Cut]:
    """Cut maps ``(N, C, *spatial)`` into pieces."""
    batch, channels, *spatial = shape
    for channel in range(channels):
        for band in bands((batch, *spatial), plan.outer[0] // 2, PIXELS):
            first = channel * batch
            planes = slice(first + band.images.start, first + band.images.stop)
            yield Cut(channel, band, planes)


def pieces(maps: Maps, plan: Plan, around: bool = False) -> Iterator[Piece]:
    """Read the maps piece by piece, with the rows around each only where they are wanted."""
    wide = arithmetic_dtype(maps.logits)
    for cut in cuts(maps.logits.shape, plan):
        band = cut.band
        is_wider = around and band.around != band.rows
        weights = [w if w is None else w[cut.channel % len(w)] for w in maps[4:]]
        seen = cut.of(maps.logits, around).to(wide).contiguous()
        labels = cut.of(maps.target, around)
        valid = None if maps.mask is None else cut.of(maps.mask, around)
        if maps.ignore_index is not None:
            kept = labels != maps.ignore_index
            valid = kept if valid is None else valid & kept
        labels = (labels[:, band.own] if is_wider else labels).to(wide).contiguous()
        inside = None
        if valid is not None:
            valid = valid.contiguous()  # or what it is applied to takes its layout
            inside = valid[:, band.own] if is_wider else valid
            seen, labels = seen.where(valid, 0.0), labels.where(inside, 0.0)
        logits = seen[:, band.own] if is_wider else seen
        yield Piece(cut, seen, valid, logits, labels, inside, *weights)
