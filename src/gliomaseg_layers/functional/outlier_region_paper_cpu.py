"""The paper's formulation on a CPU: the density of flagged pixels, and the adjoint of its windows.

The flagged pixels are listed: a flagged pixel's class fills a small part of its window, so that a
small part of most images is flagged.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gliomaseg_layers.functional._bands import WindowSums, are_multiples, places_of_few
from gliomaseg_layers.functional._pieces import Piece, cuts
from gliomaseg_layers.functional._plan import Maps, Plan
from gliomaseg_layers.functional._totals import Slopes, Totals

__all__ = ["Adjoint", "ByDensity", "Flagged"]


class Flagged(NamedTuple):
    """The pixels whose class the paper's mask keeps, piece by piece.

    ``own`` is where in the piece and ``spot`` where among all planes, as `WindowSums` lays them
    out; ``near`` and ``gap`` are the derivatives of ``term`` = -D by its two counts.
    """

    counts: list[int]
    own: Tensor
    spot: Tensor
    plane: Tensor
    term: Tensor
    near: Tensor
    gap: Tensor


class ByDensity:
    """Finds the pixels whose class the paper's mask keeps, with -D and its slopes by its counts."""

    def __init__(self, shape: torch.Size, plan: Plan, dtype: torch.dtype) -> None:
        self.plan, self.dtype, self.sums = plan, dtype, WindowSums(shape[2:], plan.outer)
        self.found: list[tuple[Tensor, ...]] = []

    def look_at(self, piece: Piece, cross_entropy: Tensor, totals: Totals) -> None:
        """Find the flagged pixels of a piece, and keep what their densities are made of."""
        plan, dtype = self.plan, self.dtype
        sizes = self.sums.sizes(piece.band, piece.valid_around, plan.inner, plan.outer)
        if sizes is not None:
            self.near_size, wide_size = (size.to(dtype) for size in sizes)
            self.gap_size = wide_size - self.near_size
            self.half = self.gap_size / 2
            bound = plan.threshold + 0.5 - self.half
            self.bound = bound.masked_fill_(wide_size == 0, torch.nan)  # within which nothing is
        room, take = self.sums.room(piece.band, dtype), self.sums.memory.take
        torch.sigmoid(piece.around, out=room.filled)
        if piece.valid_around is not None:
            room.filled.mul_(piece.valid_around)
        # 1 where the predicted class is white; anything in the margins.
        white = take("white", room.own.numel(), dtype)
        torch.gt(piece.logits, 0.0, out=room.pixels(white))
        near, wide = room.sums(plan.inner, plan.outer)
        # Half of what the gap has more of the other colour than of white, then of the pixel's own
        # than of the other.
        excess = torch.sub(near, wide, out=take("runs 1", near.numel(), dtype))
        shape = -1, self.half.shape[1]
        excess.view(shape).add_(self.half)
        excess.addcmul_(white, excess, value=-2)
        # Comparing into the dtype that is compared is several times faster than into booleans.
        flags = self.sums.memory.words("runs 0", near.numel(), dtype)
        torch.le(excess.view(shape), self.bound, out=flags[: near.numel()].view(shape))
        spot = places_of_few(flags)
        values = [line.index_select(0, spot) for line in (white, near, wide)]
        of_image = spot.remainder(self.half.numel())  # as all images have the same sizes, or not
        for size in (self.near_size, self.gap_size):
            values.append(size.view(-1).index_select(0, of_image))
        first = self.sums.first(piece.planes.start, piece.band.rows.start)
        self.found.append((spot, spot + first, *values))

    def finish(self, totals: Totals) -> Flagged:
        """Return what was found, and add the term to the totals."""
        if not self.found:  # a batch without images, or images without pixels
            nowhere = torch.empty(0, dtype=torch.long, device="cpu")
            nothing = nowhere.to(self.dtype)
            self.flagged = Flagged([], nowhere, nowhere, nowhere, nothing, nothing, nothing)
            return self.flagged
        counts = [len(spot) for spot, *_ in self.found]
        found = (torch.cat(parts) for parts in zip(*self.found, strict=True))
        own, spot, white, near, wide, near_size, gap_size = found
        is_white, by_white, own_gap = white > 0, 2 * white - 1, wide - near
        near = near.where(is_white, near_size - near)
        others = gap_size - own_gap.where(is_white, gap_size - own_gap)
        below = others.clamp(min=0.0) + self.plan.smooth
        density = (near + self.plan.smooth) / below
        # Where rounding has made `others` negative, all of the gap is certain: no slope reaches it.
        by_wide = density / below * by_white
        plane = spot // self.sums.plane
        totals.term.copy_(torch.bincount(plane, -density.double(), len(totals.term)))
        self.flagged = Flagged(
            counts, own, spot, plane, -density, by_wide - by_white / below, -by_wide
        )
        return self.flagged

    def add_to(self, loss_map: Tensor, slopes: Slopes) -> None:
        """Add what was found, with reduction "none"."""
        _, own, _, plane, term, *_ = self.flagged
        added = term * slopes.term.index_select(0, plane)
        places = self.sums.places(own)
        split = (torch.split(values, self.flagged.counts) for values in (places, added))
        for cut, place, extra in zip(cuts(loss_map.shape, self.plan), *split, strict=True):
            part = cut.of(loss_map)
            part.index_put_(torch.unravel_index(place, part.shape), extra, accumulate=True)


