"""The fusion, forward and backward, against what it replaces and its rivals; with peak memory.

The columns "over concat" are of steps that alternate with those of concat + 1x1 conv.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from timm.layers.cbam import CbamModule
from torch import Tensor, nn

from benchmarks.alternating import ratios
from gliomaseg_layers import MultiScaleFusion
from tests.support.module_cases import literal_fusion
from tests.support.peak_memory import peak_of_training_step

SHAPES = [(2, 64, 128, 128), (2, 128, 64, 64), (2, 128, 128, 128), (2, 256, 64, 64)]
RIVALS = [
    "concat + 1x1 conv",
    "MultiScaleFusion",
    "literal translation",
    "timm CbamModule of x + y",
    "MultiScaleFusion, compiled",
    "concat + 1x1 conv, compiled",
]


def build(name: str, channels: int) -> Callable[[Tensor, Tensor], Tensor]:
    torch.manual_seed(0)
    ours, cbam = MultiScaleFusion(channels), CbamModule(channels)
    mix = nn.Conv2d(2 * channels, channels, 1)
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "concat + 1x1 conv": lambda x, y: mix(torch.cat([x, y], 1)),
        "MultiScaleFusion": ours,
        "literal translation": lambda x, y: literal_fusion(ours, x, y),
        "timm CbamModule of x + y": lambda x, y: cbam(x + y),
    }
    function = functions[name.removesuffix(", compiled")]
    return torch.compile(function, fullgraph=True) if "compiled" in name else function


def maps(*shape: int, channels_last: bool = False) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(23)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    first, second, upstream = (
        values.contiguous(memory_format=layout)
        for values in torch.randn(3, *shape, generator=generator)
    )
    return [first.requires_grad_(), second.requires_grad_()], upstream


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize(
    "how",
    ["", ", channels_last", ", then a 3x3 conv"],
    ids=["alone", "channels_last", "with 3x3 conv"],
)
def test_forward_and_backward(benchmark, name: str, shape: tuple[int, ...], how: str) -> None:
    given, upstream = maps(*shape, channels_last="channels_last" in how)
    fuse, replaced = build(name, shape[1]), build(RIVALS[0], shape[1])
    follow = nn.Conv2d(shape[1], shape[1], 3, padding=1) if "conv" in how else nn.Identity()
    if name == "literal translation":
        torch.testing.assert_close(
            fuse(*given), build("MultiScaleFusion", shape[1])(*given), rtol=1e-4, atol=1e-4
        )

    def step(function: Callable[[Tensor, Tensor], Tensor]) -> None:
        for values in given:
            values.grad = None
        follow(function(*given)).backward(upstream)

    benchmark.group = f"fusion{how}, forward and backward, {'x'.join(map(str, shape))}"
    if not how and "compiled" not in name:
        peak = peak_of_training_step(fuse, given, upstream)
        benchmark.extra_info["peak, maps"] = peak / upstream.nbytes
    if benchmark.enabled:
        step(fuse)
        step(replaced)
        benchmark.extra_info |= ratios(partial(step, fuse), partial(step, replaced), "concat")
    benchmark(step, fuse)
