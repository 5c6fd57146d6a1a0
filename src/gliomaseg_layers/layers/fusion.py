"""Multi-scale fusion of shallow and deep features by channel and spatial attention."""

from collections.abc import Callable
from types import MethodType

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
    resize,
)
from gliomaseg_layers.layers.attention import ChannelAttention, SpatialAttention

__all__ = ["MultiScaleFusion"]


class MultiScaleFusion(nn.Module):
    r"""Merge shallow features x and deep features y, with attention that chooses between them.

    .. math::
        m &= p_1 x + p_2 y + p_3 \\
        g &= \sigma(\mathrm{ca}(m) + \mathrm{sa}(m)) \\
        \mathrm{out} &= m + g x + (1 - g) y

    with the logits ca of :class:`ChannelAttention` and sa of :class:`SpatialAttention`, and learned
    numbers :math:`p_1, p_2, p_3` (``shallow_weight``, ``deep_weight``, ``bias``; 0.5, 0.5 and 0 at
    first). Use it where a U-Net concatenates.

    In an eager program backward keeps x and y and no other map, and a second derivative works too.
    Compiled, exported or under ``torch.func`` the layer computes the formula as it stands above.

    Both attentions are called as modules, once a forward, so that their hooks run and FSDP can wrap
    them. In an eager program their inputs are pooled already: ``channel_attention`` gets the mean
    of m over the pixels, as a map of one pixel, and ``spatial_attention`` gets ``pooled=True``.
    Another module in the place of either is called as ``attention(m, return_logits=True)``, and the
    formula is computed as it stands.

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

    [ZHANG-MSF] gives the two equations. We chose a single number for each of :math:`p_1`,
    :math:`p_2` and :math:`p_3`, where they begin, and what to do with maps of other grids or
    channels.

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
        self.shallow_weight = nn.Parameter(torch.empty(1))
        self.deep_weight = nn.Parameter(torch.empty(1))
        self.bias = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise again, but for the attentions, which have ``reset_parameters`` themselves."""
        for weight, value in ((self.shallow_weight, 0.5), (self.deep_weight, 0.5), (self.bias, 0)):
            nn.init.constant_(weight, value)
        initialise(self.projection)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        """Fuse ``shallow``, on a fine grid, with ``deep``, whose grid may be coarser."""
        check_features("shallow", shallow, self.channels, self.spatial_dims)
        check_features("deep", deep, self.deep_channels, self.spatial_dims)
        if deep.shape[0] != shallow.shape[0]:
            raise ValueError(
                f"`deep` must have the batch size of `shallow`, {shallow.shape[0]}, "
                f"got {deep.shape[0]}"
            )
        # The projection goes first: its result is the same, and cheaper on the smaller grid.
        deep = resize(self.projection(deep), shallow.shape[2:])
        # Tensors of no axis: with shape (1,), fp32 weights would promote half-precision maps.
        p1, p2, p3 = (w.reshape(()) for w in (self.shallow_weight, self.deep_weight, self.bias))
        if not (runs_eagerly() and self._has_its_own_attentions()):
            merged = p1 * shallow + p2 * deep + p3
            channel = self.channel_attention(merged, return_logits=True)
            pixel = self.spatial_attention(merged, return_logits=True)
            return merged + deep + (channel + pixel).sigmoid() * (shallow - deep)
        # The same without the map `merged`. Its means are those of x and y, weighed likewise. So is
        # its maximum over the channels, once it is known in which channel it is.
        dtype = torch.promote_types(shallow.dtype, deep.dtype)
        x, y = (lay_out_as(values.to(dtype), shallow) for values in (shallow, deep))
        x, y, mean_x, mean_y, pooled_x, pooled_y = Statistics.apply(x, y, p1, p2)
        # The logits depend on the mean over the pixels alone, so that it can stand for the map.
        channel = self.channel_attention(p1 * mean_x + p2 * mean_y + p3, return_logits=True)
        pixel = self.spatial_attention(p1 * pooled_x + p2 * pooled_y + p3, pooled=True)
        out: Tensor = Choice.apply(x, y, channel.to(dtype), pixel.to(dtype), p1, p2, p3)
        return out

    def _has_its_own_attentions(self) -> bool:
        """Tell whether both attentions still compute what those of the constructor do."""
        channel, pixel = self.channel_attention, self.spatial_attention
        # A subclass may have the same methods: FSDP makes one of each class that it wraps.
        return all(
            isinstance(module, kind)
            and module.forward == MethodType(kind.forward, module)
            and module.logits == MethodType(kind.logits, module)
            for module, kind in ((channel, ChannelAttention), (pixel, SpatialAttention))
        ) and channel.pool == ("avg",)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, deep_channels={self.deep_channels}"
