import copy
import json
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gliomaseg_layers import CompoundLoss, OutlierRegionLoss, WeightRamp
from tests.support.cases import as_read

COSINE = [(1 - math.cos(math.pi * t / 4)) / 2 for t in range(5)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"total_steps": 4}, [0, 0.25, 0.5, 0.75, 1, 1, 1]),
        ({"total_steps": 6, "warmup_steps": 2}, [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]),
        ({"total_steps": 5, "warmup_steps": 2, "end": 3.0}, [0, 0, 0, 1, 2, 3, 3]),
        ({"total_steps": 4, "start": 1.0, "end": 3.0}, [1, 1.5, 2, 2.5, 3, 3]),
        ({"total_steps": 2, "start": 0.7, "end": 0.3}, [0.7, 0.5, 0.3, 0.3]),
        ({"total_steps": 1}, [0, 1, 1]),
        ({"total_steps": 4, "shape": "cosine"}, [*COSINE, 1]),
        ({"total_steps": 5, "warmup_steps": 1, "shape": "cosine"}, [0, *COSINE, 1]),
        ({"total_steps": 4, "shape": "cosine", "start": 2.0, "end": 3.0}, [2 + c for c in COSINE]),
        ({"total_steps": 4, "shape": "step"}, [0, 1, 1, 1, 1, 1]),
        ({"total_steps": 4, "shape": "step", "warmup_steps": 2, "end": 0.5}, [0, 0, 0, 0.5, 0.5]),
    ],
)
@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
def test_values(name, settings, expected):
    loss = CompoundLoss(alpha=7.0, beta=7.0, gamma=7.0)
    ramp = WeightRamp(loss, name, **as_read(settings))
    for value in expected:
        assert ramp.last_value == pytest.approx(value, abs=1e-12)
        assert float(getattr(loss, name)) == ramp.last_value
        others = {"alpha", "beta", "gamma"} - {name}
        assert all(getattr(loss, other) == 7 for other in others)
        ramp.step()


@pytest.mark.parametrize("shape", ["linear", "cosine", "step"])
def test_the_end_is_reached_exactly(shape):
    """Though 0.2 + (0.9 - 0.2) is not 0.9."""
    ramp = WeightRamp(CompoundLoss(), "beta", total_steps=3, start=0.2, end=0.9, shape=shape)
    for _ in range(3):
        ramp.step()
    assert ramp.last_value == 0.9


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
def test_a_ramp_may_pass_through_0(name):
    """Its term is computed still: only a 0 at construction switches it off."""
    loss = CompoundLoss()
    x = torch.linspace(-3, 3, 63).view(1, 1, 7, 9)
    WeightRamp(loss, name, total_steps=2)
    assert float(getattr(loss, name)) == 0
    _, terms = loss(x, x > 1, return_terms=True)
    assert all(term > 0 for term in terms.values())
    WeightRamp(loss, name, total_steps=2).step()
    assert float(getattr(loss, name)) == 0.5


def test_the_weight_reaches_the_loss():
    loss = CompoundLoss(alpha=0.0, beta=0.0, gamma=5.0)
    x, target = torch.full((1, 1, 9, 9), -3.0), torch.zeros(1, 1, 9, 9)
    x[..., 4, 4] = 3.0
    ramp, values = WeightRamp(loss, "gamma", total_steps=2, end=4.0), []
    for _ in range(3):
        values.append(loss(x, target).item())
        ramp.step()
    assert values[0] == 0
    assert values[1] > 0
    assert values[2] == pytest.approx(2 * values[1])


@pytest.mark.parametrize("cast", [lambda m: m.half(), lambda m: m.double(), lambda m: m.float()])
def test_steps_after_the_loss_was_cast(cast):
    loss = CompoundLoss()
    ramp = WeightRamp(loss, "gamma", total_steps=10)
    cast(loss)
    ramp.step()
    assert float(loss.gamma) == ramp.last_value == 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_step_between_forward_and_backward_changes_nothing(dtype):
    grads = []
    for between in (False, True):
        loss = CompoundLoss()
        ramp = WeightRamp(loss, "gamma", total_steps=2, start=1.0, end=9.0)
        x = torch.linspace(-3, 3, 63, dtype=dtype).view(1, 1, 7, 9).requires_grad_()
        value = loss(x, torch.zeros(1, 1, 7, 9))
        if between:
            ramp.step()
        grads.append(torch.autograd.grad(value, x)[0])
    assert torch.equal(*grads)


def test_state_round_trip():
    settings = {"total_steps": 10, "warmup_steps": 3, "shape": "cosine"}
    ramp = WeightRamp(CompoundLoss(), "beta", **settings)
    for _ in range(7):
        ramp.step()
    state = ramp.state_dict()
    again = json.loads(json.dumps(state))  # plain values
    assert again == state
    ramp.step()
    assert state == again  # a snapshot
    loss = CompoundLoss()
    resumed = WeightRamp(loss, "beta", **json.loads(json.dumps(settings)))
    assert float(loss.beta) == 0
    resumed.load_state_dict({**again, "of another version": 1})
    assert resumed.state_dict() == state
    assert float(loss.beta) == resumed.last_value == state["last_value"] > 0
    resumed.step()
    assert resumed.state_dict() == ramp.state_dict()
    assert float(loss.beta) == ramp.last_value


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda ramp: pickle.loads(pickle.dumps(ramp))])
def test_copies_ramp_their_own_loss(twin):
    ramp = WeightRamp(CompoundLoss(), "gamma", total_steps=4)
    other = twin(ramp)
    other.step()
    assert float(other.loss.gamma) == 0.25
    assert float(ramp.loss.gamma) == 0


