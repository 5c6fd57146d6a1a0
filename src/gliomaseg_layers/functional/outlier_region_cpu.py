"""The loss on a CPU: forward and backward in closed form, piece by piece.

``_outlier_terms.py`` holds the definition. The terms of whole counts are here, the paper's is in
``outlier_region_paper_cpu.py``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gliomaseg_layers.functional._bands import Memory, WindowSums, places_of_few
from gliomaseg_layers.functional._pieces import Piece, cuts, pieces
from gliomaseg_layers.functional._plan import Maps, Plan
from gliomaseg_layers.functional._scores import arithmetic_dtype
from gliomaseg_layers.functional._totals import Slopes, Totals
from gliomaseg_layers.functional.outlier_region_paper_cpu import Adjoint, ByDensity

__all__ = ["backward", "forward"]


def forward(
    maps: Maps, plan: Plan, weights: Sequence[float | Tensor]
) -> tuple[Tensor, Tensor, tuple[Slopes, Tensor]]:
    """Return the loss, a scalar or a map, with its terms, and what backward needs."""
    shape, dtype = maps.logits.shape, arithmetic_dtype(maps.logits)
    plan = plan.within(shape[2:])
    is_map = plan.reduction == "none"
    loss_map = torch.empty(shape if is_map else 0, dtype=dtype, device="cpu")
    totals = Totals(shape[:2].numel())
    term = (ByDensity if plan.formulation == "paper" else _ByCount)(shape, plan, dtype)
    for piece in pieces(maps, plan, around=True):
        cross_entropy = piece.cross_entropy()
        term.look_at(piece, cross_entropy, totals)
        piece.add_to(totals, plan, cross_entropy)
        if is_map:
            piece.of(loss_map).copy_(cross_entropy)
        del cross_entropy  # the next piece's takes its memory
    # A weight of 0 times an infinity is none: of such a plane the cross-entropy says enough.
    totals.term.masked_fill_(totals.cross_entropy.isinf(), 0.0)
    loss, terms, slopes = totals.finish(plan, weights, dtype)
    if is_map:
        for cut, added in zip(cuts(shape, plan), term.maps, strict=not _is_weighted(plan)):
            cut.of(loss_map).add_(added * cut.each_image(slopes.term, added))
        loss = loss_map
    return loss, terms, (slopes, term.kept)


def backward(grad: Tensor, maps: Maps, plan: Plan, kept: tuple[Slopes, Tensor]) -> Tensor:
    """Return the gradient of the loss by the logits."""
    slopes, found = kept
    plan = plan.within(maps.logits.shape[2:])
    if not grad.dim():
        slopes = Slopes(*(slope * grad for slope in slopes))
    result, memory = torch.empty_like(maps.logits), Memory()
    if not result.numel():
        return result
    adjoint = None
    if plan.formulation == "paper":
        adjoint = Adjoint(maps.logits.shape[2:], plan, found)
    for piece in pieces(maps, plan):
        room = piece.room_in(result)
        # Backward to the logits of whole counts' terms needs the probabilities for this alone.
        once = adjoint is None and plan.dice_smooth is None and piece.pos_weight is None
        probs = torch.sigmoid(piece.logits, out=room if once else torch.empty_like(room))
        slope, by_probs = piece.slope(probs, room), None
        if adjoint is not None:
            slope *= slopes.cross_entropy
            by_probs = adjoint.of(piece, slopes, grad)
        elif _is_weighted(plan):
            slope.mul_(piece.cut.of_planes(found)).mul_(slopes.cross_entropy)
        else:
            by_term = memory.take("by term", slope.numel(), slope.dtype).view_as(slope)
            torch.mul(piece.cut.of_planes(found), piece.each_image(slopes.term), out=by_term)
            if plan.formulation == "penalty":
                slope.mul_(slopes.cross_entropy).add_(by_term)
            else:
                slope *= by_term.add_(slopes.cross_entropy)
        if grad.dim():
            slope *= piece.of(grad)
        if plan.dice_smooth is not None:
            by_dice = piece.each_image(slopes.overlap) * piece.target
            by_dice += piece.each_image(slopes.probs)
            by_probs = by_dice if by_probs is None else by_dice.add_(by_probs)
        if by_probs is not None:
            by_logits = torch.ops.aten.sigmoid_backward.grad_input
            slope += piece.inside(by_logits(by_probs, probs, grad_input=probs))
        if slope.data_ptr() != piece.of(result).data_ptr():
            piece.of(result).copy_(slope)
    return result


def _is_weighted(plan: Plan) -> bool:
    """Return whether the loss is the cross-entropy under a weight that each piece tells alone."""
    return plan.formulation == "suppress" and plan.dice_smooth is None


class _ByCount:
    """The terms of how many pixels K of a window's n are of another class than its own pixel.

    A pixel weighs K / n, on the average of the levels, where K is at least n - min(S, n / 2). Kept
    are the weights of all planes, or for "penalty" the derivatives of the term by the logits.
    ``maps`` are those of the term, piece by piece, with reduction "none".
    """

    def __init__(self, shape: torch.Size, plan: Plan, dtype: torch.dtype) -> None:
        self.plan, self.dtype, self.sums = plan, dtype, WindowSums(shape[2:], plan.outer)
        self.kept = torch.empty(shape[:2].numel(), *shape[2:], dtype=dtype, device="cpu")
        self.one = torch.ones((), dtype=dtype, device="cpu")
        self.maps: list[Tensor] = []

    def look_at(self, piece: Piece, cross_entropy: Tensor, totals: Totals) -> None:
        """Weigh the pixels of a piece: their cross-entropy, or a term that the totals take."""
        plan = self.plan
        sizes = self.sums.sizes(piece.band, piece.valid_around, plan.outer)
        if sizes is not None:
            size = self.sums.room(piece.band, torch.int8).pixels(sizes[0].view(-1))
            self.size, self.least = size, size - (size >> 1).clamp_(max=plan.largest_count)
            self.above = (size * len(plan.levels)).clamp_(min=1).to(self.dtype)
            self.strength = plan.strength / self.above
        kept = piece.cut.of_planes(self.kept)
        if plan.formulation == "penalty":
            term = self._penalise(piece, kept.zero_())
        else:
            for level, log_odds in enumerate(plan.log_odds):
                others = self._others(piece, log_odds)[: kept.numel()].view_as(kept)
                (kept.add_ if level else kept.copy_)(others)
            if _is_weighted(plan):
                cross_entropy *= torch.addcmul(self.one, kept, self.strength, out=kept)
                return
            term = self.sums.memory.take("white", kept.numel(), kept.dtype).view_as(kept)
            torch.mul(kept.div_(self.above), cross_entropy, out=term)
        totals.term[piece.planes].add_(term.flatten(1).sum(1))
        if plan.formulation == "balanced":
            totals.weight[piece.planes].add_(kept.flatten(1).sum(1))
        if plan.reduction == "none":
            self.maps.append(term.masked_fill(kept == 0, 0.0))  # also of infinities

    def _others(self, piece: Piece, log_odds: float) -> Tensor:
        """Count the other class's pixels around each pixel, and 0 where they are too few.

        In a line of whole words.
        """
        room, take = self.sums.room(piece.band, torch.int8), self.sums.memory.take
        # Comparing into the dtype that is compared is several times faster than into booleans.
        white = take("white", piece.around.numel(), self.dtype).view_as(piece.around)
        room.filled.copy_(torch.gt(piece.around, log_odds, out=white))
        if piece.valid_around is not None:
            room.filled.mul_(piece.valid_around)
        count = room.pixels(room.sums(self.plan.outer)[0])
        self.size, self.least = self.size.to(count.dtype), self.least.to(count.dtype)
        pixels = count.numel()
        line = self.sums.memory.words("runs 0", pixels, count.dtype)
        others = line[:pixels].view_as(count)
        own = take("runs 1", pixels, count.dtype).view_as(count)
        own.copy_(room.pixels(room.own))
        # Of the n pixels J are white: others are n - J around a white one, J around a black one.
        torch.sub(self.size, count, alpha=2, out=others)
        torch.addcmul(count, own, others, out=others)
        others *= torch.ge(others, self.least, out=own)
        if piece.valid is not None:
            others *= piece.valid
        return line

    def _penalise(self, piece: Piece, slope: Tensor) -> Tensor:
        """Return the term of "penalty", and add its derivative by the logits to a map."""
        term = torch.zeros_like(slope)
        logits, above = piece.logits.reshape(-1), self.above.view(-1)
        for log_odds in self.plan.log_odds:
            others = self._others(piece, log_odds)
            place = places_of_few(others)
            of_image = place.remainder(above.numel())  # as all images have the same sizes, or not
            weight = others.index_select(0, place) / above.index_select(0, of_image)
            chosen = logits.index_select(0, place)
            colour = 2 * (chosen > log_odds).to(self.dtype) - 1
            wrong = colour * chosen
            term.view(-1).index_add_(0, place, weight * F.softplus(wrong))
            slope.view(-1).index_add_(0, place, weight * colour * wrong.sigmoid())
        return term
