"""What is measured: the losses, and predictions and targets for them."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gliomaseg_layers import CompoundLoss, DensityLoss, OutlierRegionLoss

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Loss = Callable[[Tensor, Tensor], Tensor]
BCE: Loss = F.binary_cross_entropy_with_logits
LOSSES: dict[str, Loss] = {
    "OutlierRegionLoss(levels=(0.5,))": OutlierRegionLoss(levels=(0.5,)),
    "OutlierRegionLoss()": OutlierRegionLoss(),
    "CompoundLoss()": CompoundLoss().to(DEVICE),
    "DensityLoss()": DensityLoss(),
}


def batch(shape: str = "16x1x256x256", mode: str = "binary") -> tuple[Tensor, Tensor]:
    """Return logits with islands, as late in training, and a target of one region an image."""
    batch, channels, *spatial = map(int, shape.split(",")[0].split("x"))
    generator = torch.Generator().manual_seed(23)
    coarse = torch.randn(batch, channels, *(n // 8 for n in spatial), generator=generator)
    how = "bilinear" if len(spatial) == 2 else "trilinear"
    logits = 6 * F.interpolate(coarse, size=spatial, mode=how) - 4
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in spatial), indexing="ij")
    region = torch.stack(axes).square().sum(0) < 0.1
    target = region.expand(batch, *spatial).long()
    if mode != "multiclass":
        target = target.unsqueeze(1).expand(logits.shape).float()
    return logits.to(DEVICE).requires_grad_(), target.to(DEVICE)


def stepper(loss: Loss, logits: Tensor, target: Tensor) -> Callable[[], None]:
    """Return forward and backward of a loss."""

    def step() -> None:
        logits.grad = None
        loss(logits, target).backward()  # type: ignore[no-untyped-call]

    return step
