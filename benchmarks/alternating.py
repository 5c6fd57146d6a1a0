"""Two steps by turns: on a machine that others use too, that says more than two times apart.

On a CPU the time is that of the processor, which is the step's own while others wait for it. On a
GPU a time is that of several steps in a row, from an idle device to an idle device.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

ON_GPU = torch.cuda.is_available()
clock = time.perf_counter if ON_GPU else time.process_time
ROW = 0.01  # seconds of steps in a row on a GPU


def seconds(step: Callable[[], object], times: int = 1) -> float:
    """Return how long a step takes, as the mean of some in a row."""
    start = clock()
    for _ in range(times):
        step()
    if ON_GPU:
        torch.cuda.synchronize()
    return (clock() - start) / times


def in_a_row(step: Callable[[], object]) -> int:
    """Say how many steps are timed at once, after one that warms up."""
    seconds(step)
    return max(1, min(200, int(ROW / seconds(step)))) if ON_GPU else 1


def pairs(
    step: Callable[[], object], rival: Callable[[], object], limit: float = 2.0
) -> dict[str, float]:
    """Time a step and a rival by turns for so many seconds, and five times at least.

    ``ratio`` is the median of the pairs, half of which lie between ``low`` and ``high``; ``least``
    is of the least times, and ``ms`` the step's own.
    """
    rows = [(run, in_a_row(run)) for run in (step, rival)]
    times: tuple[list[float], list[float]] = ([], [])
    began = clock()
    while len(times[0]) < 5 or clock() - began < limit:
        for (run, count), found in zip(rows, times, strict=True):
            found.append(seconds(run, count))
    ratios = [mine / other for mine, other in zip(*times, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
    least = min(times[0]) / min(times[1])
    return {"ratio": ratio, "low": low, "high": high, "least": least, "ms": 1e3 * min(times[0])}


def compare(
    benchmark: Any, step: Callable[[], object], rival: Callable[[], object], name: str
) -> None:
    """Note in a benchmark how long its step takes over a rival's."""
    if benchmark.enabled:
        benchmark.extra_info |= {"over": f"over {name}", **pairs(step, rival)}
