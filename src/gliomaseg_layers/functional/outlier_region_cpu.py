"""The loss on a CPU: forward and backward in closed form, band by band.

``_outlier_terms.py`` holds the definition. Here nothing of the image's size is kept for backward
but what was given. The pixels where the term acts are few, and listed: a flagged pixel's class
fills a small part of its window, so that a small part of any image is flagged.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gliomaseg_layers.functional._bands import Band, WindowSums, are_multiples, bands
from gliomaseg_layers.functional._plan import Maps, Plan
from gliomaseg_layers.functional._scores import arithmetic_dtype
from gliomaseg_layers.functional._totals import Slopes, Totals
from gliomaseg_layers.functional.box_filter import axis_count

__all__ = ["backward", "forward"]

# Pixels to take at once: what keeps a piece in the processor's cache, and the calls few. The
# paper's sums are of floats, four times the size of the others'.
PIXELS = {"paper": 2**18, "others": 2**19}


def forward(
    maps: Maps, plan: Plan, weights: Sequence[float | Tensor]
) -> tuple[Tensor, Tensor, tuple[Slopes, "_Flagged"]]:
    """Return the loss, a scalar or a map, with its terms, and what backward needs."""
    batch, channels, *spatial = maps.logits.shape
    plan = plan.within(spatial)
    dtype = arithmetic_dtype(maps.logits)
    is_map = plan.reduction == "none"
    loss_map = torch.empty(maps.logits.shape if is_map else 0, dtype=dtype)
    totals = Totals(channels * batch)
    search = (_ByDensity if plan.formulation == "paper" else _ByCount)(spatial, plan, dtype)
    for piece in _pieces(maps, plan, around=True):
        cross_entropy = piece.cross_entropy()
        search.look_at(piece, cross_entropy)
        piece.add_to(totals, plan, cross_entropy)
        if is_map:
            piece.of(loss_map).copy_(cross_entropy)
    flagged = search.flagged()
    totals.term.index_add_(0, flagged.plane, flagged.term.double())
    if plan.formulation == "balanced":
        totals.weight.index_add_(0, flagged.plane, flagged.slopes[0].double())
    loss, terms, slopes = totals.finish(plan, weights, dtype)
    if not is_map:
        return loss, terms, (slopes, flagged)
    values = flagged.place, flagged.term * slopes.term[flagged.plane]
    added = (torch.split(value, flagged.counts) for value in values)
    for cut, place, term in zip(_cuts(maps.logits.shape, plan), *added, strict=True):
        part = cut.of(loss_map)
        part.index_put_(torch.unravel_index(place, part.shape), term, accumulate=True)
    return loss_map, terms, (slopes, flagged)


def backward(grad: Tensor, maps: Maps, plan: Plan, kept: tuple[Slopes, "_Flagged"]) -> Tensor:
    """Return the gradient of the loss by the logits."""
    slopes, flagged = kept
    plan = plan.within(maps.logits.shape[2:])
    result = torch.empty_like(maps.logits)
    if not flagged.counts:  # a batch without pixels
        return result
    places = torch.split(flagged.place, flagged.counts)
    there = grad
    if grad.dim():
        cuts = zip(_cuts(maps.logits.shape, plan), places, strict=True)
        there = torch.cat([cut.of(grad).reshape(-1)[place] for cut, place in cuts])
    factor = slopes.term[flagged.plane] * there
    by_term = [slope * factor for slope in flagged.slopes]
    adjoint = None if flagged.spot is None else _Adjoint(maps, plan, flagged.spot, *by_term)
    by_place = zip(places, torch.split(by_term[0], flagged.counts), strict=True)
    for piece, (place, added) in zip(_pieces(maps, plan), by_place, strict=True):
        upstream = piece.of(grad) if grad.dim() else grad
        room = piece.room_in(result)
        # Backward to the logits of "suppress" and its kin needs the probabilities for this alone.
        once = adjoint is None and plan.dice_smooth is None and piece.pos_weight is None
        probs = torch.sigmoid(piece.logits, out=room if once else torch.empty_like(room))
        slope = piece.slope(probs, room)
        if plan.formulation in ("balanced", "suppress"):
            added = added * slope.view(-1).index_select(0, place)
        slope *= upstream * slopes.cross_entropy
        if adjoint is None:
            slope.view(-1).index_add_(0, place, added)
        by_probs = None if adjoint is None else adjoint.of(piece)
        if plan.dice_smooth is not None:
            by_dice = piece.each_image(slopes.overlap * grad) * piece.target
            by_dice += piece.each_image(slopes.probs * grad)
            by_probs = by_dice if by_probs is None else by_dice.add_(by_probs)
        if by_probs is not None:
            by_logits = torch.ops.aten.sigmoid_backward.grad_input
            slope += piece.inside(by_logits(by_probs, probs, grad_input=probs))
        if slope.data_ptr() != piece.of(result).data_ptr():
            piece.of(result).copy_(slope)
    return result


class _Flagged(NamedTuple):
    """The pixels where the term acts, piece by piece.

    ``place`` is where in the piece, ``plane`` which image of which channel. ``slopes`` are for
    "paper" the derivatives of -D by its two counts, for "penalty" those by the logits, else the
    weights. For "paper" ``spot`` is where among all planes as `WindowSums` lays them out.
    """

    counts: list[int]
    place: Tensor
    plane: Tensor
    term: Tensor
    slopes: list[Tensor]
    spot: Tensor | None = None


class _Cut(NamedTuple):
    """Where a piece lies in the maps."""

    channel: int
    band: Band

    def of(self, maps: Tensor) -> Tensor:
        return self.band.of(maps[:, self.channel])


class _Piece(NamedTuple):
    """One channel over a band, in the dtype of the arithmetic, 0 where not valid."""

    cut: _Cut
    planes: slice
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

    def of(self, maps: Tensor) -> Tensor:
        return self.cut.of(maps)

    def each_image(self, values: Tensor) -> Tensor:
        """Return the piece's part of a value per plane, to broadcast over its pixels."""
        return values[self.planes].view([-1] + [1] * (self.target.dim() - 1))

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


