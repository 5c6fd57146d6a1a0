"""What each layer computes, against its formula written out."""

import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gliomaseg_layers import (
    ASPP,
    AttributeEncoder,
    ChannelAttention,
    DepthwiseSeparableConv,
    MultiScaleConv,
    MultiScaleFusion,
    SpatialAttention,
    SpatialPyramidPooling,
    UNet,
)
from tests.support.module_cases import literal_fusion

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.mark.parametrize("pool", [("avg",), ("max",), ("avg", "max")])
@pytest.mark.parametrize("size", [(5, 6), (3, 4, 5)])
def test_channel_attention(pool: tuple[str, ...], size: tuple[int, ...]) -> None:
    layer = ChannelAttention(6, 3, pool, spatial_dims=len(size))
    x = torch.randn(2, 6, *size)
    first, _, second = layer.bottleneck
    logits = torch.zeros(2, 6)
    for name in pool:
        values = x.flatten(2).mean(2) if name == "avg" else x.flatten(2).max(2).values
        hidden = F.relu(values @ first.weight.flatten(1).T + first.bias)
        logits += hidden @ second.weight.flatten(1).T + second.bias
    logits = logits.view(2, 6, *(1 for _ in size))
    for found in (layer.logits(x), layer(x, return_logits=True)):
        torch.testing.assert_close(found, logits, **CLOSE)
    torch.testing.assert_close(layer(x), x * torch.sigmoid(logits), **CLOSE)


@pytest.mark.parametrize(
    ("module", "defaults"),
    [
        (ChannelAttention, {"reduction": 16, "pool": ("avg",)}),
        (SpatialAttention, {"kernel_size": 7}),
        (MultiScaleFusion, {"reduction": 16, "kernel_size": 7}),
        (AttributeEncoder, {"out_channels": 3, "out_size": (16, 16), "hidden": (128,)}),
        (ASPP, {"out_channels": 256, "rates": (6, 12, 18), "separable": False, "dropout": 0.5}),
        (SpatialPyramidPooling, {"bins": (1, 2, 3, 6)}),
        (DepthwiseSeparableConv, {"kernel_size": 3, "stride": 1, "dilation": 1}),
        (MultiScaleConv, {"kernel_sizes": (3, 5, 7), "separable": True}),
        (UNet, {"widths": (64, 128, 256, 512, 1024)}),
    ],
)
def test_defaults_are_the_papers(module: type[nn.Module], defaults: dict[str, object]) -> None:
    parameters = inspect.signature(module).parameters
    assert {name: parameters[name].default for name in defaults} == defaults


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (2, 1), (3, 1), (6, 3), (7, 1), (20, 10), (64, 32), (96, 32)]
)
def test_a_group_has_two_channels_at_least(channels: int, groups: int) -> None:
    branch = ASPP(4, channels, (2,), norm="group")
    assert {m.num_groups for m in branch.modules() if isinstance(m, nn.GroupNorm)} == {groups}


def test_the_pooled_branch_is_one_instance() -> None:
    branches = ASPP(4, 6, (2,), norm="instance").modules()
    groups = [m.num_groups for m in branches if isinstance(m, nn.GroupNorm)]
    assert sorted(groups) == [1, 6, 6, 6]  # 1 x 1, one rate and the projection are others


def test_a_bottleneck_has_a_channel_at_least() -> None:
    layer = ChannelAttention(3, reduction=16)
    assert layer.bottleneck[0].out_channels == 1
    assert layer(torch.randn(1, 3, 4, 4)).shape == (1, 3, 4, 4)


@pytest.mark.parametrize("size", [(5, 6), (3, 4, 5)])
def test_spatial_attention(size: tuple[int, ...]) -> None:
    layer = SpatialAttention(3, spatial_dims=len(size))
    x = torch.randn(2, 4, *size)
    both = torch.stack([x.mean(1), x.amax(1)], 1)
    convolve = F.conv2d if len(size) == 2 else F.conv3d
    logits = convolve(both, layer.convolution.weight, layer.convolution.bias, padding=1)
    for found in (layer.logits(x), layer(x, return_logits=True), layer(both, pooled=True)):
        torch.testing.assert_close(found, logits, **CLOSE)
    with pytest.raises(ValueError, match=r"`input` must be \(N, 2, "):
        layer(x, pooled=True)
    torch.testing.assert_close(layer(x), x * torch.sigmoid(logits), **CLOSE)


