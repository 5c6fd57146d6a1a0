"""Time every loss, forward and backward, beside the network's own step; write results/times.csv."""

import platform
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
from cpuinfo import get_cpu_info

from benchmarks.evidence.methods import METHODS
from benchmarks.evidence.run import BATCH, SIDE, network
from benchmarks.evidence.summary import RESULTS

ROUNDS = 30
NETWORK = "network"


def main() -> None:
    torch.manual_seed(0)
    random.seed(0)
    model = network()
    images = torch.randn(BATCH, 3, SIDE, SIDE)
    masks = torch.zeros(BATCH, 1, SIDE, SIDE)
    masks[::2, :, 40:70, 50:80] = 1
    logits = (8 * masks - 6 + 2 * torch.randn_like(masks)).requires_grad_()

    def timed(call: Callable[[], torch.Tensor]) -> float:
        start = time.perf_counter()
        call().backward()  # type: ignore[no-untyped-call]
        return 1e3 * (time.perf_counter() - start)

    calls: dict[str, Callable[[], torch.Tensor]] = {NETWORK: lambda: model(images).mean()}
    calls |= {name: partial(loss, logits, masks) for name, loss in METHODS.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    # Interleaved, as what slows the machine then slows all of them, and shuffled, as a large
    # neighbour leaves cold memory behind.
    names = list(calls)
    for _ in range(ROUNDS):
        random.shuffle(names)
        for name in names:
            times[name].append(timed(calls[name]))
    medians = {name: round(statistics.median(values[2:]), 2) for name, values in times.items()}
    table = pd.DataFrame({"method": medians.keys(), "ms": medians.values()})
    table["device"] = get_cpu_info().get("brand_raw", platform.machine())
    table["threads"], table["torch"] = torch.get_num_threads(), torch.__version__
    table.to_csv(RESULTS / "times.csv", index=False)


if __name__ == "__main__":
    main()
