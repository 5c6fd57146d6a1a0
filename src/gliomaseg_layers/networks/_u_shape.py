"""What U-Net, MU-Net and MSFEN have in common: the U shape. Each has its own blocks."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gliomaseg_layers._checks import check_choice
from gliomaseg_layers.layers import MultiScaleFusion
from gliomaseg_layers.layers._dimensions import check_count, check_each, check_features
from gliomaseg_layers.networks._blocks import crop, pad

FUSIONS = ("concat", "msf")


class Concatenation(nn.Module):
    """Concatenate the shallow and the deep map."""

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        return torch.cat([shallow, deep], 1)


class UShape(nn.Module):
    """An encoder that halves the grid, a bottleneck, and a decoder with skip connections.

    Args:
        in_channels: channels of the image.
        classes: channels of the output.
        widths: channels of every level, the last the bottleneck's.
        encode: makes a level of the encoder, given its numbers of input and output channels.
        bottleneck: makes the bottleneck, given the same.
        decode: makes a level of the decoder, given the same.
        fusion: "concat" or "msf", how the decoder merges a skip connection.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        classes: int,
        widths: Sequence[int],
        *,
        encode: Callable[[int, int], nn.Module],
        bottleneck: Callable[[int, int], nn.Module],
        decode: Callable[[int, int], nn.Module],
        fusion: str = "concat",
    ) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("classes", classes)
        check_each("widths", widths)
        check_choice("fusion", fusion, FUSIONS)
        self.in_channels = in_channels
        self.widths = tuple(widths)
        *downs, last = pairwise([in_channels, *widths])
        self.encoder = nn.ModuleList(encode(*channels) for channels in downs)
        self.bottleneck = bottleneck(*last)
        self.ups, self.fusions, self.decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for deep, width in pairwise(reversed(self.widths)):
            self.ups.append(nn.ConvTranspose2d(deep, width, 2, 2))
            concatenates = fusion == "concat"
            self.fusions.append(Concatenation() if concatenates else MultiScaleFusion(width))
            self.decoder.append(decode(2 * width if concatenates else width, width))
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, input: Tensor) -> Tensor:
        check_features("input", input, self.in_channels, 2)
        features = pad(input, 2 ** len(self.encoder))
        skips = []
        for encode in self.encoder:
            skips.append(encode(features))
            features = F.max_pool2d(skips[-1], 2)
        features = self.bottleneck(features)
        for up, fuse, decode in zip(self.ups, self.fusions, self.decoder, strict=True):
            features = decode(fuse(skips.pop(), up(features)))
        return crop(self.head(features), input)

    def extra_repr(self) -> str:
        return f"in_channels={self.in_channels}, widths={self.widths}"
