"""Layers and networks that FSDP shards over two processes: equal to the whole ones."""

import tempfile
from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from gliomaseg_layers import MultiScaleFusion, MUNet, layers
from tests.support.module_cases import MODULES, inputs, make

PROCESSES = 2
PARTS = tuple(getattr(layers, name) for name in layers.__all__)


def results(module: nn.Module, given: Sequence[Tensor]) -> list[Tensor]:
    """Return the output and the gradients of the inputs, and keep those of the parameters."""
    leaves = [x.clone().requires_grad_() for x in given]
    out = module(*leaves)
    out.square().mean().backward()
    return [out.detach(), *(x.grad for x in leaves)]


def check(plain: nn.Module, given: Sequence[Tensor], parts: tuple[type[nn.Module], ...]) -> None:
    """Shard a module as a whole, and some kinds of parts by themselves."""
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    expected = results(plain, given)
    grads = [values.grad for values in plain.parameters()]

    sharded = deepcopy(plain)
    mesh = distributed.init_device_mesh("cpu", (PROCESSES,))
    for part in reversed(list(sharded.modules())):  # the inner ones first
        if isinstance(part, parts) or part is sharded:
            fully_shard(part, mesh=mesh)
    torch.testing.assert_close(results(sharded, given), expected)
    found = [values.grad.full_tensor() for values in sharded.parameters()]
    torch.testing.assert_close(found, grads)

    wrapped = FullyShardedDataParallel(
        deepcopy(plain),
        auto_wrap_policy=ModuleWrapPolicy(parts),
        device_id=torch.device("cpu"),
        use_orig_params=True,
    )
    torch.testing.assert_close(results(wrapped, given), expected)
    with FullyShardedDataParallel.summon_full_params(wrapped, with_grads=True):
        found = [values.grad for values in wrapped.parameters()]
        torch.testing.assert_close(found, grads)


def run(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES
    )
    for name in MODULES:
        module = make(name, 2).eval()  # no dropout
        check(module, inputs(name, 2), PARTS)
    torch.manual_seed(0)
    check(MultiScaleFusion(4), torch.randn(2, 2, 4, 9, 8), ())
    check(MUNet.mini(), [torch.randn(1, 2, 33, 40)], PARTS)
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="torch has no torch.distributed here")
def test_sharded_is_the_same() -> None:
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(run, (f"{folder}/store",), PROCESSES)
