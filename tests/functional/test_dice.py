from functools import partial

import pytest
import torch

from gliomaseg_layers.functional import dice_loss
from tests.support import references
from tests.support.cases import (
    F32,
    F64,
    HALVES,
    case,
    check,
    either_input,
    every_mode,
    outside_of,
    random,
)
from tests.support.tolerances import TOLERANCES

check_loss = partial(check, dice_loss, references.dice_loss)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("batch", [False, True], ids=["samples", "pooled"])
@either_input
@every_mode
def test_matches_reference(mode, channels, from_logits, batch, reduction):
    settings = {"mode": mode, "from_logits": from_logits, "batch": batch, "reduction": reduction}
    for spatial, smooth in (((13, 17), 1.0), ((1, 1), 0.5), ((3, 5, 7), 1e-3)):
        x, target = case(spatial, mode, channels, from_logits)
        loss, _ = check_loss(x, target, smooth=smooth, **settings)
        none = (channels,) if batch else (2, channels)
        assert loss.shape == (none if reduction == "none" else ())


def extras(mode, channels):
    """Return settings that change the loss, one by one and together."""
    weights = {"class_weights": torch.arange(channels) + 0.5}
    settings = [weights, {"soft_label": True}]
    if mode == "multiclass":
        settings.append({"include_background": False})
    return [*settings, {name: value for setting in settings for name, value in setting.items()}]


def soft_target(mode, x):
    soft = random(x.shape, 7)
    return soft / soft.sum(1, keepdim=True) if mode == "multiclass" else soft


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("batch", [False, True], ids=["samples", "pooled"])
@either_input
@every_mode
def test_settings_match_reference(mode, channels, from_logits, batch, reduction):
    settings = {"mode": mode, "from_logits": from_logits, "batch": batch, "reduction": reduction}
    x, target = case((13, 17), mode, channels, from_logits)
    mask = random((2, 13, 17), 3) > 0.3
    mask[0] = False  # a sample without any pixel
    for extra in extras(mode, channels):
        for labels in (target, soft_target(mode, x)):
            loss, _ = check_loss(x, labels, **extra, **settings)
            check_loss(x, labels, mask=mask, **extra, **settings)
        kept = channels - (not extra.get("include_background", True))
        none = (kept,) if batch else (2, kept)
        assert loss.shape == (none if reduction == "none" else ())


@pytest.mark.parametrize("dtype", [F32, *HALVES])
@either_input
@every_mode
def test_smaller_dtypes(mode, channels, from_logits, dtype):
    x, target = case((13, 17), mode, channels, from_logits)
    settings = {"mode": mode, "from_logits": from_logits, "reduction": "sum"}
    got = check_loss(x.to(dtype), target, **settings)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = check_loss(x.to(dtype), target, **settings)
        check_loss(x, target, **settings)
    assert all(torch.equal(a, b) for a, b in zip(got, under_autocast, strict=True))


def test_values_by_hand():
    target = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
    probs = torch.tensor([[[[0.5, 1.0, 0.5, 0.0]]]])
    given = {"from_logits": False}
    assert dice_loss(probs, target, **given).item() == pytest.approx(
        1 - (2 * 1.5 + 1) / (2 + 2 + 1)
    )
    assert dice_loss(probs, target, smooth=3.0, **given).item() == pytest.approx(1 - 6 / 7)
    assert dice_loss(target, target, **given) == 0
    assert dice_loss(target * 0, target * 0, **given) == 0
    assert dice_loss(1 - target, target, **given).item() == pytest.approx(1 - 1 / 5)


@pytest.mark.parametrize("batch", [False, True], ids=["samples", "pooled"])
def test_weights_by_hand(batch):
    x, target = case((13, 17), "multiclass", 4)
    given = {"mode": "multiclass", "batch": batch}
    d = dice_loss(x, target, reduction="none", **given)
    w = torch.tensor([0.5, 0.0, 3.0, 2.0])
    settings = {"class_weights": w, **given}
    for first, more in ((0, {}), (1, {"include_background": False})):
        weighed = (w * d)[..., first:]
        entries = weighed.numel() / (4 - first)
        for reduction, expected in (
            ("none", weighed),
            ("sum", weighed.sum()),
            ("mean", weighed.sum() / (entries * w[first:].sum())),
        ):
            found = dice_loss(x, target, reduction=reduction, **settings, **more)
            torch.testing.assert_close(found, expected, **TOLERANCES[F64])
    mean = dice_loss(x, target, class_weights=7, **given)
    torch.testing.assert_close(mean, d.mean(), **TOLERANCES[F64])
    total = dice_loss(x, target, class_weights=7, reduction="sum", **given)
    torch.testing.assert_close(total, 7 * d.sum(), **TOLERANCES[F64])


