"""Two steps by turns: on a machine that others use too, that says more than two times apart."""

import statistics
import time
from collections.abc import Callable


def ratios(step: Callable[[], object], rival: Callable[[], object], name: str) -> dict[str, float]:
    """Return how long a step takes over a rival's, by minima and by medians, after two seconds."""
    times: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    while len(times[0]) < 3 or time.perf_counter() - began < 2:
        for run, found in zip((step, rival), times, strict=True):
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
    return {
        f"over {name}, {of}": summary(times[0]) / summary(times[1])
        for of, summary in (("min", min), ("median", statistics.median))
    }