class Adjoint:
    """The term's derivative by the probabilities: window sums of the density's slopes."""

    def __init__(
        self, maps: Maps, plan: Plan, flagged: Flagged, slopes: Slopes, grad: Tensor
    ) -> None:
        shape = maps.logits.shape
        self.sums, self.spot = WindowSums(shape[2:], plan.outer), flagged.spot
        factor = slopes.term.index_select(0, flagged.plane)
        if grad.dim():
            places = torch.split(self.sums.places(flagged.own), flagged.counts)
            pairs = zip(cuts(shape, plan), places, strict=True)
            factor *= torch.cat([cut.of(grad).reshape(-1)[place] for cut, place in pairs])
        near, gap = flagged.near * factor, flagged.gap * factor
        inner, outer = plan.inner, plan.outer
        once = [1] * len(inner)
        self.parts: list[tuple[tuple[int, ...], Tensor, Tensor]]
        if are_multiples(outer, inner):  # then its window's sums are those of the inner one's
            steps = [far // side for far, side in zip(outer, inner, strict=True)]
            shares = self._spread(inner, near, once), self._spread(inner, gap, steps)
            to, added = (torch.cat(both, 1) for both in zip(*shares, strict=True))
            self.parts = [(inner, to, added)]
        else:
            by_window = (inner, near), (outer, gap)
            self.parts = [(window, *self._spread(window, by, once)) for window, by in by_window]

    def _spread(
        self, window: tuple[int, ...], slopes: Tensor, steps: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Put each slope to so many spots a window apart, along each axis."""
        to = self.spot
        for count, side, stride in zip(steps, window, self.sums.strides, strict=True):
            shifts = torch.arange(-(count // 2), count // 2 + 1, device="cpu") * side * stride
            to = to.unsqueeze(-1) + shifts
        to = to.flatten(1)
        return to, slopes.unsqueeze(1).expand_as(to)

    def of(self, piece: Piece) -> Tensor:
        """Return the derivative of a piece."""
        band, planes, first = piece.band, piece.planes, self.sums.first
        seen = first(planes.start, band.around.start), first(planes.stop - 1, band.around.stop)
        low, high = torch.searchsorted(self.spot, torch.tensor(seen, device="cpu")).tolist()
        room = self.sums.room(band, piece.logits.dtype)
        start = first(planes.start, band.rows.start) - room.front
        found = []
        for window, to, slopes in self.parts:
            spots, added = to[low:high].reshape(-1) - start, slopes[low:high].reshape(-1)
            if band.around.start < band.rows.start:
                # What lies before the room is beyond the windows of the piece's pixels.
                inside = spots >= 0
                spots, added = spots[inside], added[inside]
            room.line.zero_().index_add_(0, spots, added)
            found.append(room.pixels(room.sums(window)[0]))
        return found[0] if len(found) == 1 else found[0] + found[1]
