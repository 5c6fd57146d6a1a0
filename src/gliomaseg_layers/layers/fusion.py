"""Multi-scale fusion of shallow and deep features by channel and spatial attention."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gliomaseg_layers._capture import runs_eagerly
from gliomaseg_layers.layers._chunked_fusion import Choice, Statistics
from gliomaseg_layers.layers._dimensions import (
    CONVOLUTION,
    check_count,
    check_features,
    check_spatial_dims,
    initialise,
    lay_out_as,
    lay_out_thin,
    resize,
)
from gliomaseg_layers.layers.attention import ChannelAttention, SpatialAttention

__all__ = ["MultiScaleFusion"]


class MultiScaleFusion(nn.Module):
    r"""Merge shallow features x and deep features y, and let attention choose between them.

    .. math::
        m &= p_1 x + p_2 y + p_3 \\
        g &= \sigma(\mathrm{ca}(m) + \mathrm{sa}(m)) \\
        \mathrm{out} &= m + g x + (1 - g) y

    with the logits of :class:`ChannelAttention` and :class:`SpatialAttention`, and learned numbers
    :math:`p_1, p_2, p_3` (``shallow_weight``, ``deep_weight``, ``bias``; 0.5, 0.5 and 0 at first).
    It stands where a U-Net concatenates. Run eagerly it keeps x and y for backward, and no map
    besides; second derivatives work. Compiled, exported, under ``torch.func`` and with other
    attentions in the place of its own it is the formula.

    Cost of ``MultiScaleFusion(64)`` on 32 x 32: 682 parameters, 100,864 multiply-adds,
    receptive field the image.

    Args:
        channels: channels of x and of the output.
        deep_channels: channels of y, if others: a 1 x 1 convolution projects them first.
        reduction: of the channel attention.
        kernel_size: of the spatial attention, odd.
        spatial_dims: 2 or 3.

    Shape:
        x ``(N, channels, *spatial)``; y ``(N, deep_channels, *spatial)``, or coarser: it is resized
        (bi- or trilinearly) to x. The output has the shape of x. Initialised as He et al. for ReLU.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or shapes do not fit.

    Source: [ZHANG-MSF] eq. 1-2.

    Example:
        >>> import torch
        >>> fuse = MultiScaleFusion(32, 64)
        >>> fuse(torch.rand(1, 32, 40, 40), torch.rand(1, 64, 20, 20)).shape
        torch.Size([1, 32, 40, 40])
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        channels: int,
        deep_channels: int | None = None,
        *,
        reduction: int = 16,
        kernel_size: int = 7,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        check_count("channels", channels)
        deep_channels = channels if deep_channels is None else deep_channels
        check_count("deep_channels", deep_channels)
        check_spatial_dims(spatial_dims)
        self.channels = channels
        self.deep_channels = deep_channels
        self.spatial_dims = spatial_dims
        self.projection = (
            nn.Identity()
            if deep_channels == channels
            else CONVOLUTION[spatial_dims](deep_channels, channels, 1)
        )
        self.channel_attention = ChannelAttention(channels, reduction, spatial_dims=spatial_dims)
        self.spatial_attention = SpatialAttention(kernel_size, spatial_dims=spatial_dims)
        self.shallow_weight = nn.Parameter(torch.empty(()))
        self.deep_weight = nn.Parameter(torch.empty(()))
        self.bias = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin anew; the attentions are left to their own."""
        for weight, value in ((self.shallow_weight, 0.5), (self.deep_weight, 0.5), (self.bias, 0)):
            nn.init.constant_(weight, value)
        initialise(self.projection)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        """Fuse ``shallow`` (low semantics, fine) and ``deep`` (high semantics, coarser)."""
        check_features("shallow", shallow, self.channels, self.spatial_dims)
        check_features("deep", deep, self.deep_channels, self.spatial_dims)
        if deep.shape[0] != shallow.shape[0]:
            raise ValueError(
                f"`deep` must have the batch size of `shallow`, {shallow.shape[0]}, "
                f"got {deep.shape[0]}"
            )
        # The 1 x 1 projection and the interpolation commute: the smaller grid is the cheaper one.
        deep = resize(self.projection(deep), shallow.shape[2:])
        if not (runs_eagerly() and self._has_its_own_attentions()):
            merged = self.shallow_weight * shallow + self.deep_weight * deep + self.bias
            logits = self.channel_attention.logits(merged) + self.spatial_attention.logits(merged)
            return merged + deep + logits.sigmoid() * (shallow - deep)
        # The same in two passes. The statistics of `merged` are those of x and y, weighed likewise.
        dtype = torch.promote_types(shallow.dtype, deep.dtype)
        x, y = (lay_out_as(values.to(dtype), shallow) for values in (shallow, deep))
        p1, p2, p3 = self.shallow_weight, self.deep_weight, self.bias
        x, y, mean_x, mean_y, planes_x, planes_y = Statistics.apply(x, y, p1, p2)
        channel = self.channel_attention.bottleneck(p1 * mean_x + p2 * mean_y + p3)
        planes = lay_out_thin(p1 * planes_x + p2 * planes_y + p3)
        pixel = self.spatial_attention.convolution(planes)
        out: Tensor = Choice.apply(x, y, channel.to(dtype), pixel.to(dtype), p1, p2, p3)
        return out

    def _has_its_own_attentions(self) -> bool:
        """Tell whether both attentions are what the two passes take them for."""
        channel, pixel = self.channel_attention, self.spatial_attention
        return (
            type(channel) is ChannelAttention
            and channel.pool == ("avg",)
            and type(pixel) is SpatialAttention
        )

    def extra_repr(self) -> str:
        return f"channels={self.channels}, deep_channels={self.deep_channels}"
