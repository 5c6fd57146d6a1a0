"""The part that times: the goals first, then the rest, each case by itself."""

import importlib.util
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.alternating import pairs
from benchmarks.evidence.methods import Batch, Method, Setting, blob, scnp_loss
from benchmarks.gpu_report.report import Found, Tell
from benchmarks.rivals import box_sum_by_convolution, monai_dice_bce, paper_loss, smp_dice_bce
from benchmarks.workloads import BCE, DEVICE, LOSSES, Loss, batch, stepper
from gliomaseg_layers import (
    MSFEN,
    AttributeDeepLab,
    ChannelAttention,
    MultiScaleFusion,
    MUNet,
    OutlierRegionLoss,
    SpatialAttention,
    UNet,
)
from gliomaseg_layers.functional import outlier_weight

ON_GPU = DEVICE.type == "cuda"
Step = Callable[[], object]


def rival(method: Method) -> Loss:
    """Return a method of the evidence as a loss; a target has one region an image."""
    setting = Setting("binary", 21, 49, most_regions=1, labelled=slice(None))

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        labels = target.squeeze(1).long()
        return method(logits, Batch(labels, labels), setting)

    return loss


DEFAULT = "OutlierRegionLoss()"
OTHERS: dict[str, Loss] = {
    **LOSSES,
    "the paper's loss by conv2d": partial(paper_loss, box_sum=box_sum_by_convolution),
    "MONAI's Dice + BCE": monai_dice_bce,
    "smp's Dice + BCE": smp_dice_bce,
    "SCNP, BCE + Dice": rival(scnp_loss),
    "blob loss, BCE + Dice": rival(blob),
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "UNet.mini": UNet.mini,
    "UNet": UNet,
    "MUNet.mini": lambda: MUNet.mini(3),
    "MUNet": lambda: MUNet(3),
    "MSFEN": lambda: MSFEN(3, 1),
}
if importlib.util.find_spec("timm"):
    NETWORKS["AttributeDeepLab"] = AttributeDeepLab


