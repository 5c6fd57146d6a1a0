"""Measure what 10 000 training steps of every loss leave behind in memory; print a table.

The first tenth is warm-up; Python's objects are those of another 100 steps.
"""

import argparse
import gc
import tracemalloc
from pathlib import Path
from typing import Any

from tests.support.cases import case
from tests.support.steps import LOSSES, step

PAGE = 4  # KiB
SIZE = (32, 32)


def resident() -> int:
    """Return the resident memory of this process in KiB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def grown(loss: Any, mode: str, channels: int, steps: int) -> dict[str, float]:
    """Return by how many KiB all steps but the warm-up grow, and 100 traced ones."""
    x, target = case(SIZE, mode, channels)

    def run(count: int) -> None:
        for _ in range(count):
            step(loss, x.float(), target)
        gc.collect()

    run(steps // 10)
    start = resident()
    run(steps - steps // 10)
    result: dict[str, float] = {"resident": resident() - start}
    tracemalloc.start()
    run(100)
    start, _ = tracemalloc.get_traced_memory()
    run(100)
    result["python"] = round((tracemalloc.get_traced_memory()[0] - start) / 1024, 1)
    tracemalloc.stop()
    return result


def main() -> None:
    """Measure every loss in two modes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    steps = parser.parse_args().steps
    print("| loss | mode | resident, KiB | Python objects, KiB |")
    print("| --- | --- | ---: | ---: |")
    for name, make_loss in LOSSES.items():
        for mode, channels in (("binary", 1), ("multiclass", 3)):
            found = grown(make_loss(mode=mode), mode, channels, steps)
            print(f"| {name} | {mode} | {found['resident']} | {found['python']} |", flush=True)


if __name__ == "__main__":
    main()
