"""Convolutions of [WANG-MSFEN]: depthwise separable ones, and several scales side by side."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gliomaseg_layers._checks import check_bool
from gliomaseg_layers.layers._dimensions import (
    CONVOLUTION,
    ConvNormReLU,
    check_count,
    check_each,
    check_features,
    check_odd,
    check_spatial_dims,
    initialise,
    make_norm,
)
from gliomaseg_layers.layers.attention import ChannelAttention, SpatialAttention

__all__ = ["DepthwiseSeparableConv", "MultiScaleConv"]


class DepthwiseSeparableConv(nn.Sequential):
    r"""Convolve every channel by itself, then mix the channels by a 1 x 1 convolution.

    .. math:: y = W_p * (W_d \circledast x) + b

    where :math:`\circledast` convolves channel by channel. Costs
    ``kernel_size ** spatial_dims + out_channels`` multiply-adds per input channel and pixel, where
    the plain convolution costs ``kernel_size ** spatial_dims * out_channels``.

    Cost of ``DepthwiseSeparableConv(64, 64)`` on 32 x 32: 4,736 parameters, 4,784,128
    multiply-adds, receptive field 3 x 3.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the kernel in pixels, odd.
        stride: step of the kernel in pixels.
        dilation: spacing of the kernel's taps in pixels.
        bias: whether the 1 x 1 convolution has one.
        spatial_dims: 2 or 3.

    Shape:
        ``(N, in_channels, *spatial)`` to ``(N, out_channels, *spatial)``, each side divided by the
        stride, rounded up. Initialised as He et al. for ReLU.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the input has another shape.

    Source: [WANG-MSFEN], which names it in its abstract and in section 1.

    Example:
        >>> import torch
        >>> layer = DepthwiseSeparableConv(8, 16, kernel_size=5, stride=2)
        >>> layer(torch.rand(1, 8, 33, 20)).shape
        torch.Size([1, 16, 17, 10])
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        *,
        bias: bool = True,
        spatial_dims: int = 2,
    ) -> None:
        check_count("in_channels", in_channels)
        check_count("out_channels", out_channels)
        check_odd("kernel_size", kernel_size)
        check_count("stride", stride)
        check_count("dilation", dilation)
        check_bool("bias", bias)
        check_spatial_dims(spatial_dims)
        convolution = CONVOLUTION[spatial_dims]
        super().__init__(
            convolution(
                in_channels,
                in_channels,
                kernel_size,
                stride,
                dilation * (kernel_size // 2),
                dilation,
                groups=in_channels,
                bias=False,
            ),
            convolution(in_channels, out_channels, 1, bias=bias),
        )
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        initialise(self)

    def forward(self, input: Tensor) -> Tensor:
        check_features("input", input, self.in_channels, self.spatial_dims)
        return self[1](self[0](input))  # type: ignore[no-any-return]


class MultiScaleConv(nn.Module):
    r"""Convolve with several kernels side by side, weigh the result by attention, add the input.

    .. math::
        c &= [\mathrm{ReLU}(\mathrm{BN}(W_k * x))]_{k} \\
        m &= W_m * (c \cdot \sigma(\mathrm{ca}(c))) \\
        y &= m \cdot \sigma(\mathrm{sa}(m)) + s(x)

    with ``ca`` and ``sa`` of :class:`ChannelAttention` and :class:`SpatialAttention`; :math:`s` is
    the identity, or a 1 x 1 convolution where the numbers of channels differ.

    Cost of ``MultiScaleConv(64, 64)`` on 32 x 32: 35,247 parameters, 30,710,272 multiply-adds,
    receptive field the image.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, and of every branch.
        kernel_sizes: sides of the branches' kernels in pixels, odd.
        separable: whether the branches are depthwise separable.
        spatial_dims: 2 or 3.

    Shape:
        ``(N, in_channels, *spatial)`` to ``(N, out_channels, *spatial)``. Initialised as He et al.
        for ReLU.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the input has another shape.

    [WANG-MSFEN] gives the three kernel sizes, concatenation, channel attention with a sigmoid,
    spatial attention and the residual. We chose their order, the 1 x 1 convolutions, and depthwise
    separable branches.

    Source: [WANG-MSFEN] 2.2.

    Example:
        >>> import torch
        >>> MultiScaleConv(4, 16)(torch.rand(2, 4, 32, 32)).shape
        torch.Size([2, 16, 32, 32])
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_sizes: Sequence[int] = (3, 5, 7),
        *,
        separable: bool = True,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("out_channels", out_channels)
        check_bool("separable", separable)
        check_spatial_dims(spatial_dims)
        check_each("kernel_sizes", kernel_sizes, check_odd)
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        convolution = CONVOLUTION[spatial_dims]
        self.branches = nn.ModuleList()
        for size in kernel_sizes:
            branch = (
                DepthwiseSeparableConv(
                    in_channels, out_channels, size, bias=False, spatial_dims=spatial_dims
                )
                if separable
                else convolution(in_channels, out_channels, size, padding=size // 2, bias=False)
            )
            norm = make_norm("batch", out_channels, spatial_dims)
            self.branches.append(ConvNormReLU(branch, norm, nn.ReLU()))
        width = out_channels * len(kernel_sizes)
        self.channel_attention = ChannelAttention(width, spatial_dims=spatial_dims)
        self.mix = convolution(width, out_channels, 1)
        self.spatial_attention = SpatialAttention(spatial_dims=spatial_dims)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else convolution(in_channels, out_channels, 1, bias=False)
        )
        for part in (self.branches, self.mix, self.shortcut):
            initialise(part)

    def forward(self, input: Tensor) -> Tensor:
        check_features("input", input, self.in_channels, self.spatial_dims)
        scales = torch.cat([branch(input) for branch in self.branches], 1)
        mixed = self.mix(self.channel_attention(scales))
        return self.spatial_attention(mixed) + self.shortcut(input)  # type: ignore[no-any-return]
