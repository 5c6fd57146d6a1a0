"""MSFEN: a light U-shaped network with kernels of several sizes at every level."""

from collections.abc import Sequence

from torch import Tensor, nn

from gliomaseg_layers.layers import (
    ChannelAttention,
    DepthwiseSeparableConv,
    MultiScaleConv,
    SpatialPyramidPooling,
)
from gliomaseg_layers.networks._blocks import activated, convolve_twice
from gliomaseg_layers.networks._u_shape import UShape

__all__ = ["MSFEN"]


class MSFEN(UShape):
    """Multi-scale feature extraction network of [WANG-MSFEN], for several modalities.

    Channel attention weighs the stacked modalities. Every level of the encoder is a residual
    :class:`~gliomaseg_layers.MultiScaleConv`. The bottleneck is two 3 x 3 convolutions, dropout of
    0.5 and :class:`~gliomaseg_layers.SpatialPyramidPooling`. The decoder doubles the grid by 2 x 2
    transposed convolutions and concatenates the encoder's maps.

    The paper gives the U shape with skip connections, batch norms and transposed convolutions; the
    blocks' kernels, attentions and residual (2.2); and two 3 x 3 convolutions of 256 channels with
    dropout of 0.5 at the bottom (2.1, 2.3). Of depthwise separable convolutions, pyramid pooling
    and an attention across the modalities it has the names alone (abstract, 1).

    We chose where these three stand; the widths, except for the bottleneck's 256; the max pools
    between the levels; two depthwise separable 3 x 3 convolutions for every level of the decoder;
    and both pools, "avg" and "max", for the attention to the modalities, because the means of
    z-scored modalities are all 0. A :class:`UNet` of equal widths has 1.9 times as many parameters.
    The paper has "30 %" fewer, and does not say than what.

    Cost of ``MSFEN()`` on 256 x 256: 2,644,926 parameters, 3,075,032,768 multiply-adds.

    Args:
        in_channels: modalities, the image's channels.
        classes: channels of the output.
        widths: channels of every level, from the image's own grid down.

    Shape:
        ``(N, in_channels, H, W)`` to logits ``(N, classes, H, W)``; sizes and
        initialisation as in :class:`UNet`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the input has another shape.

    Source: [WANG-MSFEN] 1 and 2.

    Example:
        >>> import torch
        >>> MSFEN(in_channels=4, classes=4)(torch.rand(1, 4, 60, 60)).shape
        torch.Size([1, 4, 60, 60])
    """

    def __init__(
        self,
        in_channels: int = 4,
        classes: int = 4,
        widths: Sequence[int] = (32, 64, 128, 256, 256),
    ) -> None:
        super().__init__(
            in_channels,
            classes,
            widths,
            encode=MultiScaleConv,
            bottleneck=_bottleneck,
            decode=_separable_twice,
        )
        self.modality_attention = ChannelAttention(in_channels, reduction=1, pool=("avg", "max"))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.modality_attention(input))


def _bottleneck(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        convolve_twice(in_channels, out_channels),
        nn.Dropout(0.5),
        SpatialPyramidPooling(out_channels, out_channels),
    )


def _separable_twice(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        *(
            activated(DepthwiseSeparableConv(channels, out_channels, bias=False), out_channels)
            for channels in (in_channels, out_channels)
        )
    )
