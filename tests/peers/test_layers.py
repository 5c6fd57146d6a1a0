"""Layers against their peers' by weight transfer, and exported to ONNX."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import segmentation_models_pytorch as smp
import torch
from timm.layers import cbam
from torch import nn
from torchvision.models.segmentation import deeplabv3

from gliomaseg_layers import (
    ASPP,
    AttributeEncoder,
    ChannelAttention,
    GatedSegmenter,
    SpatialAttention,
)
from tests.support.module_cases import LAYERS, MODULES, NETWORKS, SIZES, inputs, make

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def randomise(layer: nn.Module) -> nn.Module:
    """Give every weight and statistic a value of its own."""
    with torch.no_grad():
        for name, tensor in layer.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.3)
    return layer.eval()


@pytest.mark.parametrize("separable", [False, True])
def test_aspp_is_that_of_segmentation_models(separable: bool) -> None:
    theirs = randomise(
        smp.decoders.deeplabv3.decoder.ASPP(12, 8, (2, 4, 6), separable=separable, dropout=0.5)
    )
    ours = ASPP(12, 8, (2, 4, 6), separable=separable).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 12, 17, 20)
    torch.testing.assert_close(ours(x), theirs(x), **CLOSE)
    theirs.load_state_dict(ours.state_dict())


def test_aspp_is_that_of_torchvision() -> None:
    theirs = randomise(deeplabv3.ASPP(12, [2, 4, 6, 8], 8))
    ours = ASPP(12, 8, (2, 4, 6, 8)).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 12, 17, 20)
    torch.testing.assert_close(ours(x), theirs(x), **CLOSE)


def test_where_the_peers_crash_ours_trains() -> None:
    x = torch.randn(1, 12, 9, 9)
    for theirs in (
        deeplabv3.ASPP(12, [2, 4, 6], 8),
        smp.decoders.deeplabv3.decoder.ASPP(12, 8, (2, 4, 6), separable=False, dropout=0.5),
    ):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            theirs(x)
    assert ASPP(12, 8, (2, 4, 6))(x).isfinite().all()


@pytest.mark.parametrize("bias", [False, True])
def test_channel_attention_is_that_of_cbam(bias: bool) -> None:
    theirs = randomise(cbam.ChannelAttn(16, rd_ratio=0.25, mlp_bias=bias))
    ours = ChannelAttention(16, 4, ("avg", "max"))
    for mine, other in ((ours.bottleneck[0], theirs.fc1), (ours.bottleneck[2], theirs.fc2)):
        weights = {"weight": other.weight}
        weights["bias"] = other.bias if bias else torch.zeros(len(other.weight))
        mine.load_state_dict(weights)
    x = torch.randn(2, 16, 11, 13)
    torch.testing.assert_close(ours(x), theirs(x), **CLOSE)


def test_spatial_attention_is_that_of_cbam_with_its_norm_folded_in() -> None:
    theirs = randomise(cbam.SpatialAttn(7))
    convolution, norm = theirs.conv.conv, theirs.conv.bn
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    ours = SpatialAttention(7)
    ours.convolution.load_state_dict(
        {
            "weight": convolution.weight * scale[:, None, None, None],
            "bias": norm.bias - norm.running_mean * scale,
        }
    )
    x = torch.randn(2, 5, 19, 17)
    torch.testing.assert_close(ours(x), theirs(x), **CLOSE)


@pytest.mark.parametrize(
    ("name", "dims", "dynamic"),
    [
        (name, dims, dynamic)
        for dims, dynamic in ((2, False), (2, True), (3, True))
        for name in MODULES
        if dims == 2 or name not in NETWORKS
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx(name: str, dims: int, dynamic: bool, tmp_path: Path) -> None:
    layer = make(name, dims).eval()
    given = inputs(name, dims, size=tuple(2 * side for side in SIZES[dims]))
    axes = {0: "batch"} | {axis: f"side{axis}" for axis in range(2, 2 + dims)}
    shapes = tuple(
        dict.fromkeys((axis for axis in axes if axis < x.dim()), torch.export.Dim.DYNAMIC)
        for x in given
    )
    torch.onnx.export(
        layer,
        tuple(given),
        tmp_path / "layer.onnx",
        dynamo=True,
        dynamic_shapes=shapes if dynamic else None,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx")
    cases = [given]
    if dynamic:
        cases.append(inputs(name, dims, 3, tuple(2 * side + 4 for side in SIZES[dims])))
    for case in cases:
        names = [node.name for node in session.get_inputs()]
        fed = {name: x.numpy() for name, x in zip(names, case, strict=True)}
        (found,) = session.run(None, fed)
        np.testing.assert_allclose(found, layer(*case).detach().numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "dims"),
    [(name, dims) for dims in (2, 3) for name in (MODULES if dims == 2 else LAYERS)],
)
@pytest.mark.filterwarnings("ignore")  # of the exporter, and of torch.jit.trace within it
def test_onnx_of_the_exporter_that_traces(name: str, dims: int, tmp_path: Path) -> None:
    layer = make(name, dims).eval()
    given = inputs(name, dims, size=tuple(2 * side for side in SIZES[dims]))
    names = ["input", "beside"][: len(given)]
    torch.onnx.export(
        layer,
        tuple(given),
        tmp_path / "layer.onnx",
        dynamo=False,
        input_names=names,
        dynamic_axes={
            name: {axis: f"{name}{axis}" for axis in (0, *range(2, x.dim()))}
            for name, x in zip(names, given, strict=True)
        },
    )
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx")
    for size in ((2 * side for side in SIZES[dims]), (1,) * dims, (20, 9, 14)[:dims]):
        case = inputs(name, dims, 3, tuple(size))
        (found,) = session.run(None, {n: x.numpy() for n, x in zip(names, case, strict=True)})
        np.testing.assert_allclose(found, layer(*case).detach().numpy(), rtol=1e-4, atol=1e-4)


CLASSIFIER = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(3, 1))
SINGLE = {
    "AttributeEncoder": (AttributeEncoder(5, 3, (4, 4)), (2, 5)),
    "GatedSegmenter": (GatedSegmenter(CLASSIFIER, nn.Conv2d(3, 2, 1)), (4, 3, 8, 9)),
}


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_onnx_of_the_others(name: str, dynamo: bool, tmp_path: Path) -> None:
    module, shape = SINGLE[name]
    module, x = module.eval(), torch.randn(shape)
    torch.onnx.export(module, (x,), tmp_path / "module.onnx", dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "module.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(found, module(x).detach().numpy(), rtol=1e-4, atol=1e-4)
