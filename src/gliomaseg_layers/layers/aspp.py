"""Atrous spatial pyramid pooling: convolutions of several dilations side by side."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gliomaseg_layers._checks import check_bool, check_choice, check_fraction
from gliomaseg_layers.layers._dimensions import (
    CONVOLUTION,
    NORMS,
    ConvNormReLU,
    check_count,
    check_each,
    check_features,
    check_spatial_dims,
    initialise,
    lay_out_as,
    make_norm,
)
from gliomaseg_layers.layers.convolution import DepthwiseSeparableConv

__all__ = ["ASPP"]


class ASPP(nn.Module):
    r"""Atrous spatial pyramid pooling.

    .. math:: y = P([B_{1 \times 1}(x),\ B_{r_1}(x), \dots, B_{r_k}(x),\ B_{\mathrm{pool}}(x)])

    Every branch :math:`B` is a convolution without bias, a norm and a ReLU: 1 x 1; 3 x 3 with each
    dilation of ``rates``; 1 x 1 of the mean over the image, spread over the grid. The projection
    :math:`P` is the same, 1 x 1, with dropout after it.

    The parameters have the names and the order of those in torchvision and in
    segmentation_models.pytorch, whose weights load by ``load_state_dict``. Unlike their layers,
    this one trains on a single image: where a batch has one value per channel, batch norm uses the
    running statistics.

    Cost of ``ASPP(64, 64)`` on 32 x 32: 140,032 parameters, 138,416,128 multiply-adds,
    receptive field the image.

    Args:
        in_channels: channels of the input.
        out_channels: channels of every branch and of the output.
        rates: dilations of the 3 x 3 branches, in pixels.
        separable: whether the 3 x 3 branches are depthwise separable.
        dropout: probability that a value of the output is set to 0 in training.
        norm: "batch", "group" (up to 32 groups) or "instance" (the pooled branch, which has one
            value per channel, is normalised over its channels).
        spatial_dims: 2 or 3.

    Shape:
        ``(N, in_channels, *spatial)`` to ``(N, out_channels, *spatial)``. Initialised as He et al.
        for ReLU.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the input has another shape.

    [WAN23] gives the branches, the rates and the 256 channels (3.2.3, 3.3). What it does not say,
    norms and dropout, is torchvision's.

    Source: [WAN23] 3.2.3, after DeepLabv3+.

    Example:
        >>> import torch
        >>> ASPP(32, 16)(torch.rand(1, 32, 9, 9)).shape
        torch.Size([1, 16, 9, 9])
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        rates: Sequence[int] = (6, 12, 18),
        *,
        separable: bool = False,
        dropout: float = 0.5,
        norm: str = "batch",
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("out_channels", out_channels)
        check_each("rates", rates)
        check_bool("separable", separable)
        check_fraction("dropout", dropout)
        check_choice("norm", norm, NORMS)
        check_spatial_dims(spatial_dims)
        self.in_channels = in_channels
        self.rates = tuple(rates)
        self.spatial_dims = spatial_dims
        convolution = CONVOLUTION[spatial_dims]

        def atrous(rate: int) -> nn.Module:
            if separable:
                return DepthwiseSeparableConv(
                    in_channels,
                    out_channels,
                    dilation=rate,
                    bias=False,
                    spatial_dims=spatial_dims,
                )
            return convolution(
                in_channels, out_channels, 3, padding=rate, dilation=rate, bias=False
            )

        def norm_and_relu(pooled: bool = False) -> list[nn.Module]:
            return [make_norm(norm, out_channels, spatial_dims, pooled=pooled), nn.ReLU()]

        def pointwise(channels: int) -> nn.Module:
            return convolution(channels, out_channels, 1, bias=False)

        self.convs = nn.ModuleList([ConvNormReLU(pointwise(in_channels), *norm_and_relu())])
        self.convs.extend(ConvNormReLU(atrous(rate), *norm_and_relu()) for rate in rates)
        self.convs.append(
            ConvNormReLU(_GlobalMean(), pointwise(in_channels), *norm_and_relu(pooled=True))
        )
        width = out_channels * len(self.convs)
        self.project = ConvNormReLU(pointwise(width), *norm_and_relu(), nn.Dropout(dropout))
        initialise(self)

    def forward(self, input: Tensor) -> Tensor:
        check_features("input", input, self.in_channels, self.spatial_dims)
        maps = [branch(input) for branch in self.convs]
        maps[-1] = lay_out_as(maps[-1].expand_as(maps[0]), maps[0])
        return self.project(torch.cat(maps, 1))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"in_channels={self.in_channels}, rates={self.rates}"


class _GlobalMean(nn.Module):
    """The mean over the image, ``(N, C, 1, 1)``. It exports for any size."""

    def forward(self, input: Tensor) -> Tensor:
        return input.mean(tuple(range(2, input.dim())), keepdim=True)
