"""The fusion, forward and backward, over the concatenation and 1x1 convolution that it replaces."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from timm.layers.cbam import CbamModule
from torch import Tensor, nn

from benchmarks.alternating import compare
from gliomaseg_layers import MultiScaleFusion
from tests.support.module_cases import literal_fusion
from tests.support.peak_memory import peak_of_training_step

SHAPES = [(2, 64, 128, 128), (2, 128, 64, 64), (2, 128, 128, 128), (2, 256, 64, 64)]
BASELINE = "concat + 1x1 conv"
NAMES = [
    "MultiScaleFusion",
    "literal translation",
    "timm CbamModule of x + y",
    "MultiScaleFusion, compiled",
]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))


def build(name: str, channels: int) -> Callable[[Tensor, Tensor], Tensor]:
    torch.manual_seed(0)
    ours, cbam = MultiScaleFusion(channels), CbamModule(channels)
    mix = nn.Conv2d(2 * channels, channels, 1)
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        BASELINE: lambda x, y: mix(torch.cat([x, y], 1)),
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


@pytest.mark.parametrize("name", NAMES)
@every_shape
@pytest.mark.parametrize("how", ["", ", channels_last", ", then a 3x3 conv"])
def test_forward_and_backward(benchmark: Any, name: str, shape: tuple[int, ...], how: str) -> None:
    given, upstream = maps(*shape, channels_last="channels_last" in how)
    fuse, replaced = build(name, shape[1]), build(BASELINE, shape[1])
    follow = nn.Conv2d(shape[1], shape[1], 3, padding=1) if "conv" in how else nn.Identity()
    if name == "literal translation":
        ours = build("MultiScaleFusion", shape[1])
        torch.testing.assert_close(fuse(*given), ours(*given), rtol=1e-4, atol=1e-4)

    def step(function: Callable[[Tensor, Tensor], Tensor]) -> None:
        for values in given:
            values.grad = None
        follow(function(*given)).backward(upstream)

    benchmark.group = f"The fusion{how}, forward and backward"
    benchmark.extra_info |= {"row": "x".join(map(str, shape)), "column": name}
    compare(benchmark, partial(step, fuse), partial(step, replaced), BASELINE)
    benchmark.pedantic(partial(step, fuse), rounds=3)


@pytest.mark.parametrize("name", [BASELINE, *NAMES[:3]])
@every_shape
def test_peak_memory(benchmark: Any, name: str, shape: tuple[int, ...]) -> None:
    given, upstream = maps(*shape)
    benchmark.group = "The fusion, peak memory of forward and backward"
    benchmark.extra_info |= {"row": "x".join(map(str, shape)), "column": name}
    peak = benchmark.pedantic(peak_of_training_step, (build(name, shape[1]), given, upstream))
    benchmark.extra_info |= {"over": "in maps of the size of x", "ratio": peak / upstream.nbytes}