STATE = {"name": "gamma", "last_step": 2, "last_value": 0.5}


@pytest.mark.parametrize(
    ("change", "error", "got"),
    [
        *(({name: None}, ValueError, name) for name in STATE),
        ({"name": "alpha"}, ValueError, "'alpha'"),
        ({"name": "weight"}, ValueError, "'weight'"),
        ({"last_step": -1}, ValueError, "-1"),
        ({"last_step": 1.5}, TypeError, "1.5"),
        ({"last_step": True}, TypeError, "True"),
        ({"last_step": "2"}, TypeError, "'2'"),
        ({"last_value": -0.5}, ValueError, "-0.5"),
        ({"last_value": math.nan}, ValueError, "nan"),
        ({"last_value": "1"}, TypeError, "'1'"),
        ({"last_value": 10**400}, ValueError, "0000"),
        ({"last_value": torch.tensor(1.0)}, TypeError, "tensor"),
        ({"name": ["gamma"]}, ValueError, "gamma"),
    ],
)
def test_bad_states(change, error, got):
    state = {name: value for name, value in {**STATE, **change}.items() if value is not None}
    loss = CompoundLoss()
    ramp = WeightRamp(loss, "gamma", total_steps=4)
    with pytest.raises(error, match=got):
        ramp.load_state_dict(state)
    assert ramp.state_dict() == {"name": "gamma", "last_step": 0, "last_value": 0.0}
    assert float(loss.gamma) == 0
    ramp.load_state_dict(STATE)
    assert float(loss.gamma) == 0.5


@pytest.mark.parametrize("state", [None, "name", 3, list(STATE), b"", [("name", "gamma")]])
def test_states_that_are_no_mappings(state):
    with pytest.raises(
        TypeError, match=f"`state_dict` must be a mapping, got {type(state).__name__}"
    ):
        WeightRamp(CompoundLoss(), "gamma", total_steps=4).load_state_dict(state)


SPECIAL = st.sampled_from([None, True, 10**400, -1, math.nan])
ANYTHING = st.recursive(
    st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)


@given(change=st.dictionaries(st.sampled_from([*STATE, "more"]), SPECIAL | ANYTHING, min_size=1))
def test_a_state_is_taken_whole_or_refused(change):
    state = STATE | change
    loss = CompoundLoss()
    ramp = WeightRamp(loss, "gamma", total_steps=4)
    ramp.step()
    before = ramp.state_dict()
    try:
        ramp.load_state_dict(state)
    except (TypeError, ValueError):
        assert ramp.state_dict() == before
    else:
        assert ramp.state_dict() == {name: state[name] for name in STATE}
    assert float(loss.gamma) == ramp.last_value
    ramp.step()  # and goes on


@pytest.mark.parametrize(
    ("change", "error", "name", "expected", "got"),
    [
        ({"name": "delta"}, ValueError, "name", "'gamma'", "'delta'"),
        ({"name": "outlier"}, ValueError, "name", "'gamma'", "'outlier'"),
        ({"loss": OutlierRegionLoss()}, TypeError, "loss", "CompoundLoss", "OutlierRegionLoss"),
        ({"loss": None}, TypeError, "loss", "CompoundLoss", "NoneType"),
        *(
            ({"loss": CompoundLoss(**{name: 0}), "name": name}, ValueError, "loss", said, got)
            for name in ("alpha", "beta", "gamma")
            for said, got in [("switches its term off", f"got {name}=0; the ramp")]
        ),
        ({"total_steps": 0}, ValueError, "total_steps", ">", "0"),
        ({"total_steps": -4}, ValueError, "total_steps", ">", "-4"),
        ({"total_steps": 2.5}, TypeError, "total_steps", "int", "2.5"),
        ({"warmup_steps": 4}, ValueError, "total_steps", "warmup_steps", "4"),
        ({"warmup_steps": -1}, ValueError, "warmup_steps", ">= 0", "-1"),
        ({"warmup_steps": 1.0}, TypeError, "warmup_steps", "int", "1.0"),
        ({"start": -1.0}, ValueError, "start", ">= 0", "-1.0"),
        ({"end": -1.0}, ValueError, "end", ">= 0", "-1.0"),
        ({"end": "1"}, TypeError, "end", "number", "'1'"),
        ({"shape": "exp"}, ValueError, "shape", "'cosine'", "'exp'"),
    ],
)
def test_bad_arguments(change, error, name, expected, got):
    given = {"loss": CompoundLoss(), "name": "gamma", "total_steps": 4, **change}
    with pytest.raises(error) as raised:
        WeightRamp(**given)
    message = str(raised.value)
    assert f"`{name}`" in message
    assert expected in message
    assert got in message
    if isinstance(given["loss"], CompoundLoss):  # nothing was written
        weights = {float(getattr(given["loss"], other)) for other in ("alpha", "beta", "gamma")}
        assert weights <= {0.0, 1.0}