def test_fusion_starts_as_the_mean_and_a_choice() -> None:
    layer = MultiScaleFusion(4)
    assert {values.shape for values in (layer.shallow_weight, layer.deep_weight, layer.bias)} == {
        (1,)
    }
    assert layer.shallow_weight == layer.deep_weight == 0.5
    assert layer.bias == 0
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(layer(x, x), 2 * x)  # whatever g is


def test_fusion_projects_and_resizes_the_deep_map() -> None:
    layer = MultiScaleFusion(4, 7)
    x, y = torch.randn(2, 4, 9, 12), torch.randn(2, 7, 5, 6)
    grown = F.interpolate(y, (9, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(
        layer(x, y), literal_fusion(layer, x, layer.projection(grown)), **CLOSE
    )
    assert isinstance(MultiScaleFusion(4, 4).projection, nn.Identity)
    with pytest.raises(ValueError, match="`deep` must have the batch size of `shallow`, 2, got 1"):
        layer(x, y[:1])
    with pytest.raises(ValueError, match=r"`deep` must be \(N, 7, H, W\)"):
        layer(x, x)


@pytest.mark.parametrize("separable", [False, True])
def test_aspp(separable: bool) -> None:
    layer = ASPP(4, 6, (1, 3), separable=separable).eval()
    randomise(layer)
    x = torch.randn(2, 4, 7, 8)

    def after(values: torch.Tensor, norm: nn.Module) -> torch.Tensor:
        spread = (norm.running_var + norm.eps).sqrt()
        scaled = (values - norm.running_mean[:, None, None]) / spread[:, None, None]
        return F.relu(scaled * norm.weight[:, None, None] + norm.bias[:, None, None])

    maps = [after(F.conv2d(x, layer.convs[0][0].weight), layer.convs[0][1])]
    for rate, (convolution, norm, _) in zip((1, 3), list(layer.convs)[1:3], strict=True):
        if separable:
            deep = F.conv2d(x, convolution[0].weight, padding=rate, dilation=rate, groups=4)
            found = F.conv2d(deep, convolution[1].weight)
        else:
            found = F.conv2d(x, convolution.weight, padding=rate, dilation=rate)
        maps.append(after(found, norm))
    pooled = F.conv2d(x.mean((2, 3), keepdim=True), layer.convs[3][1].weight)
    maps.append(after(pooled, layer.convs[3][2]).expand(2, 6, 7, 8))
    expected = after(F.conv2d(torch.cat(maps, 1), layer.project[0].weight), layer.project[1])
    torch.testing.assert_close(layer(x), expected, **CLOSE)


def randomise(layer: nn.Module) -> None:
    with torch.no_grad():
        for part in layer.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
                part.weight.uniform_(0.5, 2)
                part.bias.normal_()


def test_aspp_drops_out_in_training_alone() -> None:
    layer = ASPP(4, 64, (2,), dropout=0.75)
    x = torch.randn(4, 4, 16, 16)
    zeros = [float((layer.train(training)(x) == 0).float().mean()) for training in (False, True)]
    assert zeros[1] == pytest.approx(zeros[0] + 0.75 * (1 - zeros[0]), abs=0.1)


def test_a_single_value_per_channel_takes_the_running_statistics() -> None:
    layer = ASPP(4, 6, (2,))
    pooled_norm = layer.convs[2][2]
    before = pooled_norm.running_mean.clone()
    layer(torch.randn(1, 4, 5, 5))
    assert torch.equal(pooled_norm.running_mean, before)
    layer(torch.randn(2, 4, 5, 5))
    assert not torch.equal(pooled_norm.running_mean, before)


@pytest.mark.parametrize("size", [(12, 18), (7, 5), (2, 2), (1, 9), (4, 5, 6)])
def test_pyramid_cells_are_adaptive_pooling(size: tuple[int, ...]) -> None:
    layer = SpatialPyramidPooling(4, 3, (1, 2, 6), spatial_dims=len(size)).eval()
    x = torch.randn(2, 4, *size)
    pool = F.adaptive_avg_pool2d if len(size) == 2 else F.adaptive_avg_pool3d
    mode = "bilinear" if len(size) == 2 else "trilinear"
    maps = [x]
    for count, branch in zip((1, 2, 6), layer.branches, strict=True):
        cells = branch(pool(x, count))
        maps.append(F.interpolate(cells, size, mode=mode, align_corners=False))
    torch.testing.assert_close(layer(x), layer.project(torch.cat(maps, 1)), **CLOSE)


@pytest.mark.parametrize(("kernel_size", "stride", "dilation"), [(3, 1, 1), (5, 2, 1), (3, 1, 4)])
def test_depthwise_separable(kernel_size: int, stride: int, dilation: int) -> None:
    """Equal to the plain convolution whose kernels are the products of both."""
    layer = DepthwiseSeparableConv(4, 6, kernel_size, stride, dilation)
    x = torch.randn(2, 4, 11, 13)
    kernel = layer[1].weight * layer[0].weight.transpose(0, 1)
    padding = dilation * (kernel_size // 2)
    expected = F.conv2d(x, kernel, layer[1].bias, stride, padding, dilation)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [4, 6])
def test_multi_scale_conv(channels: int) -> None:
    layer = MultiScaleConv(4, channels, (3, 5)).eval()
    x = torch.randn(2, 4, 10, 11)
    scales = torch.cat([branch(x) for branch in layer.branches], 1)
    mixed = layer.mix(scales * torch.sigmoid(layer.channel_attention(scales, return_logits=True)))
    looked = mixed * torch.sigmoid(layer.spatial_attention(mixed, return_logits=True))
    torch.testing.assert_close(layer(x), looked + layer.shortcut(x), **CLOSE)
    assert isinstance(layer.shortcut, nn.Identity) == (channels == 4)
    assert [branch[0][0].kernel_size for branch in layer.branches] == [(3, 3), (5, 5)]


def test_attribute_encoder() -> None:
    layer = AttributeEncoder(5, 3, (4, 6), hidden=(8, 7)).eval()
    a = torch.randn(2, 5)
    hidden = F.relu(layer.mlp[3](F.relu(layer.mlp[0](a))))
    expected = layer.mlp[6](hidden).view(2, 3, 4, 6)
    torch.testing.assert_close(layer(a), expected, **CLOSE)
    grown = F.interpolate(expected, (8, 5), mode="bilinear", align_corners=False)
    torch.testing.assert_close(layer(a, size=(8, 5)), grown, **CLOSE)
    assert AttributeEncoder(5, 2, (2, 3, 4), hidden=())(a).shape == (2, 2, 2, 3, 4)
    assert AttributeEncoder(5, 2, (2, 3, 4))(a, (4, 4, 4)).shape == (2, 2, 4, 4, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda e: e(torch.rand(2, 4)),
            ValueError,
            r"`attributes` must be \(N, 5\), got shape \(2, 4\)",
        ),
        (lambda e: e(torch.rand(5)), ValueError, r"`attributes` must be \(N, 5\)"),
        (lambda e: e(torch.rand(2, 5, 5)), ValueError, r"`attributes` must be \(N, 5\)"),
        (
            lambda e: e(torch.ones(2, 5).long()),
            TypeError,
            "`attributes` must have a floating dtype",
        ),
        (lambda e: e([1.0] * 5), TypeError, "`attributes` must be a torch.Tensor"),
        (lambda e: e(torch.rand(2, 5), (4,)), ValueError, "`size` must have 2 entries"),
    ],
)
def test_attribute_encoder_errors(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(AttributeEncoder(5))
