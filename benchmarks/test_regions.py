"""Connected components by three libraries, and small islands removed by three means."""

from collections.abc import Callable
from functools import partial
from typing import Any

import cc3d
import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import remove_small_objects

from benchmarks.alternating import compare
from gliomaseg_layers.functional import remove_outlier_regions
from gliomaseg_layers.metrics import lesion_wise_scores

LABELLING: dict[str, Callable[[Any], Any]] = {
    "connected-components-3d": lambda mask: cc3d.connected_components(
        mask, connectivity={2: 8, 3: 26}[mask.ndim]
    ),
    "scipy.ndimage": lambda mask: ndimage.label(mask, np.ones([3] * mask.ndim))[0],
    "scikit-image": lambda mask: label(mask, connectivity=mask.ndim),
}
REMOVAL: dict[str, Callable[[Any], Any]] = {
    "remove_outlier_regions": lambda masks: (
        remove_outlier_regions(torch.from_numpy(masks).unsqueeze(1)).squeeze(1).numpy()
    ),
    "skimage remove_small_objects": lambda masks: np.stack(
        [remove_small_objects(mask, max_size=49, connectivity=2) for mask in masks]
    ),
    "cc3d.dust": lambda masks: np.stack(
        [cc3d.dust(mask, threshold=50, connectivity=8) for mask in masks]
    ),
}


def blobs(*shape: int, spread: float = 4.0) -> Any:
    noise = np.random.default_rng(0).standard_normal(shape)
    noise = ndimage.gaussian_filter(noise, spread)
    return noise > np.quantile(noise, 0.9)


@pytest.mark.parametrize("shape", [(256, 256), (155, 240, 240)], ids=["image", "volume"])
@pytest.mark.parametrize("library", LABELLING)
def test_label(benchmark: Any, library: str, shape: tuple[int, ...]) -> None:
    mask = blobs(*shape)
    counts = {name: find(mask).max() for name, find in LABELLING.items()}
    assert len(set(counts.values())) == 1, counts
    benchmark.group = "Connected components"
    benchmark.extra_info |= {"row": "x".join(map(str, shape)), "column": library}
    step, ours = (partial(LABELLING[name], mask) for name in (library, next(iter(LABELLING))))
    compare(benchmark, step, ours, next(iter(LABELLING)))
    benchmark.pedantic(step)


@pytest.mark.parametrize("lesions", [20, 60])
def test_lesion_wise_scores(benchmark: Any, lesions: int) -> None:
    """Over one labelling of the volume, of which two are needed."""
    truth = np.zeros((155, 240, 240), bool)
    for z, row, column in np.argwhere(np.ones((3, 4, 5)))[:lesions]:
        truth[50 * z + 5 :, 60 * row + 5 :, 48 * column + 5 :][:20, :24, :18] = True
    predicted = np.roll(truth, 2, 1)
    benchmark.group = "Lesion-wise scores of a volume, 155x240x240"
    benchmark.extra_info["row"] = f"{lesions} lesions"
    step = partial(lesion_wise_scores, predicted, truth)
    label_once = partial(LABELLING["connected-components-3d"], truth)
    compare(benchmark, step, label_once, "a labelling of the volume")
    benchmark.pedantic(step)


@pytest.mark.parametrize("method", REMOVAL)
def test_remove_small_islands(benchmark: Any, method: str) -> None:
    masks = np.stack([blobs(256, 256, spread=2.0)] * 16)
    by_components = [REMOVAL[name](masks) for name in list(REMOVAL)[1:]]
    assert np.array_equal(*by_components)
    benchmark.group = "Small islands removed, 16x256x256"
    benchmark.extra_info["row"] = method
    step, ours = (partial(REMOVAL[name], masks) for name in (method, next(iter(REMOVAL))))
    compare(benchmark, step, ours, next(iter(REMOVAL)))
    benchmark.pedantic(step)
