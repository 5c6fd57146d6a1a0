"""What the networks share: convolutions, and the padding and cropping for images of any size."""

import torch
from torch import Tensor, nn

from gliomaseg_layers.layers._dimensions import initialise, lay_out_as, make_norm


def activated(convolution: nn.Module, channels: int) -> nn.Sequential:
    """Return the convolution followed by a batch norm and a ReLU."""
    return nn.Sequential(convolution, make_norm("batch", channels, 2), nn.ReLU())


def convolve(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Sequential:
    """Return a convolution, a batch norm and a ReLU."""
    padding = kernel_size // 2
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=False)
    initialise(convolution)
    return activated(convolution, out_channels)


def convolve_twice(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a U-Net's block, two 3 x 3 convolutions."""
    return nn.Sequential(convolve(in_channels, out_channels), convolve(out_channels, out_channels))


def pad(input: Tensor, step: int) -> Tensor:
    """Repeat the last row and column until both sides are 2, 3, ... times ``step``."""
    if 0 in input.shape[2:]:
        raise ValueError(f"`input` must have at least one pixel, got shape {tuple(input.shape)}")
    padded = input
    for axis in (2, 3):
        side = input.shape[axis]
        # At least twice, because a batch norm needs several values, and because torch.export for
        # any size makes a special case of size 1. Written as a product, which shows torch.export
        # that the side can be halved. No number is negative, because ONNX rounds quotients of
        # negative ones another way.
        steps = (side + step - 1) // step
        whole = (steps + 1 // steps) * step  # 2 for 1 step; torch.jit.trace would freeze a maximum
        places = torch.arange(whole, device=input.device).clamp(max=side - 1)
        # By index, because the gradient of torch's replication padding does not compile.
        padded = padded.index_select(axis, places)
    return lay_out_as(padded, input)


def crop(output: Tensor, input: Tensor) -> Tensor:
    """Cut off the rows and columns that :func:`pad` added to ``input``."""
    cropped = output
    for axis in (2, 3):
        # By index, because a slice depends on whether it is the whole map, which is unknown in an
        # export for any size.
        places = torch.arange(input.shape[axis], device=input.device)
        cropped = cropped.index_select(axis, places)
    return lay_out_as(cropped, output)
