"""What a results file holds: versions and device, no name of the machine, no raw timings."""

from typing import Any

import pytest
import torch

import gliomaseg_layers


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    cpu = machine_info["cpu"]
    machine_info.clear()
    on_gpu = torch.cuda.is_available()
    machine_info.update(
        device=torch.cuda.get_device_name() if on_gpu else cpu.get("brand_raw", "unknown CPU"),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        gliomaseg_layers=gliomaseg_layers.__version__,
    )


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]
) -> None:
    for key in ("commit_info", "datetime"):
        kept = output_json.pop(key, None)
        if key == "commit_info":
            output_json["commit"] = (kept or {}).get("id")
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"] = {
            name: benchmark["stats"][name] for name in ("min", "median", "iqr", "rounds")
        }
