"""What the tests of the losses look at, and how they compare it with the references."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gliomaseg_layers import DensityLoss, OutlierRegionLoss
from gliomaseg_layers.functional import density_loss, outlier_region_loss
from tests.support import references
from tests.support.references import Array, array
from tests.support.tolerances import TOLERANCES

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
HALVES = [BF16, F16]
MODES = [("binary", 1), ("multilabel", 3), ("multiclass", 2), ("multiclass", 4)]
SMALL: dict[str, Any] = {"window": 7, "max_noise_size": 9}


class Formula(NamedTuple):
    """A loss with a cross-entropy in it, in all its forms, and settings for it."""

    function: Callable[..., Tensor]
    reference: Callable[..., tuple[Array, Array]]
    module: type[OutlierRegionLoss] | type[DensityLoss]
    own: dict[str, Any]  # what makes it another loss than its default
    small: dict[str, Any]  # with windows for small images


OUTLIER = (outlier_region_loss, references.outlier_region_loss, OutlierRegionLoss)
FORMULAS = {
    "outlier": Formula(*OUTLIER, {}, SMALL),
    "outlier without a share": Formula(
        *OUTLIER, {"share": None, "strength": 4.0}, {"share": None, "strength": 4.0, **SMALL}
    ),
    "density": Formula(
        density_loss, references.density_loss, DensityLoss, {}, {"inner": 3, "outer": 7}
    ),
}
DENSITY = FORMULAS["density"]

every_formula = pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
every_mode = pytest.mark.parametrize(("mode", "channels"), MODES)
either_input = pytest.mark.parametrize("from_logits", [True, False], ids=["logits", "probs"])


def scene(shape: tuple[int, ...], mode: str = "binary", seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return float64 logits ``shape`` of one large region and small islands, and a target.

    Predictions are confident enough for the paper's mask and noisy enough to be everywhere unlike.
    The target, in the mode's first form, is the large region with a twentieth of its pixels wrong.
    """
    rng = np.random.default_rng(seed)
    multiclass, (n, c, *spatial) = mode == "multiclass", shape
    classes = c if multiclass else 2
    truth = np.zeros((n, 1 if multiclass else c, *spatial), int)
    truth[(..., *(slice(size // 2, None) for size in spatial))] = 1
    seen = truth.copy()
    for image in seen.reshape(-1, *spatial) if seen.size else ():
        for _ in range(2 + image.size // 60):
            corner = [rng.integers(0, size) for size in spatial]
            box = tuple(slice(start, start + rng.integers(1, 4)) for start in corner)
            image[box] = rng.integers(0, classes)
    wrong = rng.random(truth.shape) < 0.05
    target = np.where(wrong, rng.integers(0, classes, truth.shape), truth)
    if multiclass:
        seen, target = np.concatenate([seen == k for k in range(c)], 1), target[:, 0]
    logits = 6.0 * seen - 3.0 + 0.5 * rng.standard_normal(shape)
    device = torch.get_default_device()
    return torch.from_numpy(logits).to(device), torch.from_numpy(target).to(device)


def case(
    spatial: tuple[int, ...],
    mode: str,
    channels: int,
    from_logits: bool = True,
    *,
    batch: int = 2,
    seed: int = 0,
    sharpness: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return a scene's logits or probabilities, and its target."""
    x, target = scene((batch, channels, *spatial), mode, seed)
    x = x * sharpness
    if not from_logits:
        x = x.softmax(1) if mode == "multiclass" else x.sigmoid()
    return x, target


def random(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Return float64 numbers in [0, 1), the same in every run."""
    numbers = torch.rand(
        shape, generator=torch.Generator().manual_seed(seed), dtype=F64, device="cpu"
    )
    return numbers.to(torch.get_default_device())


def masks(x: Tensor, mode: str) -> list[Tensor]:
    """Return a mask of every accepted shape."""
    n, c, *spatial = x.shape
    shapes = [(n, *spatial), (n, 1, *spatial)]
    if mode != "multiclass":
        shapes.append((n, c, *spatial))
    return [random(shape) > 0.2 for shape in shapes]


def as_read(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings as a file gives them: their strings equal the library's, and are others."""
    return {
        name: json.loads(json.dumps(value)) if isinstance(value, str) else value
        for name, value in settings.items()
    }


def check(
    function: Callable[..., Tensor],
    reference: Callable[..., tuple[Array, ...]],
    x: Tensor,
    *args: Tensor,
    **settings: Any,
) -> tuple[Tensor, Tensor]:
    """Compare value and gradient with the reference's, and return both.

    The upstream gradient is neither 1 nor constant nor laid out as the value is.
    """
    x = x.detach().requires_grad_()
    value = function(x, *args, **as_read(settings))
    assert value.dtype == (F64 if x.dtype == F64 else F32)
    upstream = (7 * random(value.shape[::-1], seed=1) - 2).to(value)
    upstream = upstream.permute([*reversed(range(value.dim()))])
    (grad,) = torch.autograd.grad(value, x, upstream)
    assert grad.dtype == x.dtype
    expected = reference(x, *args, upstream=upstream, **settings)
    np.testing.assert_allclose(array(value), expected[0], **TOLERANCES[value.dtype])
    np.testing.assert_allclose(array(grad), expected[1], **TOLERANCES[x.dtype])
    return value.detach(), grad


def check_infinite_logits(formula: Formula, x: Tensor, target: Tensor, **settings: Any) -> None:
    """Look for torch's own cross-entropy of infinities, and for no trace in other images."""

    def run(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        leaf = logits.clone().requires_grad_()
        loss = formula.function(leaf, labels, reduction="sum", **settings)
        return loss, torch.autograd.grad(loss, leaf)[0]

    _, expected = run(x, target)
    for value in (torch.nan, torch.inf, -torch.inf):
        for label in (0, 1) if value == torch.inf else (0,):
            spoilt, labels = x.clone(), target.clone()
            spoilt[1, 0, 3, 4], labels[1, 0, 3, 4] = value, label
            loss, grad = run(spoilt, labels)
            plain = F.binary_cross_entropy_with_logits(spoilt, labels.float(), reduction="sum")
            assert not loss.isfinite()
            assert loss.isnan() == plain.isnan()
            assert loss.isnan() or loss == plain
            assert torch.equal(grad[[0, 2]], expected[[0, 2]])


def outside_of(valid: Array, x: Tensor) -> Tensor:
    """Return which entries of ``x`` a map of valid pixels leaves out."""
    outside = torch.from_numpy(~valid).to(x.device)
    return (outside if outside.dim() == x.dim() else outside.unsqueeze(1)).expand_as(x)


class NoHostSynchronisation(TorchDispatchMode):
    """Refuses what waits for a device: a value read by Python, or a shape made of values."""

    refused = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "is_nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name.removeprefix("aten::") not in self.refused, func
        return func(*args, **(kwargs or {}))
