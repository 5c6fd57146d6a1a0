"""One training step of every loss, to be repeated: in threads, in worker processes, for long."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gliomaseg_layers import CompoundLoss, DiceLoss, OutlierRegionLoss
from gliomaseg_layers.functional import remove_outlier_regions
from tests.support.cases import FORMULAS, MODES, SMALL, case

LOSSES: dict[str, Callable[..., Any]] = {
    "dice": DiceLoss,
    **{
        name: lambda mode="binary", formula=formula: formula.module(mode, **formula.small)
        for name, formula in FORMULAS.items()
    },
    **{
        f"compound, {name}": lambda mode="binary", formula=formula: CompoundLoss(
            formula.module(mode, **formula.small)
        )
        for name, formula in FORMULAS.items()
    },
    "compound, scnp": lambda mode="binary": CompoundLoss(OutlierRegionLoss(mode, **SMALL), scnp=3),
}
STEPS = [(name, *mode) for name in LOSSES for mode in (MODES[0], MODES[1], MODES[3])]


def step(loss: Any, x: Tensor, target: Tensor) -> list[Tensor]:
    """Return the loss and its gradient by the input."""
    x = x.detach().requires_grad_()
    value = loss(x, target)
    return [value.detach(), *torch.autograd.grad(value, x)]


def same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return all(map(torch.equal, first, second))


class Slices(Dataset[Any]):
    """Predictions, cleaned and weighed where they are loaded."""

    def __init__(self) -> None:
        self.loss = CompoundLoss(OutlierRegionLoss(**SMALL))

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        x, target = case((13, 11), "binary", 1, seed=index, batch=1)
        clean = remove_outlier_regions(x > 0, **SMALL)
        return clean, *step(self.loss, x.float(), target)


def loads_the_same(method: str) -> bool:
    """Tell whether worker processes give what the process itself computes."""
    slices = Slices()
    loader = DataLoader(slices, batch_size=None, num_workers=2, multiprocessing_context=method)
    expected = [slices[index] for index in range(len(slices))]
    return all(same(found, true) for found, true in zip(loader, expected, strict=True))
