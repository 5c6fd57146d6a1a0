"""What the networks share: their convolutions, and images of any size."""

import torch
from torch import Tensor, nn

from gliomaseg_layers.layers._dimensions import initialise, lay_out_as, make_norm


def activated(convolution: nn.Module, channels: int) -> nn.Sequential:
    """Return a convolution, a batch norm and a ReLU."""
    return nn.Sequential(convolution, make_norm("batch", channels, 2), nn.ReLU())


def convolve(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Sequential:
    """Return the same with a plain convolution."""
    padding = kernel_size // 2
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=False)
    initialise(convolution)
    return activated(convolution, out_channels)


def convolve_twice(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a U-Net's block, two 3 x 3 convolutions."""
    return nn.Sequential(convolve(in_channels, out_channels), convolve(out_channels, out_channels))


def pad(input: Tensor, step: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples of ``step``, two at least."""
    if 0 in input.shape[2:]:
        raise ValueError(f"`input` must have a pixel at least, got shape {tuple(input.shape)}")
    padded = input
    for axis in (2, 3):
        side = input.shape[axis]
        # Two, because a grid of one would be a program of its own where sizes are symbols, and
        # because a batch norm wants several values. As a product, so that halves of it are known to
        # be whole; of positive numbers, whose quotients ONNX rounds down too.
        # torch 2.6 captures no sym_max of sizes that it knows.
        larger = torch.sym_max if isinstance(side, torch.SymInt) else max
        whole = larger((side + step - 1) // step, 2) * step
        places = torch.arange(whole, device=input.device).clamp(max=side - 1)
        # Gathered, because the gradient of torch's replication padding does not compile.
        padded = padded.index_select(axis, places)
    return lay_out_as(padded, input)


def crop(output: Tensor, input: Tensor) -> Tensor:
    """Cut off what :func:`pad` has added to ``input``."""
    cropped = output
    for axis in (2, 3):
        # Gathered: a slice asks whether it is the whole map, which no captured program knows.
        places = torch.arange(input.shape[axis], device=input.device)
        cropped = cropped.index_select(axis, places)
    return lay_out_as(cropped, output)
