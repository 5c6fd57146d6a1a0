"""The kernels compile to machine code for NVIDIA's GPUs, which needs none: the interpreter, which
runs them in their tests, takes what the launcher or the compiler would refuse.
"""

from types import SimpleNamespace

import pytest
import torch

from tests.support.cases import BF16, F16, F32

triton = pytest.importorskip("triton", minversion="3.4")  # torch 2.8's: older ones are not used


@pytest.fixture(params=[80, 90])
def machine_codes(request, monkeypatch):
    """Collect what is compiled in the place of a launch, as on a GPU of a compute capability."""
    gpu = SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda device=None: 0,
        get_current_target=lambda: triton.backends.compiler.GPUTarget("cuda", request.param, 32),
        get_device_interface=lambda: torch.cuda,
    )
    launch, found = triton.runtime.jit.JITFunction.run, {}

    def compiled(kernel, *args, grid, warmup, **settings):
        if "NATIVE" in settings:
            settings["NATIVE"] = True
        code = launch(kernel, *args, grid=grid, warmup=True, **settings).asm
        found[kernel.__name__] = code

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", compiled)
    drivers = triton.runtime.driver
    before = dict(vars(drivers))
    drivers.set_active(gpu)
    yield found
    vars(drivers).update(before)


@pytest.mark.parametrize(
    ("shape", "dtype", "window", "levels", "masked"),
    [
        ((2, 2, 64, 96), F32, (21, 21), (0.1, 0.3, 0.5), False),
        ((1, 1, 1, 1), F32, (21, 21), (0.5,), False),  # Triton makes every 1 a constant
        ((2, 3, 33, 300), BF16, (63, 63), (0.1, 0.3, 0.5), False),
        ((2, 3, 33, 300), F16, (21, 31), (0.1, 0.3, 0.5), True),
        ((1, 1, 64, 64), F32, (63, 63), (0.05, 0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 0.99), True),
    ],
    ids=["plain", "single", "wide", "masked", "most"],
)
def test_compiles(shape, dtype, window, levels, masked, machine_codes):
    from gliomaseg_layers.functional import outlier_weight_triton

    valid = torch.ones(shape, dtype=torch.bool) if masked else None
    outlier_weight_triton.launch(torch.zeros(shape, dtype=dtype), valid, window, 49, levels)
    assert set(machine_codes) == {"_pack_kernel", "_count_kernel"}
    for code in machine_codes.values():
        assert code["cubin"]
        assert ".local" not in code["ptx"]  # no spills, no arrays in slow memory
    counted = machine_codes["_count_kernel"]["ptx"]
    assert "popc.b32" in counted
    assert "div.rn.f32" in counted  # rounded as torch rounds, which `/` is not
    assert "div.full.f32" not in counted