def graph(step: Step) -> Step:
    """Record a step as a CUDA graph, and return its replay."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        step()
    return recorded.replay


class Cases:
    """Times case by case; one that fails is noted, and the next begins."""

    def __init__(self, tell: Tell, rehearse: bool) -> None:
        self.tell, self.rehearse = tell, rehearse
        self.limit = 0.05 if rehearse else 0.5

    def shape(self, full: str) -> str:
        """Return a shape, or in a rehearsal a small one of as many axes."""
        if not self.rehearse:
            return full
        _, channels, *sides = full.split("x")
        return "x".join(["1", channels, *("16" for _ in sides)])

    def case(self, title: str, row: str, over: str, make: Callable[[], Found], **more: Any) -> None:
        found: Found = {"table": title, "row": row, "over": over, **more}
        try:
            found |= make()
        except Exception as error:  # whatever it is, the other cases are still wanted
            found["error"] = f"{type(error).__name__}: {error}"[:300]
            traceback.print_exc()
        self.tell(found)

    def pairs(self, step: Step, rival: Step) -> Found:
        return dict(pairs(step, rival, self.limit))

    def weight(self, full: str, mode: str = "binary", **more: Any) -> None:
        shape = self.shape(full)

        def make() -> Found:
            logits = batch(shape, mode)[0].detach()
            into = torch.empty_like(logits)
            found = self.pairs(
                lambda: into.copy_(logits),
                lambda: outlier_weight(logits, mode=mode, from_logits=True),
            )
            taken = found["ms"] / found["least"]  # by the weight
            size, rate = 2 * logits.element_size(), 2 * logits.nbytes / taken / 1e6
            return found | {"ms": taken, "note": f"{rate:.0f} GB/s of {size} bytes a pixel"}

        title, over = "The weight alone", "The time of a copy on the device over it"
        self.case(title, shape, over, make, **more)

    def loss(
        self, full: str, name: str, how: str = "eager", mode: str = "binary", **more: Any
    ) -> None:
        shape = self.shape(full)

        def make() -> Found:
            given = batch(shape, mode)
            ours = OutlierRegionLoss(mode) if mode != "binary" else OTHERS[name]
            plain: Loss = F.cross_entropy if mode == "multiclass" else BCE
            losses: list[Loss] = [ours, plain]
            if how == "compiled":
                torch._dynamo.reset()
                losses = [torch.compile(loss, fullgraph=True, dynamic=False) for loss in losses]
            steps: list[Step] = [stepper(loss, *given) for loss in losses]
            if how == "as graphs":
                steps = [graph(step) for step in steps]
            return self.pairs(*steps)

        if how != "as graphs" or ON_GPU:
            title = f"Losses, forward and backward, {shape}" + f", {mode}" * (mode != "binary")
            over = "Over torch's cross-entropy, eager, compiled or as a graph likewise"
            self.case(title, name, over, make, column=how, **more)

    def share(self, name: str, how: str, loss_name: str = DEFAULT, **more: Any) -> None:
        """Time a training step, and what part of it the loss is."""
        shape = self.shape("8x1x256x256")

        def make() -> Found:
            torch.manual_seed(0)
            layout = torch.channels_last if how == "channels_last" else torch.contiguous_format
            network = NETWORKS[name]().to(DEVICE).to(memory_format=layout)
            optimizer = torch.optim.Adam(network.parameters())
            _, target = batch(shape)
            images = target.repeat(1, 3, 1, 1).contiguous(memory_format=layout)
            run: Callable[[Tensor], Tensor] = network
            if how == "compiled":
                torch._dynamo.reset()
                run = torch.compile(network, dynamic=False)
            loss, half = LOSSES[loss_name], how == "bf16"

            def step() -> None:
                optimizer.zero_grad()
                with torch.autocast(DEVICE.type, torch.bfloat16) if half else nullcontext():
                    logits = run(images)
                loss(logits, target).backward()  # type: ignore[no-untyped-call]
                optimizer.step()

            logits = network(images).detach().requires_grad_()
            found = self.pairs(stepper(loss, logits, target), step)
            return found | {"note": f"the step takes {found['ms'] / found['least']:.3g} ms"}

        title = f"The loss's part of a training step, images of {shape}, three channels"
        self.case(title, f"{name}, {loss_name}", "Over the whole step", make, column=how, **more)

    def fusion(self, full: str, name: str, how: str = "eager", **more: Any) -> None:
        shape = self.shape(full)

        def make() -> Found:
            torch.manual_seed(0)
            sides = [int(side) for side in shape.split("x")]
            channels = sides[1]
            mix = nn.Conv2d(2 * channels, channels, 1).to(DEVICE)
            attention = nn.Sequential(
                ChannelAttention(channels, pool=("avg", "max")), SpatialAttention()
            ).to(DEVICE)
            fuse = MultiScaleFusion(channels).to(DEVICE)
            functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
                "MultiScaleFusion": fuse,
                "CBAM of x + y": lambda x, y: attention(x + y),
                "concat + 1x1": lambda x, y: mix(torch.cat([x, y], 1)),
            }
            x, y, upstream = torch.randn(3, *sides, device=DEVICE)
            given = [x.requires_grad_(), y.requires_grad_()]

            def stepping(function: Callable[[Tensor, Tensor], Tensor]) -> Step:
                if how == "compiled":
                    function = torch.compile(function, fullgraph=True, dynamic=False)
                return lambda: torch.autograd.grad(function(*given), given, upstream)

            return self.pairs(stepping(functions[name]), stepping(functions["concat + 1x1"]))

        title = "The fusion, forward and backward"
        row, over = f"{shape}, {name}", "Over concat + 1x1, eager or compiled likewise"
        self.case(title, row, over, make, column=how, **more)

    def profile(self, full: str) -> None:
        """Note which kernels the default loss spends its time in."""
        shape = self.shape(full)

        def make() -> Found:
            step = stepper(LOSSES[DEFAULT], *batch(shape))
            step()
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * ON_GPU
            with profile(activities=kinds) as recorded:
                step()
                if ON_GPU:
                    torch.cuda.synchronize()
            key = "self_device_time_total" if ON_GPU else "self_cpu_time_total"
            events = sorted(recorded.key_averages(), key=lambda event: -getattr(event, key))[:12]
            lines = [
                f"{event.key[:60]} {getattr(event, key):.0f} us x{event.count}" for event in events
            ]
            return {"note": "; ".join(lines)}

        self.case("Where the default loss spends its time", shape, "By torch's profiler", make)


def measure(tell: Tell, rehearse: bool) -> None:
    cases = Cases(tell, rehearse)
    large, small = "64x1x512x512", "16x1x256x256"
    cases.weight(large, at_least=0.6)
    cases.loss(large, DEFAULT, at_most=1.6)
    cases.loss(small, DEFAULT, at_most=2.5)
    cases.loss(small, DEFAULT, "as graphs", at_most=1.3)
    cases.share("UNet.mini", "fp32", at_most=0.01)
    cases.fusion("2x128x128x128", "MultiScaleFusion", at_most=1.0)
    cases.fusion("2x256x64x64", "MultiScaleFusion", at_most=1.0)
    cases.loss(large, DEFAULT, "compiled", at_most=1.0)
    for full in (large, small):
        cases.profile(full)
    for full in (small, "1x1x4096x4096"):
        cases.weight(full)
    cases.weight("8x4x256x256", "multilabel")
    for full in (large, small):
        for name in OTHERS:
            if name != DEFAULT:
                cases.loss(full, name)
    cases.loss("1x1x4096x4096", DEFAULT)
    cases.loss("8x4x256x256", DEFAULT, mode="multilabel")
    cases.loss("4x4x96x96x96", DEFAULT, mode="multiclass")
    cases.loss(large, DEFAULT, "as graphs")
    cases.loss(small, DEFAULT, "compiled")
    for how in ("as graphs", "compiled"):
        for name in ("CompoundLoss()", "DensityLoss()"):
            cases.loss(small, name, how)
    for full in ("2x64x128x128", "2x128x128x128", "2x256x64x64"):
        for name in ("MultiScaleFusion", "CBAM of x + y"):
            if name != "MultiScaleFusion" or full == "2x64x128x128":
                cases.fusion(full, name)
    cases.share("UNet.mini", "fp32", "CompoundLoss()")
    for how in ("fp32", "bf16", "channels_last"):
        for name in NETWORKS:
            if (name, how) != ("UNet.mini", "fp32"):
                cases.share(name, how)
    cases.fusion("2x128x128x128", "MultiScaleFusion", "compiled")
    for name in list(NETWORKS)[: 1 if rehearse else None]:
        cases.share(name, "compiled")
