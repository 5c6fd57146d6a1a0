# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
# pyright: reportUnknownMemberType=false
"""A user's program, for type checkers alone: what they know of the library, and what they refuse.

A call of a module is as torch declares it, of any arguments; `forward` is checked. Members that
torch 2.6 types in part, such as `nn.Module.__init__`, are not held against the library.
"""

from typing import Any, assert_type

import torch
from torch import Tensor, nn

import gliomaseg_layers as gl
from gliomaseg_layers import functional as F

logits = torch.randn(2, 1, 64, 64)
target = torch.zeros(2, 1, 64, 64)


class System(nn.Module):
    """A network with a layer of the library and its own loss, every function typed."""

    def __init__(self) -> None:
        super().__init__()
        self.network = gl.UNet.mini(3, 1, fusion="msf")
        self.pooling = gl.ASPP(1, 1, rates=(2, 4), norm="group")
        self.criterion = gl.OutlierRegionLoss(pos_weight=2.0, window=(21, 21), share=None)

    def forward(self, images: Tensor) -> Tensor:
        return self.pooling(self.network(images))

    def training_step(self, images: Tensor, masks: Tensor) -> Tensor:
        return self.criterion(self(images), masks, mask=masks >= 0)


def modules() -> None:
    assert_type(gl.OutlierRegionLoss()(logits, target), Tensor)
    assert_type(gl.DensityLoss(inner=(7, 7), outer=21)(logits, target, mask=target > 0), Tensor)
    assert_type(gl.DiceLoss("multiclass", include_background=False)(logits, target), Tensor)
    assert_type(gl.CompoundLoss()(logits, target), Any)  # a tensor, or with its terms
    assert_type(
        gl.CompoundLoss().forward(logits, target, return_terms=True),
        Tensor | tuple[Tensor, dict[str, Tensor]],
    )
    assert_type(gl.CompoundLoss().alpha, Tensor)
    assert_type(gl.CompoundLoss(gl.DensityLoss(), gl.DiceLoss(), alpha=2, scnp=3).gamma, Tensor)
    for loss in (gl.OutlierRegionLoss(), gl.DensityLoss(), gl.DiceLoss(), gl.CompoundLoss()):
        loss.check_values(logits, target, mask=target > 0)
    assert_type(gl.ASPP(3)(logits), Tensor)
    assert_type(gl.AttributeEncoder(5)(logits), Tensor)
    assert_type(gl.ChannelAttention(3)(logits), Tensor)
    assert_type(gl.ChannelAttention(3).logits(logits), Tensor)
    assert_type(gl.DepthwiseSeparableConv(3, 4)(logits), Tensor)
    assert_type(gl.MultiScaleConv(3, 4)(logits), Tensor)
    assert_type(gl.MultiScaleFusion(3)(logits, logits), Tensor)
    assert_type(gl.SpatialAttention()(logits), Tensor)
    assert_type(gl.SpatialPyramidPooling(3, 4)(logits), Tensor)
    assert_type(gl.AttributeDeepLab()(logits), Tensor)
    assert_type(gl.MSFEN()(logits), Tensor)
    assert_type(gl.MUNet()(logits), Tensor)
    assert_type(gl.UNet.mini(), gl.UNet)
    assert_type(gl.UNet()(logits), Tensor)
    assert_type(
        gl.GatedSegmenter(gl.UNet(), gl.UNet()).forward(logits), Tensor | tuple[Tensor, Tensor]
    )


def ramp() -> None:
    ramp = gl.WeightRamp(gl.CompoundLoss(), "gamma", total_steps=10)
    assert_type(ramp.step(), None)
    assert_type(ramp.last_value, float)
    assert_type(ramp.state_dict(), dict[str, Any])


def functions() -> None:
    assert_type(F.box_sum(logits, (7, 7)), Tensor)
    assert_type(F.box_count((64, 64), 7, dtype=torch.float64, device="cpu"), Tensor)
    assert_type(F.density_map(logits), Tensor)
    assert_type(F.dice_loss(logits, target, batch=True), Tensor)
    assert_type(F.outlier_region_loss(logits, target, levels=[0.5]), Tensor)
    assert_type(F.density_loss(logits, target, threshold=40), Tensor)
    assert_type(F.outlier_report(logits), F.OutlierReport)
    assert_type(gl.OutlierRegionLoss().report(logits, target).pixels, Tensor)
    assert_type(F.outlier_weight(logits), Tensor)
    assert_type(F.outlier_weight_backend(logits), str)
    assert_type(F.remove_outlier_regions(logits), Tensor)
    assert_type(F.scnp(logits, target, size=(3, 3)), Tensor)
    assert_type(gl.__version__, str)


def mistakes() -> None:
    """Each must be refused: an ignore that nothing needs is an error."""
    F.box_sum(logits, 7.0)  # type: ignore[arg-type]
    F.dice_loss([[0.0]], target)  # type: ignore[arg-type]
    F.outlier_region_loss(logits)  # type: ignore[call-arg]
    F.outlier_region_loss(logits, target, "binary")  # type: ignore[call-arg]
    F.outlier_region_loss(logits, target, inner=7)  # type: ignore[call-arg]
    gl.OutlierRegionLoss(strength="4")  # type: ignore[arg-type]
    gl.OutlierRegionLoss().forward(logits)  # type: ignore[call-arg]
    gl.CompoundLoss("multiclass")  # type: ignore[arg-type]
    F.scnp(logits, target, size=3.0)  # type: ignore[arg-type]
    gl.CompoundLoss(ignore_index=255)  # type: ignore[call-arg]
    gl.CompoundLoss().forward(logits, target, target > 0, True)  # type: ignore[call-arg]
    gl.WeightRamp(gl.DiceLoss(), "beta", total_steps=10)  # type: ignore[arg-type]
    gl.UNet(widths=64)  # type: ignore[arg-type]
    gl.AttributeEncoder(5, out_size=16)  # type: ignore[arg-type]
    gl.LovaszLoss()  # type: ignore[attr-defined]
