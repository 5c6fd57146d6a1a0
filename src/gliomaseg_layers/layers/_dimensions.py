"""What differs between 2-D and 3-D layers, in one place."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gliomaseg_layers._capture import is_traced, is_transformed, runs_eagerly
from gliomaseg_layers._checks import check_int, check_tensor

NORMS = ("batch", "group", "instance")
CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORM: dict[int, type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}


class _Pointwise(nn.modules.conv._ConvNd):
    """A 1 x 1 convolution by a matrix product, which a CPU does faster for a few pixels."""

    def forward(self, input: Tensor) -> Tensor:
        out = F.linear(input.flatten(2).transpose(1, 2), self.weight.flatten(1), self.bias)
        out = out.transpose(1, 2)  # not `mT`, which torch.onnx.export(dynamo=False) cannot write
        return out.reshape(*out.shape[:2], *input.shape[2:])


class PointwiseConv2d(_Pointwise, nn.Conv2d):
    """``nn.Conv2d`` with a kernel of 1, for maps of a few pixels."""


class PointwiseConv3d(_Pointwise, nn.Conv3d):
    """``nn.Conv3d`` with a kernel of 1, for maps of a few voxels."""


def check_spatial_dims(spatial_dims: int) -> None:
    check_int("spatial_dims", spatial_dims)
    if spatial_dims not in CONVOLUTION:
        raise ValueError(f"`spatial_dims` must be 2 or 3, got {spatial_dims}")


def check_count(name: str, value: int) -> None:
    check_int(name, value)
    if value < 1:
        raise ValueError(f"`{name}` must be 1 or more, got {value}")


def check_odd(name: str, value: int) -> None:
    check_count(name, value)
    if value % 2 == 0:
        raise ValueError(f"`{name}` must be odd, got {value}")


def check_each(
    name: str,
    values: Sequence[int],
    check: Callable[[str, int], None] = check_count,
    *,
    may_be_empty: bool = False,
) -> None:
    """Check every entry of a sequence."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError(f"`{name}` must be a sequence of ints, got {values!r}")
    if not values and not may_be_empty:
        raise ValueError(f"`{name}` must have at least one entry, got {values!r}")
    for value in values:
        check(name, value)


def check_features(name: str, tensor: Tensor, channels: int | None, spatial_dims: int) -> None:
    """Check a feature map ``(N, channels, *spatial)``, with any channels if None."""
    check_tensor(name, tensor)
    if not tensor.is_floating_point():
        raise TypeError(f"`{name}` must have a floating dtype, got {tensor.dtype}")
    fits = tensor.dim() == spatial_dims + 2
    if not fits or (channels is not None and tensor.shape[1] != channels):
        axes = "H, W" if spatial_dims == 2 else "D, H, W"
        raise ValueError(
            f"`{name}` must be (N, {channels or 'C'}, {axes}), got shape {tuple(tensor.shape)}"
        )


def make_norm(norm: str, channels: int, spatial_dims: int, *, pooled: bool = False) -> nn.Module:
    """Return a norm that trains on any input, even on the pooled map of a single image.

    Batch norm does so within :class:`ConvNormReLU`.
    """
    if norm == "batch":
        return BATCH_NORM[spatial_dims](channels)
    # A group has at least two channels, because a single value is always normalised to 0. A pooled
    # map has one value per channel: there "instance" normalises over all channels. It is a group
    # norm too, because torch's instance norm makes channels_last maps contiguous.
    largest = {"group": min(32, max(channels // 2, 1)), "instance": 1 if pooled else channels}[norm]
    return nn.GroupNorm(max(n for n in range(1, largest + 1) if channels % n == 0), channels)


class ConvNormReLU(nn.Sequential):
    """A convolution, a norm and a ReLU, which train on a single value per channel.

    It has no variance, so that batch norm uses the running statistics. The norm is torch's own
    class, by which ``fuse_modules`` of torch.ao knows it.
    """

    def forward(self, input: Tensor) -> Tensor:
        for module in self:
            single = module.training and input.numel() <= input.shape[1]
            if single and isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                buffers = module.running_mean, module.running_var
                input = F.batch_norm(input, *buffers, module.weight, module.bias, eps=module.eps)
            else:
                input = module(input)
        return input


def resize(input: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate (bi-, tri-) linearly to a grid; the identity on the same one."""
    # torch.jit.trace would freeze that both are the same.
    if not is_traced() and tuple(input.shape[2:]) == tuple(size):
        return input
    mode = "bilinear" if input.dim() == 4 else "trilinear"
    return F.interpolate(input, tuple(size), mode=mode, align_corners=False)


def _channels_last(maps: Tensor) -> torch.memory_format:
    return torch.channels_last if maps.dim() == 4 else torch.channels_last_3d


def lay_out_as(values: Tensor, reference: Tensor) -> Tensor:
    """Give ``values`` the memory format of ``reference``; concatenating two formats loses both."""
    if is_transformed():  # torch.func does not support memory formats
        return values
    last = _channels_last(reference)
    same = reference.is_contiguous(memory_format=last)
    return values.contiguous(memory_format=last if same else torch.contiguous_format)


def lay_out_thin(maps: Tensor) -> Tensor:
    """Give maps of a few channels the memory format in which convolving them is fastest."""
    # Of contiguous float32 maps on a CPU, oneDNN takes up to four times as long for the gradient of
    # a convolution with a kernel of 3 to 7. (With a kernel of 15 it takes less time.)
    if not (maps.is_cpu and maps.dtype == torch.float32 and runs_eagerly()):
        return maps
    return maps.contiguous(memory_format=_channels_last(maps))


def initialise(module: nn.Module) -> None:
    """Draw all weights as He et al. for ReLU, fan in, and set biases to 0."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Conv3d, nn.Linear)):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
