"""Spatial pyramid pooling: means over the cells of coarse grids."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gliomaseg_layers.layers._dimensions import (
    CONVOLUTION,
    ConvNormReLU,
    check_count,
    check_each,
    check_features,
    check_spatial_dims,
    initialise,
    lay_out_as,
    make_norm,
)

__all__ = ["SpatialPyramidPooling"]


class SpatialPyramidPooling(nn.Module):
    r"""Pool to coarse grids, convolve each, resize to the input's grid, concatenate and project.

    .. math:: y = P([x,\ \mathrm{up}(B_1(\mathrm{pool}_{b_1}(x))), \dots])

    :math:`\mathrm{pool}_b` takes the means of b cells along every axis, those of
    ``nn.AdaptiveAvgPool2d``: cell i of n pixels covers :math:`\lfloor i n / b \rfloor` to
    :math:`\lceil (i + 1) n / b \rceil`. Branches :math:`B` (1 x 1) have
    ``in_channels // len(bins)`` channels, at least one; :math:`P` is 1 x 1 too. Each is a
    convolution without bias, a batch norm and a ReLU.

    Pooling is a product with one small matrix per axis, so that the layer exports to ONNX for any
    size. Where a grid is finer than the image, pixels are repeated.

    Cost of ``SpatialPyramidPooling(64, 64)`` on 32 x 32: 12,544 parameters, 9,328,640
    multiply-adds, receptive field the image.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        bins: cells along every axis, one number for each grid.
        spatial_dims: 2 or 3.

    Shape:
        ``(N, in_channels, *spatial)`` to ``(N, out_channels, *spatial)``. Initialised as He et al.
        for ReLU.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the input has another shape.

    [WANG-MSFEN] names it in its abstract alone. We took the pyramid pooling of PSPNet.

    Source: [WANG-MSFEN], after PSPNet.

    Example:
        >>> import torch
        >>> SpatialPyramidPooling(16, 8)(torch.rand(1, 16, 12, 20)).shape
        torch.Size([1, 8, 12, 20])
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bins: Sequence[int] = (1, 2, 3, 6),
        *,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("out_channels", out_channels)
        check_spatial_dims(spatial_dims)
        check_each("bins", bins)
        self.in_channels = in_channels
        self.bins = tuple(bins)
        self.spatial_dims = spatial_dims
        hidden = max(in_channels // len(self.bins), 1)

        def block(channels: int, width: int) -> nn.Module:
            convolution = CONVOLUTION[spatial_dims](channels, width, 1, bias=False)
            return ConvNormReLU(convolution, make_norm("batch", width, spatial_dims), nn.ReLU())

        self.branches = nn.ModuleList(block(in_channels, hidden) for _ in self.bins)
        self.project = block(in_channels + hidden * len(self.bins), out_channels)
        initialise(self)

    def forward(self, input: Tensor) -> Tensor:
        check_features("input", input, self.in_channels, self.spatial_dims)
        maps = [input]
        for count, branch in zip(self.bins, self.branches, strict=True):
            cells = lay_out_as(_mean_cells(input, count), input)
            # Not `resize`: whether the grids are equal is unknown in an export for any size.
            mode = "bilinear" if input.dim() == 4 else "trilinear"
            maps.append(F.interpolate(branch(cells), input.shape[2:], mode=mode))
        return self.project(torch.cat(maps, 1))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"in_channels={self.in_channels}, bins={self.bins}"


def _mean_cells(input: Tensor, count: int) -> Tensor:
    """Average ``count`` cells along every spatial axis, as ``nn.AdaptiveAvgPool`` does."""
    # torch.onnx.export(dynamo=False) writes negative axes wrongly, and rounds the quotients of
    # negative numbers another way.
    last = input.dim() - 1
    for axis in range(2, input.dim()):
        size = input.shape[axis]
        cell = torch.arange(count, device=input.device).unsqueeze(1)
        place = torch.arange(size, device=input.device)
        inside = (place >= cell * size // count) & (
            place < ((cell + 1) * size + count - 1) // count
        )
        weight = (inside / inside.sum(1, keepdim=True)).to(input.dtype)
        input = F.linear(input.transpose(axis, last), weight).transpose(axis, last)
    return input
