"""A training step of every network against two peers', with images per second and peak memory."""

from collections.abc import Callable
from itertools import accumulate

import pytest
import segmentation_models_pytorch as smp
import torch
from monai.networks.nets.basic_unet import BasicUNet
from torch import nn
from torch.profiler import ProfilerActivity, profile

from gliomaseg_layers import MSFEN, AttributeDeepLab, MUNet, UNet

BATCH = 2
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "smp Unet, resnet34": lambda: smp.Unet("resnet34", encoder_weights=None),
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


@pytest.mark.parametrize("mode", ["eager", "channels_last", "bf16", "compiled"])
@pytest.mark.parametrize("side", [64, 256], ids=lambda side: f"{BATCH}x{side}x{side}")
@pytest.mark.parametrize("name", NETWORKS)
def test_training_step(benchmark, name: str, side: int, mode: str) -> None:
    if (name, mode) == ("MONAI BasicUNet", "compiled"):
        pytest.skip("torch 2.15 compiles no gradient of its replication padding")
    torch.manual_seed(0)
    network, images = NETWORKS[name](), torch.rand(BATCH, 3, side, side)
    if mode == "channels_last":
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    captured = torch.compile(network, dynamic=False) if mode == "compiled" else network
    upstream = torch.rand(BATCH, 1, side, side)

    def step() -> None:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16"):
            logits = captured(images)
        logits.float().backward(upstream)

    benchmark.group = f"network, training step, {mode}, {BATCH}x3x{side}x{side}"
    step()  # compiles
    network.zero_grad()
    benchmark.extra_info["peak, MiB"] = peak_memory(step) / 2**20
    benchmark(step)
    if benchmark.stats:
        benchmark.extra_info["images per second"] = BATCH / benchmark.stats.stats.median
