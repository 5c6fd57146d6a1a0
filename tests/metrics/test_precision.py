"""Metrics that are moved into other dtypes and to other devices count on as before."""

import pytest
import torch
from torch import Tensor
from torch.nn import Module, ModuleList
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchmetrics import MetricCollection

from gliomaseg_layers.metrics import LesionWiseScores, RegionCounts

CASTS = {
    "to": lambda module, dtype: module.to(dtype),  # as bf16-true of Lightning does
    "type": lambda module, dtype: module.type(dtype),
    "half": lambda module, dtype: module.half() if dtype == torch.float16 else module.bfloat16(),
    "set_dtype": lambda module, dtype: [part.set_dtype(dtype) for part in module] and module,
}


def images(count: int) -> Tensor:
    maps = torch.zeros(count, 1, 8, 8)
    maps[..., 2:5, 2:5] = 1
    return maps


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize(("dtype", "count"), [(torch.bfloat16, 600), (torch.float16, 3600)])
def test_sums_do_not_stop_in_a_narrow_dtype(cast: str, dtype: torch.dtype, count: int) -> None:
    scores, counts = LesionWiseScores(min_size=0, penalty=300.5), RegionCounts()
    metrics: Module = CASTS[cast](ModuleList([scores, counts]), dtype)
    for part in images(count).split(200):
        for metric in metrics:
            metric.update(part, part)
    scores.update(images(1), 0 * images(1))  # 300.5 is no number of bfloat16
    metrics = CASTS[cast](metrics, dtype)
    assert metrics[1].compute()["regions"] == metrics[1].compute()["images"] == count
    found = metrics[0].compute()
    assert (found["images"], found["found"], found["spurious"]) == (count + 1, count, 1)
    assert float(found["dice"]) == pytest.approx(count / (count + 1))
    assert float(found["hd95"]) == pytest.approx(300.5 / (count + 1))
    scores.reset()
    scores.update(images(1), images(1))
    assert scores.dice[0].dtype == torch.float32


class NoFloat64(TorchDispatchMode):
    """The device "meta" has no float64, as Apple's MPS has none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.is_meta and tensor.dtype == torch.float64:
                raise TypeError("the device has no float64")
        return result


@pytest.mark.parametrize("make", [RegionCounts, LesionWiseScores])
def test_a_device_need_not_have_float64(make) -> None:
    new, used = make(), make()
    used.update(images(3), images(3))
    with NoFloat64():
        MetricCollection({"new": new, "used": used}, compute_groups=False).to("meta")
        assert new.device == used.device == torch.device("meta")
        new.update(images(2), images(2))  # its states are made on its device
        for metric in (new, used):
            columns = [part for parts in metric.metric_state.values() for part in parts]
            assert {part.device.type for part in columns} == {"meta"}
            assert {part.dtype for part in columns} <= {torch.float32, torch.int64}
