"""The outlier weight on the shapes of true lesions, real ones where LGG_DATA names them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from examples.lgg.data import find_slices, read_mask
from gliomaseg_layers.functional import outlier_region_loss, outlier_weight
from tests.support import references


@pytest.fixture(scope="module")
def masks(lgg_folder: Path) -> torch.Tensor:
    lesions = [piece for piece in find_slices(lgg_folder) if piece.tumour_pixels]
    chosen = sorted(lesions, key=lambda piece: piece.tumour_pixels)[:: max(len(lesions) // 24, 1)]
    size = chosen[0].size
    return torch.stack([torch.tensor(read_mask(p.mask, size)) for p in chosen]).unsqueeze(1)


def test_weight_is_the_references(masks: torch.Tensor) -> None:
    weight = outlier_weight(masks.double())
    np.testing.assert_allclose(weight.numpy(), references.outlier_weight(masks), rtol=1e-12)


def test_a_certain_true_lesion_costs_nothing(masks: torch.Tensor) -> None:
    # However small it is: the loss follows the label.
    logits = 60.0 * masks - 30.0
    assert outlier_region_loss(logits, masks) < 1e-9
