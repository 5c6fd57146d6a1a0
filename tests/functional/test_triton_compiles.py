"""The kernels compile to machine code for NVIDIA's GPUs, which needs none: the interpreter, which
runs them in their tests, takes what the compiler would refuse.
"""

from typing import Any

import pytest
import torch

from cases import F16, F32, F64, every_formulation
from gliomaseg_layers import OutlierRegionLoss
from gliomaseg_layers.functional._operator import kernels
from gliomaseg_layers.functional._plan import make_plan, read_maps

triton = pytest.importorskip("triton", minversion="3.4")  # torch 2.8's: older ones are not used
NAMES = {F32: "fp32", F16: "fp16", F64: "fp64", torch.int32: "i32", torch.uint8: "u8"}
NAMES |= {torch.bfloat16: "bf16", torch.int64: "i64"}
PLAIN: dict[str, Any] = {"dtype": F32, "target": F32}
WEIGHED = {"dtype": torch.bfloat16, "target": torch.int64, "pos_weight": 2.0, "dice_smooth": 1.0}
MAPS = {"dtype": F16, "target": torch.bool, "masked": True, "class_weights": torch.ones(2)}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    "case",
    [PLAIN, PLAIN | {"outer": 63}, WEIGHED, MAPS | {"reduction": "none"}],
    ids=["plain", "wide", "compound", "map"],
)
@every_formulation
def test_compiles(formulation, case, capability, monkeypatch):
    launched: list[tuple[Any, dict[str, Any]]] = []

    def record(kernel, *args, grid, warmup, **settings):
        launched.append((kernel, dict(zip(kernel.arg_names, args, strict=False)) | settings))

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", record)
    launch(formulation, **case)
    assert len(launched) == {"paper": 7}.get(formulation, 5 if "reduction" in case else 4)
    for kernel, arguments in launched:
        machine_code = compiled(kernel, arguments, capability)
        assert machine_code["cubin"]
        assert ".local" not in machine_code["ptx"]  # no spills, no arrays in slow memory
        if "NATIVE" in arguments:
            assert "popc.b32" in machine_code["ptx"]


def launch(formulation, dtype, target, masked=False, reduction="mean", dice_smooth=None, **more):
    settings = OutlierRegionLoss(mode="multilabel", formulation=formulation, **more)
    settings = settings.term_arguments() | ({"ignore_index": 1} if masked else {})
    mask = torch.ones(2, 64, 96, dtype=torch.bool) if masked else None
    logits, labels = torch.zeros(2, 2, 64, 96, dtype=dtype), torch.zeros(2, 2, 64, 96).to(target)
    maps = read_maps(logits, labels, mask, settings)
    plan = make_plan(2, settings, reduction, dice_smooth)
    weights = [1.0, 0.0, 1.0] if dice_smooth is None else [torch.ones((), dtype=F64)] * 3
    loss, _, kept = kernels(plan).forward(maps, plan, weights)
    kernels(plan).backward(torch.ones_like(loss), maps, plan, kept)


def compiled(kernel: Any, arguments: dict[str, Any], capability: int) -> dict[str, Any]:
    """Compile a kernel for what it was launched with, as on a GPU of a compute capability."""
    signature: dict[str, str] = {}
    constants, attributes = {}, {}
    for index, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.name == "NATIVE":
            value = True
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[parameter.name] = "constexpr"
            constants[(index,)] = getattr(value, "value", value)
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = f"*{NAMES[value.dtype]}"
            attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "i32" if isinstance(value, int) else "fp32"
    source = triton.compiler.ASTSource(kernel, signature, constants, attributes)
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    result: dict[str, Any] = triton.compile(source, target=target).asm
    return result
