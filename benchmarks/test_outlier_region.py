"""The loss, forward and backward, against the cross-entropy it contains and its rivals.

On a GPU where there is one. What computes the same is checked against the definition first. The
columns "over BCE" are of steps that alternate with those of the cross-entropy.
"""

import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.alternating import ratios
from gliomaseg_layers import CompoundLoss, OutlierRegionLoss
from gliomaseg_layers.functional import outlier_region_loss
from gliomaseg_layers.functional._weighted_loss import definition

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Loss = Callable[[Tensor, Tensor], Tensor]
SHAPES = {
    "16x1x256x256": "binary",
    "64x1x512x512": "binary",
    "1x1x4096x4096": "binary",
    "8x4x256x256": "multilabel",
    "4x4x96x96x96": "multiclass",
}
FORMULATIONS = ["balanced", "suppress", "penalty", "paper"]
RIVALS = [
    "paper by conv2d",
    "paper by avg_pool2d",
    "paper by kornia box_blur",
    "BCE + DiceLoss (smp)",
    "DiceCELoss (MONAI)",
    "BCE + Dice + blob loss",
]


def by_definition(formulation: str, mode: str) -> Loss:
    settings = OutlierRegionLoss(mode=mode, formulation=formulation).term_arguments()
    given: dict[str, Any] = {"mask": None, "weights": (1.0, 0.0, 1.0), "dice_smooth": None}
    return lambda z, y: definition(z, y, **given, reduction="mean", settings=settings)[0]


@cache
def build(name: str, mode: str = "binary") -> Loss:
    if name.endswith(", compiled"):
        return torch.compile(build(name.removesuffix(", compiled"), mode), fullgraph=True)
    if name.endswith(", definition"):
        return by_definition(name.removesuffix(", definition"), mode)
    if name in FORMULATIONS:
        return partial(outlier_region_loss, mode=mode, formulation=name)
    bce = F.binary_cross_entropy_with_logits
    if name == "cross-entropy (torch)":
        return F.cross_entropy if mode == "multiclass" else bce
    if name == "CompoundLoss":
        return CompoundLoss(mode=mode).to(DEVICE)
    if name == "BCE + DiceLoss (smp)":
        smp_dice = pytest.importorskip("segmentation_models_pytorch").losses.DiceLoss(mode)
        return lambda z, y: bce(z, y) + smp_dice(z, y)
    if name == "DiceCELoss (MONAI)":
        monai_loss: Loss = pytest.importorskip("monai.losses.dice").DiceCELoss(sigmoid=True)
        return monai_loss
    if name == "BCE + Dice + blob loss":
        blob: Loss = pytest.importorskip("methods").blob
        return blob
    rivals = pytest.importorskip("rivals")
    how = {"conv2d": "convolution", "avg_pool2d": "pooling", "kornia box_blur": "kornia"}
    box_sum = getattr(rivals, f"box_sum_by_{how[name.removeprefix('paper by ')]}")
    return partial(rivals.paper_loss, box_sum=box_sum)


