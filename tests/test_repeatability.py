"""The same call gives the same bits: run after run, thread beside thread, in worker processes."""

import gc
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import torch

from tests.support.cases import case
from tests.support.module_cases import every_module, inputs, make
from tests.support.steps import LOSSES, STEPS, loads_the_same, same, step

every_step = pytest.mark.parametrize(("name", "mode", "channels"), STEPS)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Let torch raise where an operation is not, and fill what nobody wrote with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@every_step
def test_losses_repeat_bit_by_bit(name: str, mode: str, channels: int) -> None:
    x, target = case((19, 23), mode, channels)
    for given in (x, x.float(), x.bfloat16()):
        loss = LOSSES[name](mode=mode)
        first = step(loss, given, target)
        assert all(values.isfinite().all() for values in first)
        for _ in range(3):
            assert same(step(loss, given, target), first)


@pytest.mark.usefixtures("deterministic")
@every_module
def test_layers_repeat_bit_by_bit(name: str, dims: int) -> None:
    torch.manual_seed(0)
    given = [x.requires_grad_() for x in inputs(name, dims)]
    runs = []
    for _ in range(3):
        layer = make(name, dims)  # with dropout drawn from the same seed, and fresh statistics
        out = layer(*given)
        runs.append([out, *torch.autograd.grad(out.square().sum(), [*given, *layer.parameters()])])
    assert same(runs[1], runs[0])
    assert same(runs[2], runs[0])


@every_step
def test_threads_share_a_loss(name: str, mode: str, channels: int) -> None:
    loss = LOSSES[name](mode=mode)
    sizes = [(19, 23), (7, 9), (5, 6, 7), (31, 8)] * 6
    calls = [case(size, mode, channels, seed=seed) for seed, size in enumerate(sizes)]
    alone = [step(loss, *call) for call in calls]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda call: step(loss, *call), calls))
    assert all(map(same, together, alone))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_loader_give_the_same(method: str) -> None:
    """In a new process: one whose autograd has served a device can fork no worker that uses it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        assert processes.submit(loads_the_same, method).result()


def test_steps_leave_no_tensor_behind() -> None:
    given = [(LOSSES[name](mode=mode), *case((9, 11), mode, c)) for name, mode, c in STEPS]
    counts = []
    for _ in range(3):
        for call in given * 5:
            step(*call)
        gc.collect()
        counts.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
    assert counts[2] == counts[1]
