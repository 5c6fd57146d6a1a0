"""Attributes of a patient or a slice, as a map to be concatenated to the features of the image."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from gliomaseg_layers._checks import check_fraction, check_tensor
from gliomaseg_layers.layers._dimensions import check_count, check_each, initialise, resize

__all__ = ["AttributeEncoder"]


class AttributeEncoder(nn.Module):
    r"""Turn a vector of attributes into a small map, to be concatenated to image features.

    .. math:: y = \mathrm{reshape}(W_k\,\mathrm{ReLU}(\cdots \mathrm{ReLU}(W_1 a + b_1)) + b_k)

    Attributes are numbers that are known besides the image: genomic clusters (one-hot), age, the
    position of the slice. The caller decides how to encode missing ones.

    Cost of ``AttributeEncoder(20)`` on 32 x 32: 101,760 parameters, 100,864 multiply-adds,
    receptive field every attribute.

    Args:
        in_features: length of the attribute vector.
        out_channels: channels of the map.
        out_size: grid of the map, ``(H, W)`` or ``(D, H, W)``.
        hidden: widths of the hidden layers; none for a linear map.
        dropout: probability that a hidden value is set to 0 in training.

    Shape:
        ``(N, in_features)`` to ``(N, out_channels, *out_size)``, or resized (bi- or trilinearly) to
        ``(N, out_channels, *size)``. Initialised as He et al. for ReLU.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the input has another shape.

    [WAN23] gives the MLP and its output, 3 channels on a grid with a sixteenth of the image's
    sides. We chose the hidden layers, and one grid for images of all sizes, 16 x 16, which an image
    of 256 x 256 has.

    Source: [WAN23] 3.2.2.

    Example:
        >>> import torch
        >>> encoder = AttributeEncoder(20)
        >>> encoder(torch.rand(4, 20)).shape, encoder(torch.rand(4, 20), size=(8, 12)).shape
        (torch.Size([4, 3, 16, 16]), torch.Size([4, 3, 8, 12]))
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        in_features: int,
        out_channels: int = 3,
        out_size: Sequence[int] = (16, 16),
        hidden: Sequence[int] = (128,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_count("in_features", in_features)
        check_count("out_channels", out_channels)
        check_each("out_size", out_size)
        if len(out_size) not in (2, 3):
            raise ValueError(f"`out_size` must have 2 or 3 entries, got {tuple(out_size)}")
        check_each("hidden", hidden, may_be_empty=True)
        check_fraction("dropout", dropout)
        self.in_features = in_features
        self.out_channels = out_channels
        self.out_size = tuple(out_size)
        values = out_channels
        for side in self.out_size:
            values *= side
        widths = [in_features, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], values))
        initialise(self)

    def forward(self, attributes: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Encode attributes ``(N, in_features)``, on the grid ``size`` if it is given."""
        check_tensor("attributes", attributes)
        if not attributes.is_floating_point():
            raise TypeError(f"`attributes` must have a floating dtype, got {attributes.dtype}")
        if attributes.dim() != 2 or attributes.shape[1] != self.in_features:
            raise ValueError(
                f"`attributes` must be (N, {self.in_features}), got shape {tuple(attributes.shape)}"
            )
        grid = self.mlp(attributes).unflatten(1, (self.out_channels, *self.out_size))
        if size is None:
            return grid  # type: ignore[no-any-return]
        if not isinstance(size, Sequence) or len(size) != len(self.out_size):
            raise ValueError(f"`size` must have {len(self.out_size)} entries, got {size!r}")
        return resize(grid, size)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_size={self.out_size}"
