import copy
import pickle

import pytest
import torch

from gliomaseg_layers import OutlierRegionLoss
from gliomaseg_layers.functional import outlier_region_loss
from tests.support.cases import F64, SMALL, case, every_formulation, every_mode, random

SETTINGS = {
    "mode": "multilabel",
    "formulation": "penalty",
    "inner": (3, 5),
    "outer": 9,
    "smooth": 0.25,
    "threshold": 6.0,
    "strength": 1.5,
    "levels": (0.2, 0.6),
    "share": 0.01,
    "from_logits": False,
    "pos_weight": 3.0,
    "class_weights": torch.tensor([1.0, 2.0, 0.5]),
    "ignore_index": 255,
    "reduction": "sum",
    "backend": "eager",
}


MATTER = set(SETTINGS) - {"mode", "smooth", "backend", "strength"}
ALONE = [({}, {name: SETTINGS[name]}) for name in sorted(MATTER)]
STRENGTH = [({"formulation": "suppress"}, {"strength": SETTINGS["strength"]})]
PAPER = [({"formulation": "paper"}, {name: SETTINGS[name]}) for name in ("smooth", "threshold")]


@pytest.mark.parametrize(("base", "change"), [*ALONE, *STRENGTH, *PAPER, ({}, SETTINGS)])
def test_is_the_function(base, change):
    base = {"mode": "multilabel", "from_logits": "from_logits" in change, **SMALL, **base}
    settings = base | change
    x, target = case((13, 17), "multilabel", 3, from_logits=False)
    target = target.masked_fill(random(target.shape) > 0.9, 255)
    mask, loss = random((2, 13, 17)) > 0.2, OutlierRegionLoss(**settings)
    expected = outlier_region_loss(x, target, **settings)
    assert torch.equal(loss(x, target), expected)
    # Which shows that the setting was passed on:
    assert not torch.equal(expected, outlier_region_loss(x, target, **base))
    expected = outlier_region_loss(x, target, mask=mask, **settings)
    assert torch.equal(loss(x, target, mask), expected)
    assert torch.equal(loss(x, target, mask=mask), expected)


@every_formulation
@every_mode
def test_defaults_are_the_functions(mode, channels, formulation):
    x, target = case((37, 41), mode, channels)
    loss = OutlierRegionLoss(mode=mode, formulation=formulation)
    expected = outlier_region_loss(x, target, mode=mode, formulation=formulation)
    assert torch.equal(loss(x, target), expected)


def copies(loss):
    yield copy.deepcopy(loss)
    yield pickle.loads(pickle.dumps(loss))


def test_copies_and_state():
    x, target = case((13, 17), "multilabel", 3, from_logits=False)
    loss = OutlierRegionLoss(**SETTINGS)
    for twin in copies(loss):
        assert torch.equal(twin(x, target), loss(x, target))
        assert repr(twin) == repr(loss)
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []
    loss.load_state_dict(OutlierRegionLoss().state_dict(), strict=True)


def test_weights_move_with_the_module():
    loss = OutlierRegionLoss(
        mode="multilabel", pos_weight=torch.ones(3), class_weights=torch.ones(3)
    )
    assert loss.to("meta").pos_weight.is_meta
    assert loss.class_weights.is_meta


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double", "float"])
def test_casting_the_module_keeps_the_loss(cast):
    x, target = case((13, 17), "binary", 1)
    weights = {"pos_weight": 1.5, "class_weights": torch.tensor(0.75)}
    loss = OutlierRegionLoss(**weights)
    expected = loss(x, target)
    moved = getattr(loss, cast)()
    assert torch.equal(moved(x, target), expected)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert moved(x.to(dtype), target).dtype == torch.float32


def test_repr_mentions_the_settings():
    shown = repr(OutlierRegionLoss(**SETTINGS))
    for name, value in SETTINGS.items():
        assert f"{name}={value!r}" in shown
    assert "formulation='balanced'" in repr(OutlierRegionLoss())


@every_formulation
def test_training_step_under_autocast(formulation):
    torch.manual_seed(0)
    net = torch.nn.Conv2d(2, 1, 3, padding=1)
    loss = OutlierRegionLoss(formulation=formulation, **SMALL)
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