@every_mode
def test_a_weight_of_nothing_is_a_loss_of_0(mode, channels):
    x, target = case((13, 17), mode, channels)
    x.requires_grad_()
    loss = dice_loss(x, target, mode=mode, class_weights=torch.zeros(channels))
    assert loss == 0
    assert (torch.autograd.grad(loss, x)[0] == 0).all()


def test_without_the_background_class_0_counts_nothing():
    x, target = case((13, 17), "multiclass", 3, from_logits=False)
    given = {"mode": "multiclass", "include_background": False, "from_logits": False}
    changed = x.clone()
    changed[:, 0] = random((2, 13, 17))
    assert dice_loss(x, target, **given) == dice_loss(changed, target, **given)
    (grad,) = torch.autograd.grad(dice_loss(x.requires_grad_(), target, **given), x)
    assert (grad[:, 0] == 0).all()
    assert (grad[:, 1:] != 0).any()


@pytest.mark.parametrize("value", [0.2, 0.7])
@pytest.mark.parametrize("batch", [False, True], ids=["samples", "pooled"])
def test_a_soft_label_is_where_the_loss_is_least(batch, value):
    target = torch.full((2, 1, 9, 11), value)
    given = {"from_logits": False, "batch": batch}
    steps = torch.linspace(0, 1, 101)
    for soft_label, least in ((True, value), (False, 1.0)):
        losses = [
            dice_loss(torch.full_like(target, p), target, soft_label=soft_label, **given)
            for p in steps.tolist()
        ]
        best = steps[torch.stack(losses).argmin()].item()
        assert best == pytest.approx(least)
    x = target.clone().requires_grad_()
    loss = dice_loss(x, target, soft_label=True, **given)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert (torch.autograd.grad(loss, x)[0] == 0).all()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@either_input
@every_mode
def test_soft_label_changes_nothing_of_hard_targets(mode, channels, from_logits, reduction):
    x, target = case((13, 17), mode, channels, from_logits)
    settings = {"mode": mode, "from_logits": from_logits, "reduction": reduction}
    results = []
    for soft_label in (False, True):
        leaf = x.clone().requires_grad_()
        loss = dice_loss(leaf, target, soft_label=soft_label, **settings)
        results.append((loss, *torch.autograd.grad(loss.sum(), leaf)))
    torch.testing.assert_close(*results, **TOLERANCES[F64])


@every_mode
def test_memory_layout_and_target_forms(mode, channels):
    x, target = case((26, 34), mode, channels)
    check_loss(x[..., ::2, 1::2], target[..., ::2, 1::2], mode=mode, reduction="none")
    check_loss(x.mT, target.mT, mode=mode, reduction="none")
    check_loss(x.to(memory_format=torch.channels_last), target, mode=mode, reduction="none")
    if mode == "multiclass":
        forms = [target.unsqueeze(1), target.to(torch.uint8)]
        hard = dice_loss(x, target, mode=mode)
        for off in (-1e-4, 1e-4):  # as resizing leaves labels
            assert dice_loss(x, target + off, mode=mode) == hard
        forms.append(torch.nn.functional.one_hot(target, channels).movedim(-1, 1).half())
        soft = random(x.shape)
        check_loss(x, soft / soft.sum(1, keepdim=True), mode=mode)
    else:
        forms = [target.bool(), target.to(torch.uint8), target.half()]
        forms += [target.squeeze(1)] if mode == "binary" else []
        check_loss(x, random(x.shape), mode=mode)
    for form in forms:
        check_loss(x, form, mode=mode, reduction="none")


