"""The noise test of [WAN23]'s figure 9, redrawn: four noise areas and one region, on black."""

from collections.abc import Callable

import torch
from torch import Tensor

SIZE = 100
REGION = (slice(36, 64), slice(36, 64))  # area 5, 28 x 28


def noise_areas() -> list[Tensor]:
    """Return the masks of areas 1 to 4, none larger than 7 x 7, all more than 21 px apart."""
    full = torch.ones(7, 7, dtype=torch.bool)
    diagonals = torch.eye(7, dtype=torch.bool)
    diagonals = diagonals | diagonals.flip(0)  # the sparsest of the four
    cross = torch.zeros(7, 7, dtype=torch.bool)
    cross[3, :] = cross[:, 3] = True
    ring = full.clone()
    ring[1:-1, 1:-1] = False
    areas = []
    for shape, row, column in ((full, 8, 8), (diagonals, 8, 85), (cross, 85, 8), (ring, 85, 85)):
        area = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        area[row : row + 7, column : column + 7] = shape
        areas.append(area)
    return areas


def noise_test() -> tuple[Tensor, Tensor]:
    """Return the 0/1 image and its target, area 5 alone, both ``(1, 1, 100, 100)``."""
    target = torch.zeros(1, 1, SIZE, SIZE)
    target[..., *REGION] = 1.0
    image = target.clone()
    for area in noise_areas():
        image[0, 0, area] = 1.0
    return image, target


def descend(
    term: Callable[[Tensor], Tensor], logits: Tensor, *, steps: int = 400, rate: float = 0.5
) -> Tensor:
    """Follow the gradient of a term downhill on the logits alone; return where they end."""
    logits = logits.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        term(logits).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return logits.detach()
