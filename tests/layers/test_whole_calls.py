"""Maps of any size, dtype and layout against the layer in fp64 on plain ones."""

import math
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.support.calls import LAYOUTS, dtypes, lay_out, seeds, spatials
from tests.support.cases import F64
from tests.support.module_cases import LAYERS, inputs, make

PRECISION = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


@cache
def layer(name: str, dims: int, dtype: torch.dtype) -> nn.Module:
    return deepcopy(make(name, dims)).to(dtype).eval()


@given(
    st.sampled_from(sorted(LAYERS)),
    spatials(),
    st.sampled_from([1, 2, 3, 0]),
    dtypes,
    st.lists(st.sampled_from([*LAYOUTS, "expanded"]), min_size=2, max_size=2),
    st.sampled_from([1.0, 1e-30, 100.0]),
    seeds,
)
def test_layer(
    name: str,
    size: tuple[int, ...],
    batch: int,
    dtype: torch.dtype,
    layouts: list[str],
    scale: float,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    dims = len(size)
    if "instance" in name and math.prod(size) == 1:
        return  # torch's norm raises: an instance of one value has no statistics
    given = [(scale * x).to(dtype) for x in inputs(name, dims, batch, size)]
    given = [lay_out(x, layout) for x, layout in zip(given, layouts, strict=False)]
    results: list[list[Any]] = []
    for kind, maps in ((dtype, given), (F64, [x.double().contiguous() for x in given])):
        leaves = [x.detach().requires_grad_() for x in maps]
        out = layer(name, dims, kind)(*leaves)
        results.append([out, *torch.autograd.grad(out.sum(), leaves)])
    for found, true in zip(*results, strict=True):
        assert found.dtype == dtype
        assert found.isfinite().all()
        # Gradients of a maximum go to another place where rounding makes two values one.
        if found is results[0][0] or dtype == F64:
            allowed = PRECISION[dtype] * float(true.detach().abs().max()) if true.numel() else 0
            torch.testing.assert_close(found.double(), true, rtol=0.0, atol=allowed + 1e-30)


@given(st.sampled_from(sorted(LAYERS)), spatials(5), st.sampled_from([torch.nan, torch.inf]), seeds)
def test_what_is_not_finite_stays_in_its_image(
    name: str, size: tuple[int, ...], value: float, seed: int
) -> None:
    if "instance" in name and math.prod(size) == 1:
        return
    torch.manual_seed(seed)
    given = inputs(name, len(size), 2, size)
    function = layer(name, len(size), torch.float32)
    expected = function(*given)
    given[0][0] = value
    assert torch.equal(function(*given)[1], expected[1])
