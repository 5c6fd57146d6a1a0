"""DeepLabv3+ with attributes of the patient beside the image."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gliomaseg_layers._checks import check_bool, check_int, check_not_negative, check_tensor
from gliomaseg_layers.layers import ASPP, AttributeEncoder
from gliomaseg_layers.layers._dimensions import check_count, check_features, lay_out_as, resize
from gliomaseg_layers.networks._blocks import convolve, convolve_twice, crop, pad

__all__ = ["AttributeDeepLab"]

STRIDES = (8, 16, 32)


class AttributeDeepLab(nn.Module):
    """DeepLabv3+ of [WAN23] 3.2, with a map of the patient's attributes beside its features.

    A timm encoder computes two maps, a shallow one with a quarter of the image's sides (48 channels
    by default) and a deep one with 1 / ``output_stride`` of them (528). An
    :class:`~gliomaseg_layers.AttributeEncoder` turns the attributes into 3 channels, which are
    concatenated to the deep map before :class:`~gliomaseg_layers.ASPP`. The decoder of DeepLabv3+
    merges the result with the shallow map. A patient without attributes gets a learned map instead.

    The paper gives both maps and their channels, the attributes' 3, and the ASPP's 256 with its
    rates 6, 12 and 18. We chose the learned map; how the rates change with another stride, so that
    they reach as far in the image; and the decoder's widths, those of DeepLabv3+: 48 for the
    shallow map, and two 3 x 3 convolutions of 256, where the paper's text has one.

    Cost of ``AttributeDeepLab(attributes=20)`` on 256 x 256: 32,257,145 parameters, 12,899,028,352
    multiply-adds.

    Args:
        encoder: the name of a timm model with ``features_only`` and maps at the reductions 4 and
            ``output_stride``. Of several maps at ``output_stride`` the deepest is taken. A model
            whose stride cannot be changed (swinv2, densenet) ends at the stage that has it. A model
            that timm made for one image size takes that size alone (maxvit, hiera), unless it can
            compute others (swinv2).
        classes: channels of the output.
        attributes: length of the attribute vector; 0 for a plain DeepLabv3+.
        in_channels: channels of the image.
        pretrained: whether timm downloads weights for the encoder. All else is initialised as He et
            al. for ReLU.
        output_stride: 8, 16 or 32.

    Shape:
        ``(N, in_channels, H, W)`` and attributes ``(N, attributes)`` to logits
        ``(N, classes, H, W)``. A patient's attributes are unknown if one of them is NaN, and all
        patients' are if ``attributes`` is None. Any H and W from 1: the image is padded to a
        multiple of the encoder's coarsest reduction, at least twice it, below and on the right, by
        repeating its last row and column, and the logits are cropped. That reduction is
        ``output_stride``, or 32 in models whose stride cannot be changed.

        An encoder whose batch norms see pooled maps (skresnet, resnest, rexnet) trains on two
        images or more.

        The network exports for any size if its encoder does: regnetz, resnet, repvgg and xception
        do. In swinv2 and the models named ``tf_...`` timm fixes the size.

    Raises:
        ImportError: timm is not installed.
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, an input has another shape, or the encoder
            does not take it.

    Source: [WAN23] 3.2, after DeepLabv3+.

    Example:
        >>> import torch
        >>> network = AttributeDeepLab("resnet18", attributes=20)
        >>> images, attributes = torch.rand(2, 3, 64, 64), torch.rand(2, 20)
        >>> network(images, attributes).shape, network(images).shape
        (torch.Size([2, 1, 64, 64]), torch.Size([2, 1, 64, 64]))
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        encoder: str = "regnetz_040",
        classes: int = 1,
        attributes: int = 0,
        *,
        in_channels: int = 3,
        pretrained: bool = False,
        output_stride: int = 16,
    ) -> None:
        super().__init__()
        check_count("classes", classes)
        check_int("attributes", attributes)
        check_not_negative("attributes", attributes)
        check_count("in_channels", in_channels)
        check_bool("pretrained", pretrained)
        if output_stride not in STRIDES:
            raise ValueError(f"`output_stride` must be 8, 16 or 32, got {output_stride!r}")
        self.in_channels = in_channels
        self.output_stride = output_stride
        self.encoder, self.step, self.image_size = _make_encoder(
            encoder, in_channels, pretrained, output_stride
        )
        shallow, deep = self.encoder.feature_info.channels()
        self.attribute_encoder = None
        if attributes:
            self.attribute_encoder = AttributeEncoder(attributes)
            channels, size = self.attribute_encoder.out_channels, self.attribute_encoder.out_size
            self.unknown = nn.Parameter(torch.empty(1, channels, *size))
            deep += channels
        self.aspp = ASPP(deep, 256, [rate * 16 // output_stride for rate in (6, 12, 18)])
        self.shallow = convolve(shallow, 48, 1)
        self.decoder = convolve_twice(256 + 48, 256)
        self.head = nn.Conv2d(256, classes, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the map for unknown attributes again, and nothing else."""
        if self.attribute_encoder is not None:
            nn.init.zeros_(self.unknown)

    def forward(self, input: Tensor, attributes: Tensor | None = None) -> Tensor:
        check_features("input", input, self.in_channels, 2)
        image = pad(input, self.step)
        if self.image_size is not None and image.shape[2:] != self.image_size:
            height, width = self.image_size
            raise ValueError(
                f"`input` must have {height} x {width} pixels, the only size that the encoder "
                f"takes, got shape {tuple(input.shape)}"
            )
        try:
            shallow, deep = self.encoder(image)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                "`input` must have more images or larger ones in training, because a batch norm of "
                f"the encoder sees one value per channel, got shape {tuple(input.shape)}; "
                "or call `encoder.eval()` after `train()`"
            ) from error
        if getattr(self.encoder, "output_fmt", "NCHW") == "NHWC":
            shallow, deep = shallow.permute(0, 3, 1, 2), deep.permute(0, 3, 1, 2)
        if self.attribute_encoder is not None:
            beside = self._attribute_map(self.attribute_encoder, attributes, deep)
            deep = torch.cat([deep, lay_out_as(beside, deep)], 1)
        elif attributes is not None:
            raise ValueError("`attributes` must be None for a network made without attributes")
        shallow = self.shallow(shallow)
        features = torch.cat([shallow, resize(self.aspp(deep), shallow.shape[2:])], 1)
        logits = self.head(self.decoder(features))
        return crop(resize(logits, image.shape[2:]), input)

    def _attribute_map(
        self, encoder: AttributeEncoder, attributes: Tensor | None, deep: Tensor
    ) -> Tensor:
        """Return a map of each patient's attributes, the learned one where they are unknown."""
        if attributes is None:
            attributes = deep.new_full((deep.shape[0], encoder.in_features), torch.nan)
        check_tensor("attributes", attributes)
        missing = attributes.isnan()
        known = encoder(attributes.masked_fill(missing, 0))
        if known.shape[0] != deep.shape[0]:
            raise ValueError(
                f"`attributes` must have a row for each of {deep.shape[0]} images, "
                f"got shape {tuple(attributes.shape)}"
            )
        chosen = torch.where(missing.any(1).view(-1, 1, 1, 1), self.unknown, known)
        # Not `resize`: whether the grids are equal is unknown in an export for any size.
        return F.interpolate(chosen.to(deep.dtype), deep.shape[2:], mode="bilinear")

    def extra_repr(self) -> str:
        return f"in_channels={self.in_channels}, output_stride={self.output_stride}"


def _make_encoder(
    name: str, in_channels: int, pretrained: bool, output_stride: int
) -> tuple[Any, int, tuple[int, ...] | None]:
    """Return timm's model with two maps, its coarsest reduction, and the only size it takes.

    The maps are at the reductions 4 and ``output_stride``. The size is None for any.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            "AttributeDeepLab needs timm: pip install gliomaseg_layers[networks]"
        ) from error
    if not timm.is_model(name):
        raise ValueError(f"`encoder` must be the name of a timm model, got {name!r}")

    def build(**settings: Any) -> Any:
        try:
            return timm.create_model(name, features_only=True, in_chans=in_channels, **settings)
        except (AssertionError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"`encoder` must be a timm model that gives feature maps, got {name!r}: {error}"
            ) from error

    config = timm.get_pretrained_cfg(name)
    fixed = tuple(config.input_size[1:]) if config and config.fixed_input_size else None
    free = {"strict_img_size": False} if fixed else {}
    # Only building a model shows which settings it takes and which reductions its maps have.
    settings: dict[str, Any]
    for settings in ({"output_stride": output_stride} | free, free):
        with suppress(ValueError):
            built = build(**settings)
            break
    else:
        settings = {}
        built = build()
    reductions = built.feature_info.reduction()
    indices = [
        max((i for i, reduction in enumerate(reductions) if reduction == wanted), default=-1)
        for wanted in (4, output_stride)
    ]
    if -1 in indices:
        raise ValueError(
            f"`encoder` must have feature maps at the reductions 4 and {output_stride}, "
            f"got {name!r} with {reductions}"
        )
    encoder = build(pretrained=pretrained, out_indices=indices, **settings)
    # Only a call shows which sizes a model takes. This one fits no window and no position that is
    # made for 224, 256 or 384 pixels.
    height, width = 9 * 32, 10 * 32
    image = next(encoder.parameters()).new_zeros(1, in_channels, height, width)
    try:
        with torch.no_grad():
            encoder.eval()(image)
    except Exception as error:
        if fixed is None:
            raise ValueError(
                f"`encoder` must take images of all sizes, got {name!r}, "
                f"which fails at {height} x {width}"
            ) from error
    else:
        fixed = None
    return encoder.train(), max(reductions), fixed
