"""The losses, forward and backward: their share of a training step, their rivals, their memory.

On a GPU where there is one; one thread on a CPU. Ratios are of steps by turns in one process.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.alternating import compare
from benchmarks.rivals import box_sum_by_convolution, box_sum_by_pooling, paper_loss
from benchmarks.workloads import BCE, DEVICE, LOSSES, Loss, batch, stepper
from gliomaseg_layers import DensityLoss, OutlierRegionLoss, UNet
from tests.support.peak_memory import peak_of_training_step

SHAPES = {
    "1x1x256x256": "binary",
    "1x1x2048x2048": "binary",
    "64x1x512x512": "binary",
    "8x4x256x256": "multilabel",
    "8x4x256x256, multiclass": "multiclass",
    "2x4x64x64x64, multiclass": "multiclass",
}
RIVALS = {
    "BCE + Dice": "bce_dice",
    "SCNP": "scnp_loss",
    "boundary loss": "boundary",
    "connected components": "component_flag",
    "blob loss": "blob",
    "Hausdorff loss": "hausdorff",
}


def measure(benchmark: Any, loss: Loss, rival: Loss, over: str, *given: Tensor) -> None:
    step = stepper(loss, *given)
    compare(benchmark, step, stepper(rival, *given), over)
    benchmark.pedantic(step, rounds=3)


@pytest.mark.parametrize("name", ["BCE", *LOSSES])
def test_share_of_a_training_step(benchmark: Any, name: str) -> None:
    torch.manual_seed(0)
    network, loss = UNet.mini().to(DEVICE), BCE if name == "BCE" else LOSSES[name]
    optimizer = torch.optim.Adam(network.parameters())
    images = torch.rand(2, 3, 256, 256, device=DEVICE)
    _, target = batch("2x1x256x256")

    def training_step() -> None:
        optimizer.zero_grad()
        loss(network(images), target).backward()
        optimizer.step()

    step = stepper(loss, network(images).detach().requires_grad_(), target)
    benchmark.group = "The loss in a training step of UNet.mini, 2x3x256x256"
    benchmark.extra_info["row"] = name
    compare(benchmark, step, training_step, "the whole step")
    benchmark.pedantic(step, rounds=3)


@pytest.mark.parametrize("compiled", [False, True], ids=["", "compiled"])
@pytest.mark.parametrize("name", LOSSES)
def test_loss(benchmark: Any, name: str, compiled: bool) -> None:
    logits, target = batch()
    benchmark.group = "The losses, forward and backward, 16x1x256x256"
    benchmark.extra_info["row"] = name + ", compiled" * compiled
    loss = torch.compile(LOSSES[name], fullgraph=True) if compiled else LOSSES[name]
    if not compiled:
        peak = peak_of_training_step(lambda z: loss(z, target), [logits], torch.ones(()))
        benchmark.extra_info["peak"] = peak / logits.nbytes
    measure(benchmark, loss, BCE, "`F.binary_cross_entropy_with_logits`", logits, target)


@pytest.mark.parametrize("shape", SHAPES)
def test_shape(benchmark: Any, shape: str) -> None:
    mode = SHAPES[shape]
    benchmark.group = "OutlierRegionLoss() of other shapes"
    benchmark.extra_info["row"] = shape
    plain = F.cross_entropy if mode == "multiclass" else BCE
    given = batch(shape, mode)
    measure(benchmark, OutlierRegionLoss(mode), plain, "torch's cross-entropy", *given)


@pytest.mark.parametrize("window", [7, 31, 63])
def test_window(benchmark: Any, window: int) -> None:
    benchmark.group = "OutlierRegionLoss() with other windows, 16x1x256x256"
    benchmark.extra_info["row"] = f"window={window}"
    loss = OutlierRegionLoss(window=window)
    measure(benchmark, loss, OutlierRegionLoss(), "window=21", *batch())


@pytest.mark.parametrize("name", RIVALS)
def test_rival(benchmark: Any, name: str) -> None:
    methods = pytest.importorskip("benchmarks.evidence.methods")
    rival = getattr(methods, RIVALS[name])
    if rival is methods.component_flag:
        rival = methods.flagged(0.5, methods.LEVELS, rival)
    benchmark.group = "What others add to BCE + Dice, forward and backward, 16x1x256x256"
    benchmark.extra_info["row"] = name
    measure(benchmark, rival, LOSSES["CompoundLoss()"], "CompoundLoss()", *batch())


@pytest.mark.parametrize("way", [box_sum_by_convolution, box_sum_by_pooling])
def test_translation_of_the_paper(benchmark: Any, way: Callable[..., Tensor]) -> None:
    loss, rival = DensityLoss(), partial(paper_loss, box_sum=way)
    values = []
    for function in (loss, rival):
        logits, target = batch("2x1x256x256")
        value = function(logits, target)
        values.append((value, *torch.autograd.grad(value, logits)))
    torch.testing.assert_close(*values, rtol=1e-3, atol=1e-8)
    benchmark.group = "Equation 12 translated directly, forward and backward, 16x1x256x256"
    benchmark.extra_info["row"] = way.__name__.removeprefix("box_sum_")
    measure(benchmark, rival, loss, "DensityLoss()", *batch())
