"""Box sums: cost against the window, and against the obvious ways to compute them."""

from typing import Any

import pytest
import torch

from benchmarks.alternating import compare
from benchmarks.rivals import box_sum_by_convolution, box_sum_by_pooling
from gliomaseg_layers.functional import box_sum

METHODS = {"avg_pool2d": box_sum_by_pooling, "conv2d": box_sum_by_convolution}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("window", [7, 21, 31])
def test_window(benchmark: Any, method: str, window: int) -> None:
    images = torch.rand(16, 1, 256, 256)
    # A rival may round as it likes: pooling loses digits in large windows.
    reference = box_sum(images[:1].double(), window).float()
    found = METHODS[method](images[:1], window)
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-4)
    benchmark.group = "Box sums, forward, 16x1x256x256"
    benchmark.extra_info |= {"row": f"window {window}", "column": method}

    def rival() -> None:
        METHODS[method](images, window)

    compare(benchmark, rival, lambda: box_sum(images, window), "box_sum")
    benchmark.pedantic(rival)