@pytest.mark.parametrize("batch", [False, True], ids=["samples", "pooled"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@either_input
@every_mode
def test_ignored_pixels(mode, channels, from_logits, reduction, batch):
    settings = {"mode": mode, "from_logits": from_logits, "reduction": reduction, "batch": batch}
    x, clean = case((9, 11), mode, channels, from_logits, batch=3)
    target = clean.to(torch.uint8).masked_fill(random(clean.shape) > 0.8, 255)
    masks = [random(shape, 2) > 0.3 for shape in ((3, 9, 11), (3, 1, 9, 11))]
    if mode != "multiclass":
        masks.append(random(x.shape, 3) > 0.3)
        masks[-1][:, -1:] = False  # a class without any pixel
    for mask in masks:
        mask[1] = False  # a sample without any pixel: it is not in the mean
    for mask, ignore_index in [(None, 255), *((m, i) for m in masks for i in (None, 255))]:
        outside = {"mask": mask, "ignore_index": ignore_index}
        given = target if ignore_index == 255 else clean
        loss, grad = check_loss(x, given, **settings, **outside)
        out = outside_of(references.valid_pixels(x.shape, given, mode=mode, **outside), x)
        for junk in (torch.nan, torch.inf):
            again = check_loss(x.masked_fill(out, junk), given, **settings, **outside)
            assert torch.equal(again[0], loss)
            assert torch.equal(again[1], grad)
        assert (grad[out] == 0).all()


@every_mode
def test_images_of_none_one_and_many_pixels(mode, channels):
    """An image without pixels is not in the mean; one with a single pixel is."""
    x, target = case((9, 11), mode, channels, batch=3)
    mask = torch.zeros(3, 9, 11, dtype=torch.bool)
    mask[1, 4, 5], mask[2, :6] = True, True
    for reduction in ("none", "mean", "sum"):
        check_loss(x, target, mode=mode, mask=mask, reduction=reduction)


@pytest.mark.parametrize("batch", [False, True], ids=["samples", "pooled"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@every_mode
def test_nothing_to_look_at(mode, channels, reduction, batch):
    settings = {"mode": mode, "reduction": reduction, "batch": batch}
    x, target = case((9, 11), mode, channels)
    nothing = torch.zeros(2, 9, 11, dtype=torch.bool)
    for samples, outside in ((2, {"mask": nothing}), (2, {"ignore_index": 7}), (0, {})):
        given = torch.full_like(target, 7) if "ignore_index" in outside else target
        x = x.detach()[:samples].fill_(torch.nan).requires_grad_()
        loss = dice_loss(x, given[:samples], **settings, **outside)
        loss.sum().backward()
        assert (loss == 0).all()
        assert (x.grad == 0).all()


@pytest.mark.parametrize("dtype", [F32, F64, *HALVES])
@every_mode
def test_extremes_are_finite(mode, channels, dtype):
    top = min(1e30, torch.finfo(dtype).max)
    x, target = case((9, 11), mode, channels)
    check_loss((x.sign() * top).to(dtype), target, mode=mode)
    hard = (x > 0) if mode != "multiclass" else torch.eye(channels)[target].movedim(-1, 1)
    check_loss(hard.to(dtype), target, mode=mode, from_logits=False)


def test_a_full_fp16_mask_is_finite():
    # 512 x 512 pixels are more than fp16 can count.
    ones = torch.ones(1, 1, 512, 512, dtype=torch.float16)
    check_loss(ones, ones, from_logits=False)
    check_loss(ones * 20, ones)
    assert dice_loss(ones, ones, from_logits=False) == 0


@either_input
@every_mode
def test_derivatives_of_both_orders(mode, channels, from_logits):
    x, target = case((3, 4), mode, channels, from_logits)
    x = (x / 4 if from_logits else x).requires_grad_()
    for settings in ({}, {"batch": True, **extras(mode, channels)[-1]}):
        given = {"mode": mode, "from_logits": from_logits, "reduction": "none", **settings}
        loss = partial(dice_loss, target=target, **given)
        assert torch.autograd.gradcheck(loss, (x,))
        assert torch.autograd.gradgradcheck(loss, (x,))


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_binary_is_not_the_mean_of_two_classes_but_the_second_of_them(reduction):
    z, target = case((13, 17), "binary", 1)
    pair = torch.cat([torch.zeros_like(z), z], 1)
    both = dice_loss(pair, target[:, 0], mode="multiclass", reduction="none")
    second = both[:, 1:] if reduction == "none" else both[:, 1].mean()
    torch.testing.assert_close(dice_loss(z, target, reduction=reduction), second, **TOLERANCES[F64])


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(("mode", "channels"), [("binary", 1), ("multiclass", 3)])
def test_compiled_equals_eager(mode, channels, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(dice_loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for batch, spatial in [(2, (12, 17)), (3, (15, 13))][: 2 if dynamic else 1]:
        x, target = case(spatial, mode, channels, batch=batch)
        results = []
        for function in (compiled, dice_loss):
            x = x.detach().requires_grad_()
            loss = function(x, target, mode=mode, ignore_index=255, **extras(mode, channels)[-1])
            results.append((loss, *torch.autograd.grad(loss, x)))
        torch.testing.assert_close(*results, **TOLERANCES[F64])
