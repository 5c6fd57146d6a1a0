import copy
import pickle

import pytest
import torch

from gliomaseg_layers import DiceLoss
from gliomaseg_layers.functional import dice_loss
from tests.support.cases import case, every_mode, random

SETTINGS = {
    "smooth": 3.0,
    "batch": True,
    "class_weights": torch.tensor([1.0, 2.0, 0.5]),
    "soft_label": True,
    "from_logits": False,
    "ignore_index": 255,
    "reduction": "none",
}
BACKGROUND = {"mode": "multiclass", "include_background": False}
CHANGES = [{}, *({name: value} for name, value in SETTINGS.items()), SETTINGS, BACKGROUND]


@pytest.mark.parametrize("settings", CHANGES, ids=lambda s: "-".join(s) or "none")
def test_is_the_function(settings):
    mode = {"mode": settings.get("mode", "multilabel")}
    x, target = case((13, 17), mode["mode"], 3, from_logits=False)
    if mode["mode"] == "multilabel":
        ignored = random(target.shape) > 0.9
        target = (0.8 * target).masked_fill(ignored, 255)  # soft labels
    loss, mask = DiceLoss(**{**mode, **settings}), random((2, 13, 17)) > 0.2
    expected = dice_loss(x, target, **{**mode, **settings})
    assert torch.equal(loss(x, target), expected)
    if set(settings) - {"mode"}:  # which shows that the setting was passed on
        assert not torch.equal(expected, dice_loss(x, target, **mode))
    expected = dice_loss(x, target, mask=mask, **{**mode, **settings})
    assert torch.equal(loss(x, target, mask), expected)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), copy.copy(loss).half()):
        assert torch.equal(twin(x, target, mask=mask), expected)


@every_mode
def test_defaults_are_the_functions(mode, channels):
    x, target = case((13, 17), mode, channels)
    assert torch.equal(DiceLoss(mode)(x, target), dice_loss(x, target, mode=mode))
    assert DiceLoss().mode == "binary"


def test_state_and_repr():
    loss = DiceLoss("multilabel", **SETTINGS)
    assert loss.state_dict() == {}
    loss.load_state_dict({}, strict=True)
    for name, value in {"mode": "multilabel", **SETTINGS}.items():
        assert f"{name}={value!r}" in repr(loss)
    assert "include_background=False" in repr(DiceLoss(**BACKGROUND))
    assert loss.to("meta").class_weights.is_meta
