"""Forward and backward of every network over a peer's, and peak memory."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from monai.networks.nets.basic_unet import BasicUNet
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.alternating import compare
from gliomaseg_layers import MSFEN, AttributeDeepLab, MUNet, UNet

BATCH, SIDE = 2, 256
PEER = "smp Unet, resnet34"
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    PEER: lambda: smp.Unet("resnet34", encoder_weights=None),
    "MONAI BasicUNet": lambda: BasicUNet(spatial_dims=2, in_channels=3, out_channels=1),
    "UNet": UNet,
    "UNet.mini": UNet.mini,
    "MUNet": lambda: MUNet(3),
    "MUNet.mini": lambda: MUNet.mini(3),
    "MSFEN": lambda: MSFEN(3, 1),
    "AttributeDeepLab": AttributeDeepLab,
}


def peak_memory(step: Callable[[], None]) -> int:
    """Return the most bytes that a step holds at once beyond what was there before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    assert recorded.profiler is not None
    events = recorded.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    return max(accumulate(size for _, size in sorted(changes, key=lambda change: change[0])))


def stepper(name: str, mode: str) -> Callable[[], None]:
    if (name, mode) == ("MONAI BasicUNet", "compiled"):
        pytest.skip("torch 2.15 compiles no gradient of its replication padding")
    torch.manual_seed(0)
    network, images = NETWORKS[name](), torch.rand(BATCH, 3, SIDE, SIDE)
    if mode == "channels_last":
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    captured = torch.compile(network, dynamic=False) if mode == "compiled" else network
    upstream = torch.rand(BATCH, 1, SIDE, SIDE)

    def step() -> None:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16"):
            logits = captured(images)
        logits.float().backward(upstream)

    return step


every_mode = pytest.mark.parametrize("mode", ["eager", "channels_last", "bf16", "compiled"])


@every_mode
@pytest.mark.parametrize("name", list(NETWORKS)[1:])
def test_training_step(benchmark: Any, name: str, mode: str) -> None:
    step, peer = stepper(name, mode), stepper(PEER, mode)
    benchmark.group = f"Networks, forward and backward, {BATCH}x3x{SIDE}x{SIDE}"
    benchmark.extra_info |= {"row": name, "column": mode}
    compare(benchmark, step, peer, PEER)
    benchmark.pedantic(step)


@every_mode
@pytest.mark.parametrize("name", NETWORKS)
def test_peak_memory(benchmark: Any, name: str, mode: str) -> None:
    step = stepper(name, mode)
    step()  # compiles
    benchmark.group = f"Networks, peak memory of forward and backward, {BATCH}x3x{SIDE}x{SIDE}"
    benchmark.extra_info |= {"row": name, "column": mode}
    peak = benchmark.pedantic(peak_memory, (step,))
    benchmark.extra_info |= {"over": "in MiB", "ratio": peak / 2**20}
