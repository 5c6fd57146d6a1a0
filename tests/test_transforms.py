"""torch.func and autocast over every loss, function and layer: never a wrong number."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, jvp, vmap

from gliomaseg_layers import CompoundLoss
from gliomaseg_layers.functional import (
    box_sum,
    density_map,
    dice_loss,
    outlier_weight,
    remove_outlier_regions,
    scnp,
)
from tests.support.cases import (
    BF16,
    DENSITY,
    F16,
    F32,
    F64,
    SMALL,
    Formula,
    case,
    every_formula,
    every_mode,
    random,
)
from tests.support.module_cases import LAYERS, every_dims, inputs, make
from tests.support.steps import LOSSES
from tests.support.tolerances import TOLERANCES

# torch's own, where it first differentiates forward.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script")
close = partial(torch.testing.assert_close, **TOLERANCES[F64])


def by_hand(function: Callable[..., Tensor], *leaves: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients by autograd."""
    leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
    return torch.autograd.grad(function(*leaves), leaves)


def check_transforms(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Compare what torch.func makes of a scalar function of ``x[i]`` with autograd, one by one."""
    slopes = torch.stack([by_hand(function, one)[0] for one in x])
    close(vmap(function)(x), torch.stack([function(one) for one in x]))
    close(grad(function)(x[0]), slopes[0])
    close(vmap(grad(function))(x), slopes)
    close(jacrev(function)(x[0]), slopes[0])
    tangent = random(x[0].shape, 5)
    close(jvp(function, (x[0],), (tangent,))[1], (slopes[0] * tangent).sum())
    expected = torch.autograd.functional.hessian(function, x[0])
    close(jacrev(jacrev(function))(x[0]), expected)


@every_mode
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str, mode: str, channels: int) -> None:
    x, target = case((4, 5), mode, channels)
    loss = LOSSES[name](mode=mode)
    check_transforms(lambda one: loss(one, target[:1]), x[:, None])


@every_mode
@every_formula
def test_losses_of_probabilities(formula: Formula, mode: str, channels: int) -> None:
    x, target = case((4, 5), mode, channels, False)
    loss = CompoundLoss(formula.module(mode, from_logits=False, **formula.small))
    check_transforms(lambda one: loss(one, target[:1]), x[:, None])


@every_mode
def test_losses_of_many_targets_and_masks(mode: str, channels: int) -> None:
    x, target = (given[:, None] for given in case((4, 5), mode, channels, batch=3))
    mask = random((3, 1, 4, 5)) > 0.2
    for name, make_loss in LOSSES.items():
        loss = make_loss(mode=mode)
        found = vmap(lambda *given, loss=loss: loss(*given[:2], mask=given[2]))(x, target, mask)
        alone = [loss(*given[:2], mask=given[2]) for given in zip(x, target, mask, strict=True)]
        close(found, torch.stack(alone), msg=name)


@every_mode
def test_functions(mode: str, channels: int) -> None:
    x, target = case((4, 5), mode, channels, False)
    x = x[:, None]
    for function in (
        box_sum_of_squares,
        partial(density_map, mode=mode, **DENSITY.small),
        lambda one: scnp(one, target[:1], mode=mode, from_logits=False).square(),
    ):
        check_transforms(lambda one, function=function: function(one).sum(), x)
    for function in (outlier_weight, remove_outlier_regions):
        of = partial(function, mode=mode, **SMALL)
        assert torch.equal(vmap(of)(x), torch.stack([of(one) for one in x]))


def box_sum_of_squares(x: Tensor) -> Tensor:
    return box_sum(x, 3).square()


@every_dims
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, dims: int) -> None:
    layer = make(name, dims).double().eval()
    first, *others = (x.double() for x in inputs(name, dims, size=(3, 4, 2)[:dims]))
    weights = dict(layer.named_parameters())

    def of_input(one: Tensor) -> Tensor:
        given = [x[:1] for x in others]
        return functional_call(layer, weights, (one[None], *given)).square().sum()

    close(vmap(of_input)(first), torch.stack([of_input(one) for one in first]))
    slopes = torch.stack([by_hand(of_input, one)[0] for one in first])
    close(vmap(grad(of_input))(first), slopes)
    close(jacrev(of_input)(first[0]), slopes[0])
    tangent = random(first[0].shape, 5)
    close(jvp(of_input, (first[0],), (tangent,))[1], (slopes[0] * tangent).sum())

    def of_weights(*values: Tensor) -> Tensor:
        named = dict(zip(weights, values, strict=True))
        return functional_call(layer, named, (first, *others)).square().sum()

    every = tuple(range(len(weights)))
    close(
        grad(of_weights, argnums=every)(*weights.values()), by_hand(of_weights, *weights.values())
    )


def test_forward_mode_outside_of_transforms_is_right_or_refused() -> None:
    x, target = case((4, 5), "binary", 1)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, random(x.shape))
        for refused in (
            lambda: LOSSES["density"]()(dual, target),
            lambda: box_sum(dual, 3),
        ):
            with pytest.raises(NotImplementedError, match="jvp"):
                refused()
        loss = LOSSES["outlier"]()
        tangent = torch.autograd.forward_ad.unpack_dual(loss(dual, target)).tangent
        (slope,) = by_hand(lambda x: loss(x, target), x)
        close(tangent, (slope * random(x.shape)).sum())


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "box_sum": lambda x: box_sum(x, 3),
    "density_map": lambda x: density_map(x, **DENSITY.small),
    "outlier_weight": lambda x: outlier_weight(x, **SMALL),
    "remove_outlier_regions": lambda x: remove_outlier_regions(x, **SMALL),
    "dice_loss": lambda x: dice_loss(x, x > 0.5, from_logits=False),
    "scnp": lambda x: scnp(x, x > 0.5, from_logits=False),
}


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_autocast_changes_no_bit_of_a_function(name: str, dtype: torch.dtype) -> None:
    x = case((9, 11), "binary", 1, False)[0].to(dtype)
    expected = FUNCTIONS[name](x)
    for inside in (BF16, F16):
        with torch.autocast("cpu", inside):
            assert torch.equal(FUNCTIONS[name](x), expected)
