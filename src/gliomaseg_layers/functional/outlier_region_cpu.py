"""The loss on a CPU: forward and backward in closed form, band by band.

``_outlier_terms.py`` holds the definition. Here nothing of the image's size is kept for backward
but what was given. The pixels where the term acts are few, and listed: a flagged pixel's class
fills a small part of its window, so that a small part of any image is flagged.
"""

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
) -> tuple[Tensor, Tensor, tuple[Slopes, list["_Flagged"]]]:
    """Return the loss, a scalar or a map, with its terms, and what backward needs."""
    batch, channels, *spatial = maps.logits.shape
    plan = plan.within(spatial)
    dtype = arithmetic_dtype(maps.logits)
    is_map = plan.reduction == "none"
    loss_map = torch.empty(maps.logits.shape if is_map else 0, dtype=dtype)
    totals, listed, sums = Totals(channels, batch), [], WindowSums(plan.outer)
    sizes = [_WindowSizes(spatial, window, sums) for window in (plan.inner, plan.outer)]
    for piece in _pieces(maps, plan, around=True):
        cross_entropy = piece.cross_entropy()
        if plan.formulation == "paper":
            flagged = _flagged_by_density(piece, plan, sums, sizes)
        else:
            flagged = _flagged_by_count(piece, plan, sums, sizes[1], cross_entropy)
        piece.add_to(totals, plan, cross_entropy, flagged)
        if is_map:
            piece.of(loss_map).copy_(cross_entropy)
        listed.append(flagged)
    loss, terms, slopes = totals.finish(plan, weights, dtype)
    if not is_map:
        return loss, terms, (slopes, listed)
    for piece, flagged in zip(_pieces(maps, plan), listed, strict=True):
        term = flagged.term * slopes.term[piece.channel, flagged.image]
        spot = torch.unravel_index(flagged.place, piece.target.shape)
        piece.of(loss_map).index_put_(spot, term, accumulate=True)
    return loss_map, terms, (slopes, listed)


def backward(grad: Tensor, maps: Maps, plan: Plan, kept: tuple[Slopes, list["_Flagged"]]) -> Tensor:
    """Return the gradient of the loss by the logits."""
    slopes, listed = kept
    plan = plan.within(maps.logits.shape[2:])
    by_logits = torch.ops.aten.sigmoid_backward
    result = torch.empty_like(maps.logits)
    adjoint = None
    if plan.formulation == "paper":
        adjoint = _Adjoint(maps, plan, listed, slopes.term, grad)
    for piece, flagged in zip(_pieces(maps, plan), listed, strict=True):
        upstream = piece.of(grad) if grad.dim() else grad
        room = piece.room_in(result)
        # Backward to the logits of "suppress" and its kin needs the probabilities for this alone.
        once = adjoint is None and plan.dice_smooth is None and piece.pos_weight is None
        probs = torch.sigmoid(piece.logits, out=room if once else torch.empty_like(room))
        slope = piece.slope(probs, room)
        by_term = None
        if adjoint is None:
            by_term = _slope_of_flagged(piece, plan, flagged, slope)
            by_term *= slopes.term[piece.channel, flagged.image]
            by_term *= upstream.reshape(-1)[flagged.place] if grad.dim() else grad
        slope *= upstream * slopes.cross_entropy
        if by_term is not None:
            slope.view(-1).index_add_(0, flagged.place, by_term)
        if adjoint is not None:
            slope += piece.inside(by_logits(adjoint.of(piece), probs))
        if plan.dice_smooth is not None:
            by_probs = piece.each_image(slopes.overlap * grad) * piece.target
            by_probs += piece.each_image(slopes.probs * grad)
            slope += piece.inside(by_logits(by_probs, probs))
        if slope.data_ptr() != piece.of(result).data_ptr():
            piece.of(result).copy_(slope)
    return result


class _Flagged(NamedTuple):
    """The pixels of a piece where the term acts: place in it, image of the batch, and the term.

    For "paper" ``slopes`` are those of -D by its two counts; else the weight, and the colour.
    """

    place: Tensor
    image: Tensor
    term: Tensor
    slopes: tuple[Tensor, Tensor]


