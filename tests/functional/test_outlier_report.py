"""The report of what is flagged, against counts by hand."""

import numpy as np
import pytest
import torch

from gliomaseg_layers import OutlierRegionLoss
from gliomaseg_layers.functional import outlier_region_loss, outlier_report
from tests.support import references
from tests.support.cases import F64, MODES, case, either_input, every_mode, random
from tests.support.references import array

LEVELS = (0.2, 0.5)
SMALL = {"window": 7, "max_noise_size": 20}


def by_hand(x, target, mode, from_logits, mask):
    """Return the parts of the pixels and of the cross-entropy, ``(C, levels)`` each."""
    settings = {"mode": mode, "from_logits": from_logits}
    cost = outlier_region_loss(x, target, strength=0, mask=mask, reduction="none", **settings)
    valid = references.valid_pixels(x.shape, target, mode=mode, mask=mask)
    pixels, costs = np.zeros((2, x.shape[1], len(LEVELS)))
    for column, level in enumerate(LEVELS):
        flagged = references.outlier_weight(x, levels=(level,), valid=mask, **SMALL, **settings) > 0
        probs = array(x)
        if from_logits:
            probs = array(x.softmax(1) if mode == "multiclass" else x.sigmoid())
        for c in range(x.shape[1]):
            if mode == "multiclass":
                odds = probs * np.where(np.arange(x.shape[1]) == 0, level, 1 - level).reshape(
                    1, -1, *[1] * (x.dim() - 2)
                )
                here = flagged & (odds.argmax(1) == c)
                everything = valid, array(cost)
            else:
                here = flagged[:, c]
                everything = valid.repeat(x.shape[1] // valid.shape[1], 1)[:, c], array(cost)[:, c]
            inside, amount = everything
            pixels[c, column] = here.sum() / inside.sum()
            costs[c, column] = amount[here].sum() / amount[inside].sum()
    return pixels, costs


@either_input
@every_mode
@pytest.mark.parametrize("spatial", [(19, 23), (5, 9, 7)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("masked", [False, True])
def test_counts_what_is_flagged(mode, channels, from_logits, spatial, masked):
    x, target = case(spatial, mode, channels, from_logits)
    mask = random((2, *spatial)) > 0.2 if masked else None
    settings = {"mode": mode, "from_logits": from_logits, "mask": mask, "levels": LEVELS}
    report = outlier_report(x, target, **settings, **SMALL)
    pixels, costs = by_hand(x, target, mode, from_logits, mask)
    np.testing.assert_allclose(array(report.pixels), pixels, rtol=1e-9)
    np.testing.assert_allclose(array(report.cross_entropy), costs, rtol=1e-9)
    assert pixels.any(0).all()
    alone = outlier_report(x, **settings, **SMALL)
    assert alone.cross_entropy is None
    assert torch.equal(alone.pixels, report.pixels)
    assert torch.equal(alone.k, report.k)


@every_mode
@pytest.mark.parametrize("share", [None, 0.1, 100.0])
def test_k_is_the_loss_s_own(mode, channels, share):
    x, target = case((19, 23), mode, channels)
    settings = {"mode": mode, "share": share, "strength": 50.0, **SMALL}
    k = outlier_report(x, target, **settings).k
    assert k.shape == ((2,) if mode == "multiclass" else (2, channels))
    weight = torch.from_numpy(
        references.outlier_weight(x, mode=mode, from_logits=True, levels=(0.1, 0.3, 0.5), **SMALL)
    )
    cost = outlier_region_loss(x, target, mode=mode, strength=0, reduction="none")
    expected = cost * (1 + k.view(*k.shape, 1, 1) * weight.to(x.device))
    found = outlier_region_loss(x, target, reduction="none", **settings)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_nothing_has_a_gradient_and_infinity_stays_where_it_is():
    x, target = case((9, 11), "binary", 1)
    x[0, 0, 0, 0], target[0, 0, 0, 0] = torch.inf, 0
    report = outlier_report(x.requires_grad_(), target, **SMALL)
    assert not any(part.requires_grad for part in report)
    assert report.pixels.isfinite().all()


@pytest.mark.parametrize(("mode", "channels"), MODES)
def test_no_pixel_is_no_part(mode, channels):
    x, target = case((7, 9), mode, channels)
    nothing = torch.zeros(2, 7, 9, dtype=torch.bool)
    report = outlier_report(x, target, mode=mode, mask=nothing)
    assert not report.pixels.any()
    assert not report.cross_entropy.any()


def test_a_loss_reports_with_its_own_settings():
    x, target = case((19, 23), "multiclass", 3)
    settings = {"ignore_index": 1, "class_weights": torch.tensor([1.0, 2.0, 3.0]), "levels": LEVELS}
    loss = OutlierRegionLoss("multiclass", reduction="none", **settings, **SMALL)
    mask = random((2, 19, 23)) > 0.2
    found = loss.report(x, target, mask)
    expected = outlier_report(x, target, mode="multiclass", mask=mask, **settings, **SMALL)
    assert all(map(torch.equal, found, expected))
    assert found.pixels.dtype == F64
