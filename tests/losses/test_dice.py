import copy
import pickle

import pytest
import torch

from gliomaseg_layers import DiceLoss
from gliomaseg_layers.functional import dice_loss
from tests.support.cases import case, random

SETTINGS = {
    "mode": "multilabel",
    "smooth": 3.0,
    "from_logits": False,
    "batch": True,
    "ignore_index": 255,
    "reduction": "none",
}
ALONE = [{}, *({name: value} for name, value in SETTINGS.items()), SETTINGS]


@pytest.mark.parametrize("settings", ALONE, ids=lambda s: "-".join(s) or "none")
def test_is_the_function(settings):
    mode = {"mode": "multilabel"}
    x, target = case((13, 17), "multilabel", 3, from_logits=False)
    target = target.masked_fill(random(target.shape) > 0.9, 255)
    loss, mask = DiceLoss(**{**mode, **settings}), random((2, 13, 17)) > 0.2
    expected = dice_loss(x, target, **{**mode, **settings})
    assert torch.equal(loss(x, target), expected)
    if set(settings) - {"mode"}:  # which shows that the setting was passed on
        assert not torch.equal(expected, dice_loss(x, target, **mode))
    expected = dice_loss(x, target, mask=mask, **{**mode, **settings})
    assert torch.equal(loss(x, target, mask), expected)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), copy.copy(loss).half()):
        assert torch.equal(twin(x, target, mask=mask), expected)


@pytest.mark.parametrize("mode", ["binary", "multilabel", "multiclass"])
def test_defaults_are_the_functions(mode):
    x, target = case((13, 17), mode, 1 if mode == "binary" else 3)
    assert torch.equal(DiceLoss(mode=mode)(x, target), dice_loss(x, target, mode=mode))


def test_state_and_repr():
    loss = DiceLoss(**SETTINGS)
    assert loss.state_dict() == {}
    loss.load_state_dict({}, strict=True)
    for name, value in SETTINGS.items():
        assert f"{name}={value!r}" in repr(loss)