class _Piece(NamedTuple):
    """One channel over a band, in the dtype of the arithmetic, 0 where not valid."""

    channel: int
    band: Band
    around: Tensor  # the logits, with the rows that the windows see where they are wanted
    valid_around: Tensor | None
    logits: Tensor
    target: Tensor
    valid: Tensor | None
    pos_weight: Tensor | None
    class_weight: Tensor | None

    def of(self, maps: Tensor) -> Tensor:
        return self.band.of(maps[:, self.channel])

    def image_of(self, place: Tensor) -> Tensor:
        """Return which of the piece's images sorted places belong to."""
        images = self.target.shape[0]
        firsts = torch.arange(images + 1) * self.target[0].numel()
        return torch.arange(images).repeat_interleave(torch.searchsorted(place, firsts).diff())

    def each_image(self, values: Tensor) -> Tensor:
        """Return the piece's part of ``(C, N)``, to broadcast over its pixels."""
        of_images = values[self.channel, self.band.images]
        return of_images.view([-1] + [1] * (self.target.dim() - 1))

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

    def add_to(self, totals: Totals, plan: Plan, cross_entropy: Tensor, flagged: _Flagged) -> None:
        at = self.channel, self.band.images
        totals.cross_entropy[at] += cross_entropy.flatten(1).sum(1)
        pixels = self.target[0].numel() if self.valid is None else self.valid.flatten(1).sum(1)
        totals.pixels[at] += pixels
        totals.term[self.channel].index_add_(0, flagged.image, flagged.term.double())
        if plan.formulation == "balanced":
            totals.weight[self.channel].index_add_(0, flagged.image, flagged.slopes[0].double())
        if plan.dice_smooth is not None:
            probs = self.inside(self.logits.sigmoid()).flatten(1)
            target = self.target.flatten(1)
            totals.probs[at] += probs.sum(1)
            totals.target[at] += target.sum(1)
            totals.overlap[at] += probs.mul_(target).sum(1)

    def _weighed(self, values: Tensor) -> Tensor:
        return self.inside(values if self.class_weight is None else values.mul_(self.class_weight))


