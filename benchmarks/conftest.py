"""What a results file says of its device and versions: no name of the machine."""

from typing import Any

import pytest
import torch

import gliomaseg_layers


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    cpu = machine_info["cpu"].get("brand_raw", "unknown CPU")
    machine_info.clear()
    machine_info["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    machine_info["versions"] = (
        f"gliomaseg_layers {gliomaseg_layers.__version__}, torch {torch.__version__}, one thread, "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Run everything with one thread, which neighbours on the machine disturb least."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