def _cuts(shape: Sequence[int], plan: Plan) -> Iterator[_Cut]:
    """Cut maps ``(N, C, *spatial)`` into pieces."""
    batch, channels, *spatial = shape
    pixels = PIXELS["paper" if plan.formulation == "paper" else "others"]
    for channel in range(channels):
        for band in bands((batch, *spatial), plan.outer[0] // 2, pixels):
            yield _Cut(channel, band)


def _pieces(maps: Maps, plan: Plan, around: bool = False) -> Iterator[_Piece]:
    """Read the maps piece by piece, with the rows around each only where they are wanted."""
    wide = arithmetic_dtype(maps.logits)
    batch = maps.logits.shape[0]
    for cut in _cuts(maps.logits.shape, plan):
        channel, band = cut
        is_wider = around and band.around != band.rows
        weights = [w if w is None else w[channel % len(w)] for w in maps[4:]]
        seen = band.of(maps.logits[:, channel], around).to(wide).contiguous()
        labels = band.of(maps.target[:, channel], around)
        valid = None if maps.mask is None else band.of(maps.mask[:, channel], around)
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
        planes = slice(channel * batch + band.images.start, channel * batch + band.images.stop)
        yield _Piece(cut, planes, seen, valid, logits, labels, inside, *weights)


class _Search(ABC):
    """Finds the pixels where the term acts from window sums, in lines like a room's ``own``."""

    def __init__(self, spatial: Sequence[int], plan: Plan, dtype: torch.dtype) -> None:
        self.plan, self.dtype, self.sums = plan, dtype, WindowSums(spatial, plan.outer)
        self.rows = slice(0)
        self.found: list[tuple[Tensor, ...]] = []

    @abstractmethod
    def look_at(self, piece: _Piece, cross_entropy: Tensor) -> None:
        """Find the flagged pixels of a piece, and keep what their terms are made of."""

    def flagged(self) -> _Flagged:
        """Return all that was found."""
        if not self.found:  # a batch without images, or images without pixels
            nowhere, nothing = torch.empty(0, dtype=torch.long), torch.empty(0, dtype=self.dtype)
            return _Flagged([], nowhere, nowhere, nothing, [nothing])
        found = (torch.cat(parts) for parts in zip(*self.found, strict=True))
        return self.joined([len(spot) for spot, *_ in self.found], *found)

    @abstractmethod
    def joined(self, counts: list[int], *found: Tensor) -> _Flagged:
        """Make the terms of what was kept."""

    def sizes(self, piece: _Piece, *windows: tuple[int, ...]) -> list[Tensor] | None:
        """Return how many pixels of the image the windows hold, 0 around what is no pixel.

        ``(1 or images, numbers of one)``, or None if they are those of the last piece.
        """
        valid, around = piece.valid, piece.valid_around
        if valid is not None and around is not None:
            room = self.sums.room(piece.band, torch.int8)
            room.filled.copy_(around)
            lines = []
            for line in room.sums(*windows):
                lines.append(torch.zeros(room.own.shape, dtype=torch.int32))
                torch.mul(room.pixels(line), valid, out=room.pixels(lines[-1]))
            return [line.view(-1, room.strides[0]) for line in lines]
        if self.rows == piece.band.rows:  # as of most pieces
            return None
        self.rows, found = piece.band.rows, []
        for window in windows:
            size = torch.ones(1, dtype=torch.int32)
            for axis, (length, side) in enumerate(zip(self.sums.spatial, window, strict=True)):
                count = axis_count(length, side).int()[slice(None) if axis else self.rows]
                size = size.unsqueeze(-1) * F.pad(count, (0, self.sums.margins[axis]))
            found.append(size.view(1, -1))
        return found

    def spots(self, values: Tensor, bound: Tensor) -> Tensor:
        """Return where values are within a bound, as few are."""
        # As many as are compared at once in 8 bytes, found by them: most are 0.
        run = 8 // values.element_size()
        flags = self.sums.memory.take("runs 0", values.numel(), values.dtype)
        # Comparing into the dtype that is compared is several times faster than into booleans.
        torch.le(values.view(-1, bound.shape[1]), bound, out=flags.view(-1, bound.shape[1]))
        spots = (flags.view(torch.int64).nonzero() * run + torch.arange(run)).view(-1)
        return spots.masked_select(flags.index_select(0, spots) != 0)


class _ByCount(_Search):
    """Finds the pixels whose class fills at most S pixels of the window, level by level.

    Colours are 1 and -1, and 0 outside the image: a window's sum times the colour of its pixel is
    J - (n - J), flagged where it is at most min(2 S - n, 0).
    """

    def look_at(self, piece: _Piece, cross_entropy: Tensor) -> None:
        plan = self.plan
        found: list[tuple[Tensor, ...]] = []
        sizes = self.sizes(piece, plan.outer)
        if sizes is not None:
            [self.size] = sizes
            bound = (2 * plan.largest_count - self.size).clamp_(max=0)
            # Where no excess is within it, as a pixel has its own colour.
            self.bound = bound.masked_fill_(self.size == 0, -math.prod(plan.outer))
        room = self.sums.room(piece.band, torch.int8)
        for log_odds in plan.log_odds:
            white = self.sums.memory.take("white", piece.around.numel(), self.dtype)
            room.filled.copy_(torch.gt(piece.around, log_odds, out=white.view_as(piece.around)))
            room.filled.mul_(2).sub_(1)
            if piece.valid_around is not None:
                room.filled.mul_(piece.valid_around)
            [excess] = room.sums(plan.outer)
            more = self.sums.memory.take("runs 1", excess.numel(), excess.dtype)
            torch.mul(excess, room.own, out=more)
            spot = self.spots(more, self.bound.to(more.dtype))
            found.append((spot, more.index_select(0, spot)))
            if plan.formulation == "penalty":
                found[-1] += (room.own.index_select(0, spot),)
        spot, *values = (torch.cat(parts) for parts in zip(*found, strict=True))
        place, image = self.sums.places(spot)
        costly = piece.logits if plan.formulation == "penalty" else cross_entropy
        cost = costly.reshape(-1).index_select(0, place)
        if self.size.shape[0] == 1:  # of all images alike
            spot = spot - image * self.size.numel()
        size = self.size.view(-1).index_select(0, spot)
        self.found.append((place, image + piece.planes.start, cost, size, *values))

    def joined(self, counts: list[int], *found: Tensor) -> _Flagged:
        place, plane, cost, size, excess, *colour = found
        weight = (0.5 - excess.to(self.dtype) / (2 * size)) / len(self.plan.levels)
        if not colour:
            return _Flagged(counts, place, plane, weight * cost, [weight])
        wrong = colour[0] * cost  # of the logits
        slope = weight * colour[0] * wrong.sigmoid()
        return _Flagged(counts, place, plane, weight * F.softplus(wrong), [slope])


class _ByDensity(_Search):
    """Finds the pixels whose class the paper's mask keeps, with -D and its slopes by its counts."""

    def look_at(self, piece: _Piece, cross_entropy: Tensor) -> None:
        plan, dtype = self.plan, self.dtype
        sizes = self.sizes(piece, plan.inner, plan.outer)
        if sizes is not None:
            self.near_size, wide_size = (size.to(dtype) for size in sizes)
            self.gap_size = wide_size - self.near_size
            self.half = self.gap_size / 2
            bound = plan.threshold + 0.5 - self.half
            self.bound = bound.masked_fill_(wide_size == 0, torch.nan)  # within which nothing is
        room = self.sums.room(piece.band, dtype)
        torch.sigmoid(piece.around, out=room.filled)
        if piece.valid_around is not None:
            room.filled.mul_(piece.valid_around)
        # 1 where the predicted class is white; anything in the margins.
        white = self.sums.memory.take("white", room.own.numel(), dtype)
        torch.gt(piece.logits, 0.0, out=room.pixels(white))
        near, wide = room.sums(plan.inner, plan.outer)
        # Half of what the gap has more of the other colour than of white, then of the pixel's own
        # than of the other.
        excess = torch.sub(near, wide, out=self.sums.memory.take("runs 1", near.numel(), dtype))
        excess.view(-1, self.half.shape[1]).add_(self.half)
        excess.addcmul_(white, excess, value=-2)
        spot = self.spots(excess, self.bound)
        values = [line.index_select(0, spot) for line in (white, near, wide)]
        of_image = spot.remainder(self.half.numel())  # as all images have the same sizes, or not
        for size in (self.near_size, self.gap_size):
            values.append(size.view(-1).index_select(0, of_image))
        first = self.sums.first(piece.planes.start, piece.band.rows.start)
        self.found.append((spot, spot + first, *values))

    def joined(self, counts: list[int], *found: Tensor) -> _Flagged:
        own, spot, white, near, wide, near_size, gap_size = found
        is_white, by_white, own_gap = white > 0, 2 * white - 1, wide - near
        near = near.where(is_white, near_size - near)
        others = gap_size - own_gap.where(is_white, gap_size - own_gap)
        below = others.clamp(min=0.0) + self.plan.smooth
        density = (near + self.plan.smooth) / below
        # Where rounding has made `others` negative, all of the gap is certain: no slope reaches it.
        by_wide = density / below * by_white
        slopes = [by_wide - by_white / below, -by_wide]
        place, _ = self.sums.places(own)
        return _Flagged(counts, place, spot // self.sums.plane, -density, slopes, spot)


class _Adjoint:
    """The term's derivative by the probabilities, for "paper": window sums of D's slopes."""

    def __init__(self, maps: Maps, plan: Plan, spot: Tensor, near: Tensor, gap: Tensor) -> None:
        self.sums, self.spot = WindowSums(maps.logits.shape[2:], plan.outer), spot
        inner, outer = plan.inner, plan.outer
        once = [1] * len(inner)
        self.parts: list[tuple[tuple[int, ...], Tensor, Tensor]]
        if are_multiples(outer, inner):  # then its window's sums are those of the inner one's
            steps = [far // side for far, side in zip(outer, inner, strict=True)]
            shares = self._spread(inner, near, once), self._spread(inner, gap, steps)
            to, added = (torch.cat(both, 1) for both in zip(*shares, strict=True))
            self.parts = [(inner, to, added)]
        else:
            slopes = (inner, near), (outer, gap)
            self.parts = [(window, *self._spread(window, by, once)) for window, by in slopes]

    def _spread(
        self, window: tuple[int, ...], slopes: Tensor, steps: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Put each slope to so many spots a window apart, along each axis."""
        to = self.spot
        for count, side, stride in zip(steps, window, self.sums.strides, strict=True):
            shifts = torch.arange(-(count // 2), count // 2 + 1) * side * stride
            to = to.unsqueeze(-1) + shifts
        to = to.flatten(1)
        return to, slopes.unsqueeze(1).expand_as(to)

    def of(self, piece: _Piece) -> Tensor:
        band, planes, first = piece.band, piece.planes, self.sums.first
        seen = first(planes.start, band.around.start), first(planes.stop - 1, band.around.stop)
        low, high = torch.searchsorted(self.spot, torch.tensor(seen)).tolist()
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
