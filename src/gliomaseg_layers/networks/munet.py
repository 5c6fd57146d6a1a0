"""MU-Net: a U-Net with multi-scale fusion instead of concatenation."""

from collections.abc import Sequence

from gliomaseg_layers.networks.unet import UNet

__all__ = ["MUNet"]


class MUNet(UNet):
    """MU-Net of [ZHANG-MSF]: a U-Net with multi-scale fusion instead of concatenation.

    The same as ``UNet(in_channels, classes, widths, fusion="msf")``. At every level of the decoder
    :class:`~gliomaseg_layers.MultiScaleFusion` weighs the skip connection against the map from the
    level below. The convolution after it has half as many input channels as that of a U-Net. The
    default image has two channels, T1 after contrast and T2-FLAIR.

    The paper gives the two sequences, four halvings of the grid and the fusion. We chose the
    widths, those of :class:`UNet`; a transposed convolution before each fusion, so that both maps
    have the same grid and width; and the skip connection as the shallow map, where the paper calls
    both maps the decoder's.

    Cost of ``MUNet()`` on 256 x 256: 27,948,565 parameters, 38,474,535,424 multiply-adds. Cost of
    ``MUNet.mini()`` on 256 x 256: 1,749,976 parameters, 2,427,597,472 multiply-adds.

    Args:
        in_channels: channels of the image.
        classes: channels of the output.
        widths: channels of every level, from the image's own grid down.

    Shape:
        ``(N, in_channels, H, W)`` to logits ``(N, classes, H, W)``; sizes and
        initialisation as in :class:`UNet`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the input has another shape.

    Source: [ZHANG-MSF] 2.2.

    Example:
        >>> import torch
        >>> t1c, t2f = torch.rand(2, 1, 1, 60, 60)
        >>> MUNet.mini()(torch.cat([t1c, t2f], 1)).shape
        torch.Size([1, 1, 60, 60])
    """

    def __init__(
        self,
        in_channels: int = 2,
        classes: int = 1,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
    ) -> None:
        super().__init__(in_channels, classes, widths, fusion="msf")
