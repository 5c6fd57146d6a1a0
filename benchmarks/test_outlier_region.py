"""The loss, forward and backward, against the cross-entropy it contains and its rivals."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gliomaseg_layers import CompoundLoss
from gliomaseg_layers.functional import outlier_region_loss
from rivals import paper_loss_by_convolution

COMPOUND = CompoundLoss()
LOSSES = {
    "BCE with logits (torch)": F.binary_cross_entropy_with_logits,
    "balanced": lambda z, y: outlier_region_loss(z, y, formulation="balanced"),
    "suppress": lambda z, y: outlier_region_loss(z, y, formulation="suppress"),
    "penalty": lambda z, y: outlier_region_loss(z, y, formulation="penalty"),
    "paper": lambda z, y: outlier_region_loss(z, y, formulation="paper"),
    "paper by conv2d": paper_loss_by_convolution,
    "CompoundLoss": COMPOUND,
    "balanced, compiled": torch.compile(outlier_region_loss, fullgraph=True),
}


def batch(count: int = 16) -> tuple[Tensor, Tensor]:
    """Return confident logits with islands, and a target, as late in training."""
    generator = torch.Generator().manual_seed(23)
    coarse = torch.randn(count, 1, 32, 32, generator=generator)
    logits = 6 * F.interpolate(coarse, size=(256, 256), mode="bilinear") - 4
    return logits.requires_grad_(), (logits.detach() > 1).float()


@pytest.mark.parametrize("name", LOSSES)
def test_forward_and_backward(benchmark, name: str) -> None:
    logits, target = batch()

    def step() -> Tensor:
        logits.grad = None
        loss: Tensor = LOSSES[name](logits, target)
        loss.backward()
        return loss

    if name == "paper by conv2d":
        check_against("paper", name)
    benchmark.group = "loss, forward and backward, 16x1x256x256"
    benchmark(step)


def check_against(ours: str, rival: str) -> None:
    """Check that both are the same loss, in value and gradient."""
    results = []
    for name in (ours, rival):
        logits, target = batch(2)
        loss = LOSSES[name](logits, target)
        results.append((loss, *torch.autograd.grad(loss, logits)))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-8)
