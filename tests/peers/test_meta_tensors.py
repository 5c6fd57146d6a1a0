"""MONAI's loaders give MetaTensors: all is as for tensors."""

import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor, nn

from gliomaseg_layers.functional import remove_outlier_regions
from gliomaseg_layers.metrics import LesionWiseScores, RegionCounts
from tests.support.cases import case
from tests.support.module_cases import MODULES, inputs, make
from tests.support.steps import LOSSES, STEPS, step


@pytest.mark.parametrize(("name", "mode", "channels"), STEPS)
def test_losses(name: str, mode: str, channels: int) -> None:
    x, target = case((9, 11), mode, channels)
    loss = LOSSES[name](mode=mode)
    expected = step(loss, x.float(), target)
    torch.testing.assert_close(step(loss, MetaTensor(x.float()), MetaTensor(target)), expected)


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    layer = make(name, 2).eval()
    given = inputs(name, 2)
    results = []
    for wrap in (torch.clone, MetaTensor):
        result = layer(*map(wrap, given))
        result.sum().backward()
        results.append([result, *gradients(layer)])
        layer.zero_grad()
    torch.testing.assert_close(*results, check_device=False)


def gradients(layer: nn.Module) -> list[Tensor]:
    return [weight.grad.clone() for weight in layer.parameters() if weight.grad is not None]


def test_metrics_and_predictions() -> None:
    x, target = case((25, 27), "multilabel", 2)
    for metric in (RegionCounts(), LesionWiseScores()):
        assert metric(MetaTensor(x), MetaTensor(target)) == metric(x, target)
    cleaned = remove_outlier_regions(MetaTensor(x.sigmoid()), mode="multilabel")
    torch.testing.assert_close(
        cleaned.as_tensor(), remove_outlier_regions(x.sigmoid(), mode="multilabel")
    )
