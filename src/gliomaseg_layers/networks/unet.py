"""The U-Net of [LGG-GATE], large and small."""

from collections.abc import Sequence
from typing import Any, Self

from gliomaseg_layers.networks._blocks import convolve_twice
from gliomaseg_layers.networks._u_shape import UShape

__all__ = ["UNet"]


class UNet(UShape):
    """U-Net of [LGG-GATE], with batch norm, for images of any size.

    Every level is two 3 x 3 convolutions, each with a batch norm and a ReLU; between levels the
    grid is halved by a 2 x 2 max pool and doubled by a 2 x 2 transposed convolution. ``fusion``
    says how the decoder merges a skip connection with the map from the level below.

    [LGG-GATE] gives the sizes, 31 M and 1.8 M parameters. Its text has no more; the pictures were
    not at hand. We chose the widths, those of the first U-Net, with 31.0 M; the widths of
    :meth:`mini`, a quarter of them, with 1.94 M; the batch norms; and the transposed convolutions.

    Cost of ``UNet()`` on 256 x 256: 31,037,633 parameters, 48,167,387,136 multiply-adds. Cost of
    ``UNet.mini()`` on 256 x 256: 1,942,577 parameters, 3,032,481,792 multiply-adds.

    Args:
        in_channels: channels of the image.
        classes: channels of the output.
        widths: channels of every level, from the image's own grid down.
        fusion: "concat", or "msf" for :class:`~gliomaseg_layers.MultiScaleFusion`.

    Shape:
        ``(N, in_channels, H, W)`` to logits ``(N, classes, H, W)``, any H and W from 1: the image
        is padded to a multiple of ``2 ** (len(widths) - 1)``, below and on the right, by repeating
        its last row and column, and the logits are cropped. Convolutions are initialised as He et
        al. for ReLU, the transposed ones and the last one as by torch.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the input has another shape.

    Source: [LGG-GATE].

    Example:
        >>> import torch
        >>> network = UNet.mini(in_channels=3, classes=1)
        >>> network(torch.rand(2, 3, 70, 53)).shape
        torch.Size([2, 1, 70, 53])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        *,
        fusion: str = "concat",
    ) -> None:
        super().__init__(
            in_channels,
            classes,
            widths,
            encode=convolve_twice,
            bottleneck=convolve_twice,
            decode=convolve_twice,
            fusion=fusion,
        )

    @classmethod
    def mini(cls, *args: Any, **kwargs: Any) -> Self:
        """Return the small network, of widths (16, 32, 64, 128, 256); other arguments as usual."""
        return cls(*args, widths=(16, 32, 64, 128, 256), **kwargs)  # type: ignore[misc]