def batch(shape: str = "16x1x256x256") -> tuple[Tensor, Tensor]:
    """Return confident logits with islands, and a target, as late in training."""
    batch, channels, *spatial = map(int, shape.split("x"))
    generator = torch.Generator().manual_seed(23)
    coarse = torch.randn(batch, channels, *(n // 8 for n in spatial), generator=generator)
    mode = "bilinear" if len(spatial) == 2 else "trilinear"
    logits = 6 * F.interpolate(coarse, size=spatial, mode=mode) - 4
    target = logits.argmax(1) if SHAPES.get(shape) == "multiclass" else (logits > 1).float()
    return logits.to(DEVICE).requires_grad_(), target.to(DEVICE)


def stepper(loss: Loss, logits: Tensor, target: Tensor, part: str = "both") -> Callable[[], None]:
    def step() -> None:
        logits.grad = None
        value = loss(logits, target)
        if part == "both":
            value.backward()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return step


def measure(benchmark: Any, name: str, shape: str, part: str = "both") -> None:
    mode = SHAPES.get(shape, "binary")
    logits, target = batch(shape)
    loss, plain = build(name, mode), build("cross-entropy (torch)", mode)
    if name.startswith("paper by") or name in FORMULATIONS:
        check_against(by_definition(name.split()[0], mode), loss, shape)
    step, rival = stepper(loss, logits, target, part), stepper(plain, logits, target, part)
    step()
    if benchmark.enabled:
        benchmark.extra_info |= ratios(step, rival, "BCE")
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        held = torch.cuda.max_memory_allocated() - before - logits.nbytes  # the gradient
        benchmark.extra_info["peak over input"] = held / logits.nbytes
    benchmark.group = f"loss, {'forward' if part == 'forward' else 'forward and backward'}, {shape}"
    benchmark(step)


@pytest.mark.parametrize("name", ["cross-entropy (torch)", *FORMULATIONS, "CompoundLoss"])
@pytest.mark.parametrize("shape", SHAPES)
def test_shape(benchmark: Any, shape: str, name: str) -> None:
    measure(benchmark, name, shape)


@pytest.mark.parametrize("name", ["cross-entropy (torch)", *FORMULATIONS, "CompoundLoss"])
def test_forward(benchmark: Any, name: str) -> None:
    measure(benchmark, name, "16x1x256x256", "forward")


@pytest.mark.parametrize("after", ["definition", "definition, compiled"])
@pytest.mark.parametrize("name", FORMULATIONS)
def test_definition(benchmark: Any, name: str, after: str) -> None:
    measure(benchmark, f"{name}, {after}", "16x1x256x256")


@pytest.mark.parametrize("name", RIVALS)
def test_rival(benchmark: Any, name: str) -> None:
    measure(benchmark, name, "16x1x256x256")


@pytest.mark.parametrize("window", [(7, 21), (15, 31), (31, 63)], ids=str)
@pytest.mark.parametrize("name", FORMULATIONS)
def test_window(benchmark: Any, name: str, window: tuple[int, int]) -> None:
    inner, outer = window
    loss = partial(outlier_region_loss, formulation=name, inner=inner, outer=outer)
    benchmark.group = "loss, forward and backward, 16x1x256x256, against the windows"
    benchmark(stepper(loss, *batch()))


@pytest.mark.parametrize("side", [256, 512, 1024, 2048, 4096])
@pytest.mark.parametrize("name", ["cross-entropy (torch)", *FORMULATIONS])
def test_image_size(benchmark: Any, name: str, side: int) -> None:
    benchmark.group = "loss, forward and backward, one image, against its side"
    benchmark(stepper(build(name), *batch(f"1x1x{side}x{side}")))
    if benchmark.enabled:
        benchmark.extra_info["ns per pixel"] = benchmark.stats["median"] / side**2 * 1e9


@pytest.mark.parametrize("module", ["torch", "gliomaseg_layers"])
def test_import(benchmark: Any, module: str) -> None:
    benchmark.group = "import, in a process of its own"
    command = [sys.executable, "-c", f"import {module}"]
    benchmark.pedantic(subprocess.run, (command,), {"check": True}, rounds=5)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="graphs and bandwidth are a GPU's")
@pytest.mark.parametrize("name", ["cross-entropy (torch)", *FORMULATIONS, "CompoundLoss"])
@pytest.mark.parametrize("shape", ["16x1x256x256", "64x1x512x512"])
def test_gpu(benchmark: Any, shape: str, name: str) -> None:
    """Replay a CUDA graph; and the bandwidth over 12 bytes a pixel against a copy's."""
    from triton.testing import do_bench

    logits, target = batch(shape)
    step = stepper(build(name), logits, target)
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            logits.grad = None
            build(name)(logits, target).backward()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        logits.grad = None
        build(name)(logits, target).backward()
    copy, source = torch.empty(2**28, device=DEVICE), torch.empty(2**28, device=DEVICE)
    copied = do_bench(lambda: copy.copy_(source), return_mode="median")
    replayed = do_bench(graph.replay, return_mode="median")
    bandwidth = 12 * logits.numel() / replayed / (2 * source.nbytes / copied)
    benchmark.extra_info["of a copy's bandwidth"] = bandwidth
    benchmark.extra_info["eager, ms"] = do_bench(step, return_mode="median")
    benchmark.group = f"loss, forward and backward, a CUDA graph, {shape}"

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    benchmark(replay)


def check_against(ours: Loss, rival: Loss, shape: str) -> None:
    """Check on two images that both are the same loss, in value and gradient."""
    results = []
    for loss in (ours, rival):
        logits, target = batch(shape)
        logits = logits[:2].detach().requires_grad_()
        value = loss(logits, target[:2])
        results.append((value, *torch.autograd.grad(value, logits)))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-8)