def _pieces(maps: Maps, plan: Plan, around: bool = False) -> Iterator[_Piece]:
    """Read the maps piece by piece, with the rows around each only where they are wanted."""
    wide = arithmetic_dtype(maps.logits)
    batch, channels, *spatial = maps.logits.shape
    pixels = PIXELS["paper" if plan.formulation == "paper" else "others"]
    for channel in range(channels):
        logits, target = maps.logits[:, channel], maps.target[:, channel]
        mask = None if maps.mask is None else maps.mask[:, channel]
        weights = [w if w is None else w[channel % len(w)] for w in maps[4:]]
        for band in bands((batch, *spatial), plan.outer[0] // 2, pixels):
            own = band.own if around else slice(None)
            seen = band.of(logits, around).to(wide).contiguous()
            labels = band.of(target, around)
            valid = None if mask is None else band.of(mask, around)
            if maps.ignore_index is not None:
                kept = labels != maps.ignore_index
                valid = kept if valid is None else valid & kept
            labels = labels[:, own].to(wide).contiguous()
            inside = None
            if valid is not None:
                valid = valid.contiguous()  # or what it is applied to takes its layout
                inside = valid[:, own]
                seen, labels = seen.where(valid, 0.0), labels.where(inside, 0.0)
            yield _Piece(channel, band, seen, valid, seen[:, own], labels, inside, *weights)


class _WindowSizes:
    """How many pixels of the image the windows of a piece hold: ``(1 or images, rows, ...)``."""

    def __init__(self, spatial: Sequence[int], window: tuple[int, ...], sums: WindowSums) -> None:
        self.window, self.sums = window, sums
        self.spatial = spatial
        self.rows, self.last = slice(0), torch.empty(0)

    def of(self, piece: _Piece) -> Tensor:
        if piece.valid_around is not None:
            room, filled = self.sums.room(piece.band, piece.target.shape[2:], torch.int8)
            filled.copy_(piece.valid_around)
            return self.sums.of(room, self.window)[0].int()
        if self.rows != piece.band.rows:  # most pieces are of the same rows
            sides = zip(self.spatial, self.window, strict=True)
            first, *rest = (axis_count(length, side).int() for length, side in sides)
            size = first[piece.band.rows]
            for count in rest:
                size = size.unsqueeze(-1) * count
            self.rows, self.last = piece.band.rows, size.unsqueeze(0)
        return self.last

    @staticmethod
    def at(sizes: Tensor, place: Tensor, image: Tensor) -> Tensor:
        """Return the sizes at some places of the piece, and images of it."""
        if sizes.shape[0] == 1:
            place = place - image * sizes.numel()
        return sizes.reshape(-1)[place]


def _flagged_by_count(
    piece: _Piece, plan: Plan, sums: WindowSums, sizes: _WindowSizes, cross_entropy: Tensor
) -> _Flagged:
    """Find the pixels whose class fills at most S pixels of the window, level by level.

    Colours are 1 and -1, and 0 outside the image: a window's sum times the colour of its pixel is
    J - (n - J), flagged where it is at most min(2 S - n, 0).
    """
    size = sizes.of(piece)
    bound = (2 * plan.largest_count - size).clamp_(max=0)
    found = []
    for log_odds in plan.log_odds:
        room, filled = sums.room(piece.band, piece.target.shape[2:], torch.int8)
        # Comparing into the dtype that is compared is several times faster than into booleans.
        white = sums.take("white", piece.around.numel(), piece.around.dtype)
        filled.copy_(torch.gt(piece.around, log_odds, out=white.view_as(piece.around)))
        filled.mul_(2).sub_(1)
        if piece.valid_around is not None:
            filled.mul_(piece.valid_around)
        [excess] = sums.of(room, plan.outer)
        excess = (excess * filled[:, piece.band.own]).contiguous()
        flags = torch.le(excess, bound.to(excess.dtype), out=torch.empty_like(excess))
        place = _places(piece.inside(flags))
        image = piece.image_of(place)
        pixels = sizes.at(size, place, image).to(cross_entropy.dtype)
        weight = (0.5 - excess.view(-1)[place] / (2 * pixels)) / len(plan.levels)
        if plan.formulation == "penalty":
            logits = piece.logits.reshape(-1)[place]
            colour = _colour(logits, log_odds)
            cost = F.softplus(colour * logits)
        else:
            colour, cost = weight[:0], cross_entropy.view(-1)[place]
        found.append((place, image + piece.band.images.start, weight * cost, weight, colour))
    place, image, term, *slopes = (torch.cat(parts) for parts in zip(*found, strict=True))
    return _Flagged(place, image, term, (slopes[0], slopes[1]))


def _slope_of_flagged(piece: _Piece, plan: Plan, flagged: _Flagged, slope: Tensor) -> Tensor:
    """Return the derivative of the flagged pixels' terms by their logits."""
    weight, colour = flagged.slopes
    if plan.formulation == "penalty":
        return weight * colour * (colour * piece.logits.reshape(-1)[flagged.place]).sigmoid()
    return weight * slope.view(-1)[flagged.place]


def _flagged_by_density(
    piece: _Piece, plan: Plan, sums: WindowSums, sizes: Sequence[_WindowSizes]
) -> _Flagged:
    """Find the pixels whose class the paper's mask keeps, with -D and its slopes by its counts."""
    near_size, gap_size = (size.of(piece).to(piece.around.dtype) for size in sizes)
    gap_size = gap_size - near_size
    room, filled = sums.room(piece.band, piece.target.shape[2:], piece.around.dtype)
    torch.sigmoid(piece.around, out=filled)
    if piece.valid_around is not None:
        filled.mul_(piece.valid_around)
    near, wide = sums.of(room, plan.inner, plan.outer)
    # Half of what the gap has more of the pixel's own colour than of the other.
    colour = _colour(piece.logits, 0.0)
    half = gap_size / 2
    excess = torch.sub(wide, near).sub_(half).mul_(colour)
    flags = torch.le(excess, plan.threshold + 0.5 - half, out=excess)
    place = _places(piece.inside(flags))
    spot, image = torch.unravel_index(place, colour.shape), piece.image_of(place)
    near_size, gap_size = (sizes[0].at(size, place, image) for size in (near_size, gap_size))
    own_colour, own_near = colour.view(-1)[place], near[spot]
    white, own_gap = own_colour > 0, wide[spot] - own_near
    own_near = own_near.where(white, near_size - own_near)
    others = gap_size - own_gap.where(white, gap_size - own_gap)
    below = others.clamp(min=0.0) + plan.smooth
    density = (own_near + plan.smooth) / below
    by_wide = (density / below).where(others >= 0, 0.0) * own_colour
    image = image + piece.band.images.start
    return _Flagged(place, image, -density, (by_wide - own_colour / below, -by_wide))


def _colour(logits: Tensor, log_odds: float) -> Tensor:
    """Return 1 where a logit is white, else -1."""
    return torch.gt(logits, log_odds, out=torch.empty_like(logits)).mul_(2).sub_(1)


def _places(flags: Tensor) -> Tensor:
    """Return where flags are not 0, as few are: found 8 bytes at a time."""
    flags = flags.view(-1)
    step = 8 // flags.element_size()
    whole = flags.numel() // step * step
    words = flags[:whole].view(torch.int64).nonzero() * step
    tail = torch.arange(whole, flags.numel())
    place = torch.cat([(words + torch.arange(step)).view(-1), tail])
    return place.masked_select(flags.index_select(0, place) != 0)


class _Adjoint:
    """The term's derivative by the probabilities, for "paper": window sums of D's slopes."""

    def __init__(
        self, maps: Maps, plan: Plan, listed: Sequence[_Flagged], strength: Tensor, grad: Tensor
    ) -> None:
        self.plan, self.sums = plan, WindowSums(plan.outer)
        self.length = maps.logits.shape[2]
        found: dict[int, list[tuple[Tensor, ...]]] = {}
        for piece, flagged in zip(_pieces(maps, plan), listed, strict=True):
            scale = strength[piece.channel, flagged.image]
            scale = scale * (piece.of(grad).reshape(-1)[flagged.place] if grad.dim() else grad)
            first, _ = piece.band.span(self.length)
            place = flagged.place + first * piece.target[0, 0].numel()
            slopes = (slope * scale for slope in flagged.slopes)
            found.setdefault(piece.channel, []).append((place, *slopes))
        self.channels = {
            channel: [torch.cat(parts) for parts in zip(*of_pieces, strict=True)]
            for channel, of_pieces in found.items()
        }

    def of(self, piece: _Piece) -> Tensor:
        place, near, gap = self.channels[piece.channel]
        row = piece.target[0, 0].numel()
        first, stop = (line * row for line in piece.band.span(self.length, margin=True))
        low, high = torch.searchsorted(place, torch.tensor([first, stop])).tolist()
        place, near, gap = place[low:high] - first, near[low:high], gap[low:high]
        inner, outer = self.plan.inner, self.plan.outer
        once = [1] * len(inner)
        if are_multiples(outer, inner):  # then its window's sums are those of the inner one's
            steps = [far // side for far, side in zip(outer, inner, strict=True)]
            return self._sums(piece, place, inner, (near, once), (gap, steps))
        by_near = self._sums(piece, place, inner, (near, once))
        return by_near + self._sums(piece, place, outer, (gap, once))

    def _sums(
        self,
        piece: _Piece,
        place: Tensor,
        window: tuple[int, ...],
        *shares: tuple[Tensor, Sequence[int]],
    ) -> Tensor:
        """Sum windows, with each slope put to so many places a window apart, along each axis."""
        room, filled = self.sums.room(piece.band, piece.target.shape[2:], piece.logits.dtype)
        line, strides = self.sums.line(room), room.stride()
        spot = torch.stack(torch.unravel_index(place, filled.shape), dim=-1)
        place = (spot * torch.tensor(strides)).sum(dim=-1) + int(filled.storage_offset())
        for slopes, steps in shares:
            to = place
            for count, side, stride in zip(steps, window, strides[1:], strict=True):
                shifts = torch.arange(-(count // 2), count // 2 + 1) * side * stride
                to = to.unsqueeze(-1) + shifts
            to = to.flatten(1)
            # What falls out of the room would lie beyond the windows of the piece's pixels.
            inside = (to >= 0) & (to < line.numel())
            added = slopes.unsqueeze(1).where(inside, 0.0)
            line.index_add_(0, to.clamp_(0, line.numel() - 1).view(-1), added.view(-1))
        return self.sums.of(room, window)[0]
