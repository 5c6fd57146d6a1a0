"""Attention: a weight for every channel, and a weight for every pixel."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gliomaseg_layers._checks import check_choice
from gliomaseg_layers.layers._dimensions import (
    CONVOLUTION,
    PointwiseConv2d,
    PointwiseConv3d,
    check_count,
    check_features,
    check_odd,
    check_spatial_dims,
    initialise,
    lay_out_thin,
)

__all__ = ["ChannelAttention", "SpatialAttention"]


class ChannelAttention(nn.Module):
    r"""Multiply every channel by a weight computed from the whole image.

    .. math::
        \mathrm{logits}(x) &= \sum_{\mathrm{pool}}
            (W_2\,\mathrm{ReLU}(W_1\,\mathrm{pool}(x) + b_1) + b_2) \\
        y &= x \cdot \sigma(\mathrm{logits}(x))

    The bottleneck, two 1 x 1 convolutions, is the same for all pools. ``pool=("avg",)`` is
    squeeze-and-excitation, ``("avg", "max")`` the channel attention of CBAM.
    ``attention(x, return_logits=True)`` returns the logits.

    Cost of ``ChannelAttention(64)`` on 32 x 32: 580 parameters, 512 multiply-adds, receptive
    field the image.

    Args:
        channels: channels of the input.
        reduction: the bottleneck has ``channels // reduction`` channels, at least one.
        pool: "avg" (mean over the image), "max", or both.
        spatial_dims: 2 or 3.

    Shape:
        ``(N, channels, *spatial)`` to the same; logits ``(N, channels, 1, 1)`` or
        ``(N, channels, 1, 1, 1)``. Initialised as He et al. for ReLU. Where the weights of a hidden
        channel add up to less than 0, their signs are flipped.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the input has another shape.

    [ZHANG-MSF] pools by means and does not describe the bottleneck; [WANG-MSFEN] says no more than
    that there is channel attention. We chose the bottleneck of squeeze-and-excitation.

    Source: [ZHANG-MSF] 2.2; [WANG-MSFEN] 2.2.

    Example:
        >>> import torch
        >>> attention = ChannelAttention(32)
        >>> x = torch.rand(2, 32, 20, 20)
        >>> attention(x).shape, attention(x, return_logits=True).shape
        (torch.Size([2, 32, 20, 20]), torch.Size([2, 32, 1, 1]))
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        pool: Sequence[str] = ("avg",),
        *,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        check_count("channels", channels)
        check_count("reduction", reduction)
        check_spatial_dims(spatial_dims)
        if isinstance(pool, str) or not isinstance(pool, Sequence) or not pool:
            raise ValueError(f"`pool` must be a sequence of 'avg' and 'max', got {pool!r}")
        for name in pool:
            check_choice("pool", name, ("avg", "max"))
        self.channels = channels
        self.reduction = reduction
        self.pool = tuple(pool)
        self.spatial_dims = spatial_dims
        hidden = max(channels // reduction, 1)
        convolution = PointwiseConv2d if spatial_dims == 2 else PointwiseConv3d
        self.bottleneck = nn.Sequential(
            convolution(channels, hidden, 1), nn.ReLU(), convolution(hidden, channels, 1)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights again."""
        initialise(self)
        # Pooled values of a map after a ReLU are positive. A hidden channel whose weights add up to
        # less than 0 mostly makes negative sums of them, and its own ReLU passes on no gradient.
        # With a single hidden channel the attention would learn nothing.
        with torch.no_grad():
            weight: Tensor = self.bottleneck[0].weight  # type: ignore[assignment]
            weight *= torch.where(weight.sum(1, keepdim=True) < 0, -1.0, 1.0)

    def logits(self, input: Tensor) -> Tensor:
        """Return what ``forward(input, return_logits=True)`` does, without calling hooks."""
        check_features("input", input, self.channels, self.spatial_dims)
        axes = tuple(range(2, input.dim()))
        pooled = [
            input.mean(axes, keepdim=True) if name == "avg" else input.amax(axes, keepdim=True)
            for name in self.pool
        ]
        # The pools become the pixels of one map, so that the bottleneck is called once: hooks on a
        # ReLU that is called twice mix up its inputs.
        logits: Tensor = self.bottleneck(torch.cat(pooled, 2)).sum(2, keepdim=True)
        return logits

    # No argument is by name alone, because torch.onnx.export(dynamo=False) gives all by place.
    def forward(self, input: Tensor, return_logits: bool = False) -> Tensor:
        """Return ``input`` weighed, or the logits of its channels."""
        logits = self.logits(input)
        return logits if return_logits else input * logits.sigmoid()

    def extra_repr(self) -> str:
        return (
            f"channels={self.channels}, reduction={self.reduction}, pool={self.pool}, "
            f"spatial_dims={self.spatial_dims}"
        )


class SpatialAttention(nn.Module):
    r"""Multiply every pixel by a weight computed from all channels there and around.

    .. math::
        \mathrm{logits}(x) &= W * [\mathrm{mean}_c\,x,\ \max_c x] + b \\
        y &= x \cdot \sigma(\mathrm{logits}(x))

    ``attention(x, return_logits=True)`` returns the logits.

    Cost of ``SpatialAttention()`` on 32 x 32: 99 parameters, 100,352 multiply-adds, receptive
    field 7 x 7.

    Args:
        kernel_size: side of the convolution's kernel in pixels, odd.
        spatial_dims: 2 or 3.

    Shape:
        ``(N, C, *spatial)`` to the same, any C; logits ``(N, 1, *spatial)``. Initialised as He et
        al. for ReLU.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the input has another shape.

    [ZHANG-MSF] gives the two pools. We chose the convolution, CBAM's.

    Source: [ZHANG-MSF] 2.2; [WANG-MSFEN] 2.2.

    Example:
        >>> import torch
        >>> attention = SpatialAttention()
        >>> x = torch.rand(2, 32, 20, 20)
        >>> attention(x).shape, attention(x, return_logits=True).shape
        (torch.Size([2, 32, 20, 20]), torch.Size([2, 1, 20, 20]))
    """

    __call__: Callable[..., Tensor]

    def __init__(self, kernel_size: int = 7, *, spatial_dims: int = 2) -> None:
        super().__init__()
        check_odd("kernel_size", kernel_size)
        check_spatial_dims(spatial_dims)
        self.spatial_dims = spatial_dims
        self.convolution = CONVOLUTION[spatial_dims](2, 1, kernel_size, padding=kernel_size // 2)
        initialise(self)

    def logits(self, input: Tensor) -> Tensor:
        """Return what ``forward(input, return_logits=True)`` does, without calling hooks."""
        check_features("input", input, None, self.spatial_dims)
        # max, not amax: its gradient goes to one channel, and backward keeps an index, no map.
        return self._convolve(torch.cat([input.mean(1, True), input.max(1, True).values], 1))

    def forward(self, input: Tensor, return_logits: bool = False, pooled: bool = False) -> Tensor:
        """Return ``input`` weighed, or the logits of its pixels.

        ``pooled=True`` is for a caller that has pooled its map over the channels already: ``input``
        is then that mean and that maximum, ``(N, 2, *spatial)``, and the output is the logits.
        """
        if pooled:
            check_features("input", input, 2, self.spatial_dims)
            return self._convolve(input)
        logits = self.logits(input)
        return logits if return_logits else input * logits.sigmoid()

    def _convolve(self, pooled: Tensor) -> Tensor:
        return self.convolution(lay_out_thin(pooled))  # type: ignore[no-any-return]
