"""The paper's formulation on a CPU: the density of flagged pixels, and its windows' adjoint."""

import torch
from torch import Tensor

from gliomaseg_layers.functional._bands import WindowSums
from gliomaseg_layers.functional._pieces import Piece
from gliomaseg_layers.functional._plan import Plan
from gliomaseg_layers.functional._totals import Slopes, Totals

__all__ = ["Adjoint", "ByDensity"]


class ByDensity:
    """The term -D, of the pixels whose class the paper's mask keeps.

    Everything is computed on lines of a room, whose margins are of no class. Kept are such lines of
    all planes: the derivatives of -D by the sums over its two windows.
    """

    def __init__(self, shape: torch.Size, plan: Plan, dtype: torch.dtype) -> None:
        self.plan, self.dtype, self.sums = plan, dtype, WindowSums(shape[2:], plan.outer)
        self.kept = self.sums.lines(2, shape[:2].numel(), dtype)
        self.maps: list[Tensor] = []

    def look_at(self, piece: Piece, cross_entropy: Tensor, totals: Totals) -> None:
        """Find the flagged pixels of a piece, and add their term to the totals."""
        plan, sums = self.plan, self.sums
        sizes = sums.sizes(piece.band, piece.valid_around, plan.inner, plan.outer)
        if sizes is not None:
            near_size, wide_size = (size.to(self.dtype) for size in sizes)
            half_gap = (wide_size - near_size) / 2
            bound = plan.threshold + 0.5 - half_gap
            self.bound = bound.masked_fill_(wide_size == 0, torch.nan)  # within which nothing is
            self.above, self.below = near_size / 2 + plan.smooth, half_gap + plan.smooth
        room = sums.room(piece.band, self.dtype)
        room.filled.copy_(piece.around)
        count = room.own.numel()
        like = -1, self.bound.shape[1]

        def take(name: str) -> Tensor:
            return sums.memory.take(name, count, self.dtype).view(like)

        # Halves of what there is more of white than of black are sums of p - 1/2, which is 0 where
        # no pixel is.
        colour = take("colour")
        # Comparing into the dtype that is compared is several times faster than into booleans.
        torch.gt(room.own.view(like), 0.0, out=colour)
        torch.sub(1, colour, alpha=2, out=colour)  # -1 where the predicted class is white
        room.line.sigmoid_().sub_(0.5)
        near, wide = (line.view(like) for line in room.sums(plan.inner, plan.outer))
        excess = torch.sub(near, wide, out=take("excess")).mul_(colour)  # of the own class
        flags = torch.le(excess, self.bound, out=take("flags"))
        # Where rounding has made the others negative, all of the gap is certain.
        others = torch.sub(self.below, excess, out=excess).clamp_(min=plan.smooth)
        own = torch.addcmul(self.above, colour, near, value=-1, out=take("own"))
        flags /= others
        density = own.mul_(flags)
        total = density.view(-1, room.strides[0]).sum(1)
        if total.isnan().any():  # nothing is certain of a window with a NaN among its logits
            for line in (flags, density):
                line.nan_to_num_(0.0)
            total = density.view(-1, room.strides[0]).sum(1)
        totals.term[piece.planes].sub_(total)
        kept = sums.part(self.kept, piece.planes.start, piece.band.rows.start, room)
        by_near, by_wide = (line[room.front :][:count].view(like) for line in kept)
        torch.mul(flags.mul_(colour), density, out=by_wide)
        torch.sub(flags, by_wide, out=by_near)
        if plan.reduction == "none":
            self.maps.append(room.pixels(density.view(-1)).neg())


class Adjoint:
    """The term's derivative by the probabilities: window sums of those by the windows' sums."""

    def __init__(self, spatial: torch.Size, plan: Plan, kept: Tensor) -> None:
        self.plan, self.sums, self.kept = plan, WindowSums(spatial, plan.outer), kept

    def of(self, piece: Piece, slopes: Slopes, grad: Tensor) -> Tensor:
        """Return the derivative of a piece of the loss, or of a map of that gradient."""
        room = self.sums.room(piece.band, self.kept.dtype)
        lines = self.sums.part(self.kept, piece.planes.start, piece.band.rows.start, room)
        if grad.dim():
            room.filled.copy_(piece.cut.of(grad, True))
            lines = lines * room.line
        line = room.adjoint((self.plan.inner, self.plan.outer), *lines)
        return room.pixels(line) * piece.each_image(slopes.term)
