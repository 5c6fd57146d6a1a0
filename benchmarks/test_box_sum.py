"""Box sums: cost against the window, and against the obvious ways to compute them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.rivals import box_sum_by_convolution, box_sum_by_pooling
from gliomaseg_layers.functional import box_sum

METHODS = {
    "box_sum": box_sum,
    "avg_pool2d": box_sum_by_pooling,
    "conv2d": box_sum_by_convolution,
}


@pytest.mark.parametrize("window", [7, 21, 31, 63])
@pytest.mark.parametrize("method", METHODS)
def test_window(benchmark, method: str, window: int) -> None:
    images = torch.rand(16, 1, 256, 256)
    check(METHODS[method], images[:1], window)
    benchmark.group = "box sum, forward, 16x1x256x256"
    benchmark(METHODS[method], images, window)


@pytest.mark.parametrize("size", [256, 1024, 4096])
def test_image_size(benchmark, size: int) -> None:
    images = torch.rand(1, 1, size, size)
    benchmark.group = "box_sum, forward, window 21, against the image's side"
    benchmark(box_sum, images, 21)


def check(method: Callable[[Tensor, int], Tensor], images: Tensor, window: int) -> None:
    # A rival may round as it likes: pooling loses five digits at window 63.
    reference = box_sum(images.double(), window).float()
    torch.testing.assert_close(method(images, window), reference, rtol=1e-4, atol=1e-4)
