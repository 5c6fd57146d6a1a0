"""What must work where the wheel and its dependencies are installed, and nothing else."""

from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

import gliomaseg_layers as gl
from gliomaseg_layers import functional as F

assert version("gliomaseg_layers") == gl.__version__
assert "site-packages" in Path(gl.__file__).parts, "imported from a checkout"

LOGITS = torch.randn(2, 3, 32, 32, requires_grad=True)
LABELS = torch.randint(3, (2, 32, 32))
SHAPES = {
    "binary": (LOGITS[:, :1], LABELS > 1),
    "multilabel": (LOGITS, LOGITS > 1),
    "multiclass": (LOGITS, LABELS),
}


def check_gradient(loss: Tensor) -> None:
    (gradient,) = torch.autograd.grad(loss, LOGITS)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient.any()


for mode, (logits, target) in SHAPES.items():
    check_gradient(gl.DiceLoss(mode)(logits, target))
    for outlier in (gl.OutlierRegionLoss(mode), gl.DensityLoss(mode)):
        check_gradient(outlier(logits, target))
        check_gradient(gl.CompoundLoss(outlier)(logits, target))
        check_gradient(gl.CompoundLoss(outlier, scnp=3)(logits, target))
    assert F.scnp(logits, target, mode=mode).shape == logits.shape
    probs = logits.softmax(1) if mode == "multiclass" else logits.sigmoid()
    assert F.remove_outlier_regions(probs, mode=mode).shape == probs.shape
assert F.box_sum(LOGITS, 3).shape == LOGITS.shape
assert float(F.box_count((4, 4), 3).sum()) == 100

ramp = gl.WeightRamp(gl.CompoundLoss(), "gamma", total_steps=2)
ramp.step()
assert ramp.last_value == 0.5

for layer in (
    gl.ASPP(3, 4),
    gl.ChannelAttention(3, 1),
    gl.DepthwiseSeparableConv(3, 4),
    gl.MultiScaleConv(3, 4),
    gl.SpatialAttention(),
    gl.SpatialPyramidPooling(3, 4),
    gl.UNet.mini(),
    gl.MSFEN(3, 1),
):
    check_gradient(layer(LOGITS).square().sum())
check_gradient(gl.MultiScaleFusion(3)(LOGITS, LOGITS).square().sum())
check_gradient(gl.MUNet(3, 1, (4, 8))(LOGITS).square().sum())
assert gl.AttributeEncoder(5)(torch.rand(2, 5)).shape == (2, 3, 16, 16)
