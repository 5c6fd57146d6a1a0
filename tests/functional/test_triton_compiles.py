"""The kernels compile to machine code for NVIDIA's GPUs, which needs none: the interpreter, which
runs them in their tests, takes what the launcher or the compiler would refuse.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gliomaseg_layers.functional._operator import kernels
from gliomaseg_layers.functional._plan import make_plan, read_maps

from gliomaseg_layers import OutlierRegionLoss
from tests.support.cases import F16, F32, F64, every_formulation

triton = pytest.importorskip("triton", minversion="3.4")  # torch 2.8's: older ones are not used
PLAIN: dict[str, Any] = {"dtype": F32, "target": F32}
WEIGHED = {"dtype": torch.bfloat16, "target": torch.int64, "pos_weight": 2.0, "dice_smooth": 1.0}
MAPS = {"dtype": F16, "target": torch.bool, "masked": True, "class_weights": torch.ones(2)}


@pytest.fixture(params=[80, 90])
def machine_codes(request, monkeypatch):
    """Collect what is compiled in the place of a launch, as on a GPU of a compute capability."""
    gpu = SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda device=None: 0,
        get_current_target=lambda: triton.backends.compiler.GPUTarget("cuda", request.param, 32),
        get_device_interface=lambda: torch.cuda,
    )
    launch, found = triton.runtime.jit.JITFunction.run, []

    def compiled(kernel, *args, grid, warmup, **settings):
        if "NATIVE" in settings:
            settings["NATIVE"] = True
        found.append((kernel, launch(kernel, *args, grid=grid, warmup=True, **settings).asm))

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", compiled)
    drivers = triton.runtime.driver
    before = dict(vars(drivers))
    drivers.set_active(gpu)
    yield found
    vars(drivers).update(before)


@pytest.mark.parametrize(
    "case",
    [
        PLAIN,
        PLAIN | {"shape": (1, 1, 1, 1)},  # Triton makes every 1 a constant
        PLAIN | {"outer": 63},
        WEIGHED | {"shape": (1, 2, 33, 70)},
        MAPS | {"reduction": "none"},
    ],
    ids=["plain", "single", "wide", "compound", "map"],
)
@every_formulation
def test_compiles(formulation, case, machine_codes):
    launch(formulation, **case)
    assert len(machine_codes) == {"paper": 7}.get(formulation, 5 if "reduction" in case else 4)
    for kernel, code in machine_codes:
        assert code["cubin"]
        assert ".local" not in code["ptx"]  # no spills, no arrays in slow memory
        if "NATIVE" in kernel.arg_names:
            assert "popc.b32" in code["ptx"]


def launch(
    formulation,
    dtype,
    target,
    shape=(2, 2, 64, 96),
    masked=False,
    reduction="mean",
    dice_smooth=None,
    **more,
):
    settings = OutlierRegionLoss(mode="multilabel", formulation=formulation, **more)
    settings = settings.term_arguments() | ({"ignore_index": 1} if masked else {})
    mask = torch.ones(shape[0], *shape[2:], dtype=torch.bool) if masked else None
    logits, labels = torch.zeros(shape, dtype=dtype), torch.zeros(shape).to(target)
    maps = read_maps(logits, labels, mask, settings)
    plan = make_plan(2, settings, reduction, dice_smooth)
    weights = [1.0, 0.0, 1.0] if dice_smooth is None else [torch.ones((), dtype=F64)] * 3
    loss, _, kept = kernels(plan).forward(maps, plan, weights)
    kernels(plan).backward(torch.ones_like(loss), maps, plan, kept)
