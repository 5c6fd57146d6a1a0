import copy
import pickle

import pytest
import torch

from gliomaseg_layers import DensityLoss, OutlierRegionLoss
from tests.support.cases import (
    DENSITY,
    F64,
    FORMULAS,
    case,
    every_formula,
    every_mode,
    random,
)

SHARED = {
    "from_logits": False,
    "pos_weight": 3.0,
    "class_weights": torch.tensor([1.0, 2.0, 0.5]),
    "ignore_index": 255,
    "reduction": "sum",
}
SETTINGS = {
    OutlierRegionLoss: {
        "window": (3, 5),
        "max_noise_size": 6.0,
        "levels": (0.2, 0.6),
        "strength": 1.5,
        "share": 0.01,
        **SHARED,
    },
    DensityLoss: {"inner": (3, 5), "outer": 9, "smooth": 0.25, "threshold": 6.0, **SHARED},
}
CHANGES = [
    (formula, change)
    for formula in (FORMULAS["outlier"], DENSITY)
    for settings in [SETTINGS[formula.module]]
    for change in (*({name: value} for name, value in settings.items()), settings)
]


@pytest.mark.parametrize(
    ("formula", "change"), CHANGES, ids=[f"{f.module.__name__}-{'-'.join(c)}" for f, c in CHANGES]
)
def test_is_the_function(formula, change):
    base = {"mode": "multilabel", "from_logits": "from_logits" in change, **formula.small}
    settings = base | change
    x, target = case((13, 17), "multilabel", 3, from_logits=False)
    target = target.masked_fill(random(target.shape) > 0.9, 255)
    mask, loss = random((2, 13, 17)) > 0.2, formula.module(**settings)
    expected = formula.function(x, target, **settings)
    assert torch.equal(loss(x, target), expected)
    # Which shows that the setting was passed on:
    assert not torch.equal(expected, formula.function(x, target, **base))
    expected = formula.function(x, target, mask=mask, **settings)
    assert torch.equal(loss(x, target, mask), expected)
    assert torch.equal(loss(x, target, mask=mask), expected)


@every_formula
@every_mode
def test_defaults_are_the_functions(mode, channels, formula):
    x, target = case((37, 41), mode, channels)
    expected = formula.function(x, target, mode=mode, **formula.own)
    assert torch.equal(formula.module(mode, **formula.own)(x, target), expected)
    if mode == "binary":
        assert torch.equal(formula.module(**formula.own)(x, target), expected)


@pytest.mark.parametrize("module", SETTINGS)
def test_copies_state_and_repr(module):
    x, target = case((13, 17), "multilabel", 3, from_logits=False)
    settings = {"mode": "multilabel", **SETTINGS[module]}
    loss = module(**settings)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(twin(x, target), loss(x, target))
        assert repr(twin) == repr(loss)
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []
    loss.load_state_dict(module().state_dict(), strict=True)
    for name, value in settings.items():
        assert f"{name}={value!r}" in repr(loss)
    assert "None" not in repr(module())


@pytest.mark.parametrize("module", SETTINGS)
def test_weights_move_with_the_module(module):
    loss = module("multilabel", pos_weight=torch.ones(3), class_weights=torch.ones(3))
    assert loss.to("meta").pos_weight.is_meta
    assert loss.class_weights.is_meta


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double", "float"])
def test_casting_the_module_keeps_the_loss(cast):
    """As Lightning's bf16-true does: no half holds these weights."""
    x, target = case((13, 17), "binary", 1)
    weights = {"pos_weight": torch.tensor(1e6), "class_weights": torch.tensor([0.1])}
    loss = OutlierRegionLoss(**weights)
    expected = loss(x, target)
    moved = getattr(loss, cast)()
    assert torch.equal(moved(x, target), expected)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert moved(x.to(dtype), target).dtype == torch.float32


@every_formula
def test_training_step_under_autocast(formula):
    torch.manual_seed(0)
    net = torch.nn.Conv2d(2, 1, 3, padding=1)
    loss = formula.module(**formula.small)
    optimiser = torch.optim.SGD(net.parameters(), 0.5)
    image, target = torch.randn(2, 2, 21, 23), torch.zeros(2, 1, 21, 23)
    target[..., 5:15, 5:15] = 1
    image[:, :1] += 2 * target
    values = []
    for _ in range(8):
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(image)
            value = loss(logits, target)
        assert logits.dtype == torch.bfloat16
        assert value.dtype == torch.float32
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
        assert all(p.grad.isfinite().all() for p in net.parameters())
    assert values[-1] < values[0]
    assert loss(net(image).to(F64), target).dtype == F64
