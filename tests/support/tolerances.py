"""The one table of tolerances, by dtype: ``(rtol, atol)`` against a float64 reference."""

import torch

TOLERANCES: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-11},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    # Half-precision input is computed in fp32, so values are as close as fp32's once the reference
    # has been given the rounded input; gradients are rounded to the input's dtype.
    torch.bfloat16: {"rtol": 1e-2, "atol": 1e-5},
    torch.float16: {"rtol": 2e-3, "atol": 1e-5},
}
