"""Two steps by turns: on a machine that others use too, that says more than two times apart.

On a CPU the time is that of the processor, which is the step's own while others wait for it.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

clock = time.perf_counter if torch.cuda.is_available() else time.process_time


def compare(
    benchmark: Any, step: Callable[[], object], rival: Callable[[], object], name: str
) -> None:
    """Note how long a step takes over a rival's, in pairs, for two seconds after one of each.

    ``ratio`` is the median of the pairs, half of which lie between ``low`` and ``high``; ``least``
    is of the least times.
    """
    if not benchmark.enabled:
        return
    step(), rival()
    times: tuple[list[float], list[float]] = ([], [])
    began = clock()
    while len(times[0]) < 5 or clock() - began < 2:
        for run, found in zip((step, rival), times, strict=True):
            start = clock()
            run()
            found.append(clock() - start)
    pairs = [mine / other for mine, other in zip(*times, strict=True)]
    low, ratio, high = statistics.quantiles(pairs, n=4, method="inclusive")
    least = min(times[0]) / min(times[1])
    benchmark.extra_info |= {"over": f"over {name}", "ratio": ratio, "low": low, "high": high}
    benchmark.extra_info |= {"least": least, "ms": 1e3 * min(times[0])}
