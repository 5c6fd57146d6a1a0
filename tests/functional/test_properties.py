"""What must hold of any input, on inputs that Hypothesis draws."""

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from gliomaseg_layers.functional import box_sum, density_map, outlier_region_loss, outlier_weight
from tests.support.cases import DENSITY, F64, FORMULAS, MODES, SMALL, case
from tests.support.tolerances import TOLERANCES

seeds = st.integers(0, 2**16)
sizes = st.integers(1, 14)
odd = st.integers(0, 7).map(lambda radius: 2 * radius + 1)
spatials = st.one_of(st.tuples(sizes, sizes), st.tuples(sizes, sizes, sizes))
modes = st.sampled_from(MODES)
formulas = st.sampled_from(list(FORMULAS.values()))


def same(got, expected):
    torch.testing.assert_close(got, expected, **TOLERANCES[F64])


def draw(shape, seed):
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=F64, device="cpu"
    )


def maps(logits, target, mode, formula):
    """Return density, weight and loss map of logits."""
    probs = logits.softmax(1) if mode == "multiclass" else logits.sigmoid()
    return (
        density_map(probs, mode=mode, **DENSITY.small),
        outlier_weight(logits, mode=mode, from_logits=True, **SMALL),
        formula.function(logits, target, mode=mode, reduction="none", **formula.small),
    )


@given(spatials, st.data(), seeds)
def test_box_sum_is_linear_and_its_own_adjoint(spatial, data, seed):
    window = tuple(data.draw(odd) for _ in spatial)
    x, y = draw((2, 2, *spatial), seed), draw((2, 2, *spatial), seed + 1)
    bx, by = box_sum(x, window), box_sum(y, window)
    same((bx * y).sum(), (x * by).sum())
    same(box_sum(3 * x - 0.5 * y, window), 3 * bx - 0.5 * by)


@given(spatials, seeds, st.booleans())
def test_black_and_white_are_treated_alike(spatial, seed, hard):
    x = case(spatial, "multilabel", 2, seed=seed)[0].sigmoid()
    x = x.round() if hard else x
    assume((x != 0.5).all())
    same(*(density_map(q, mode="multilabel", **DENSITY.small) for q in (1 - x, x)))
    settings = {"mode": "multilabel", "levels": (0.5,), **SMALL}
    weights = [outlier_weight(q, **settings) for q in (x, 1 - x)]
    assert torch.equal(*weights)


@given(spatials, modes, formulas, seeds, st.data())
def test_flips_turns_and_batch_order(spatial, mode, formula, seed, data):
    x, target = case(spatial, *mode, seed=seed, batch=3)
    axes = [axis - len(spatial) for axis in range(len(spatial))]
    change = data.draw(
        st.sampled_from(
            [
                *(lambda t, axis=axis: t.flip(axis) for axis in axes),
                *(lambda t, axis=axis: t.transpose(axis, -1) for axis in axes[:-1]),
                lambda t: t[[2, 0, 1]],
            ]
        )
    )
    before = maps(x, target, mode[0], formula)
    after = maps(change(x), change(target), mode[0], formula)
    for got, expected in zip(after, before, strict=True):
        same(got, change(expected))


@given(modes, formulas, seeds, st.tuples(st.integers(0, 11), st.integers(0, 11)))
def test_translation(mode, formula, seed, shift):
    x, target = case((9, 9), *mode, seed=seed)
    margin = 2 * (SMALL["window"] // 2)
    reach, results = 9 + 2 * (SMALL["window"] // 2), []
    for place in ((0, 0), shift):
        canvas = torch.full((*x.shape[:2], 40, 40), -4.0, dtype=F64)
        if mode[0] == "multiclass":
            canvas[:, 0] = 4.0
        truth = torch.zeros((*target.shape[:-2], 40, 40), dtype=target.dtype)
        at = tuple(slice(margin + p, margin + p + 9) for p in place)
        canvas[(..., *at)], truth[(..., *at)] = x, target
        seen = tuple(slice(margin // 2 + p, margin // 2 + p + reach) for p in place)
        results.append([m[(..., *seen)] for m in maps(canvas, truth, mode[0], formula)])
    for got, expected in zip(*results, strict=True):
        same(got, expected)


@given(modes, formulas, seeds, st.tuples(*[st.integers(0, 3)] * 4))
def test_ignoring_a_border_is_cropping_it(mode, formula, seed, strips):
    x, target = case((13, 15), *mode, seed=seed)
    top, bottom, left, right = strips
    kept = (..., slice(top, 13 - bottom), slice(left, 15 - right))
    mask = torch.zeros(2, 13, 15, dtype=torch.bool)
    mask[kept] = True
    results = []
    for given_x, given_target, given_mask in ((x, target, mask), (x[kept], target[kept], None)):
        leaf = given_x.clone().requires_grad_()
        for reduction in ("mean", "sum", "none"):
            settings = {"mode": mode[0], "reduction": reduction, **formula.small}
            loss = formula.function(leaf, given_target, mask=given_mask, **settings)
            (grad,) = torch.autograd.grad(loss.square().sum(), leaf)
            crop = kept if given_mask is not None else ...
            results.append((loss[crop] if reduction == "none" else loss, grad[crop]))
    for got, expected in zip(results[:3], results[3:], strict=True):
        same(got, expected)


@given(st.data(), seeds)
def test_a_lone_region_of_at_most_seven_by_seven_is_flagged_whole(data, seed):
    row, column = data.draw(st.integers(0, 23)), data.draw(st.integers(0, 23))
    shape = draw((7, 7), seed) > data.draw(st.sampled_from([-9.0, -1.0, 0.0, 1.0]))
    image = torch.zeros(1, 1, 30, 30)
    image[..., row : row + 7, column : column + 7] = shape
    assume(shape.any())
    for q in (image, 1 - image):
        weight = outlier_weight(q)
        assert torch.equal(weight > 0, image.bool())
        assert (weight[image.bool()] >= 0.5).all()


@given(spatials, modes, seeds, st.sampled_from([0.3, 1.0]), st.booleans())
def test_the_weight_is_zero_or_from_a_half_to_one(spatial, mode, seed, scale, flat):
    x = case(spatial, *mode, seed=seed)[0] if not flat else draw((1, mode[1], *spatial), seed)
    weight = outlier_weight(x * scale, mode=mode[0], from_logits=True, levels=(0.5,))
    assert ((weight == 0) | ((weight >= 0.5) & (weight < 1))).all()
    constant = torch.full_like(x, float(seed % 3) - 1)
    assert (outlier_weight(constant, mode=mode[0], from_logits=True) == 0).all()


@given(spatials, modes, seeds, st.floats(0, 10))
def test_the_term_adds_to_the_cross_entropy(spatial, mode, seed, strength):
    x, target = case(spatial, *mode, seed=seed)
    loss, ce = (
        outlier_region_loss(
            x,
            target,
            mode=mode[0],
            strength=value,
            share=None,
            reduction="none",
            **SMALL,
        )
        for value in (strength, 0)
    )
    assert (ce >= 0).all()
    assert (loss >= ce).all()
    if mode[0] == "multiclass":
        same(ce, torch.nn.functional.cross_entropy(x, target, reduction="none"))
    else:
        bce = torch.nn.functional.binary_cross_entropy_with_logits
        same(ce, bce(x, target.double(), reduction="none"))
    assert (loss <= ce * (1 + strength) + 1e-12).all()


@given(spatials, modes, formulas, seeds, st.floats(0, 1))
def test_none_reduced_by_hand(spatial, mode, formula, seed, part):
    x, target = case(spatial, *mode, seed=seed)
    mask = draw((2, *spatial), seed).sigmoid() <= part
    none, mean, total = (
        formula.function(x, target, mode=mode[0], mask=mask, reduction=reduction, **formula.small)
        for reduction in ("none", "mean", "sum")
    )
    channels = 1 if mode[0] == "multiclass" else mode[1]
    same(none.sum(), total)
    same(none.sum() / max(int(mask.sum()) * channels, 1), mean)
