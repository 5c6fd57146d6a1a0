"""The device, the versions, the commit, and how fast the device copies."""

import platform
import subprocess
from importlib import metadata

import torch

import gliomaseg_layers
from benchmarks.alternating import in_a_row, seconds
from benchmarks.gpu_report.report import Tell
from benchmarks.workloads import DEVICE

NAMES = ("torch", "triton", "numpy", "scipy", "pytest", "hypothesis", "timm", "torchmetrics")


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown: not a git checkout"


def find(tell: Tell, rehearse: bool) -> None:
    on_gpu = DEVICE.type == "cuda"
    facts = {
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {platform.machine()}",
        "gliomaseg_layers": gliomaseg_layers.__version__,
        "commit": commit(),
        "Python": platform.python_version(),
        "CUDA": str(torch.version.cuda),
        **{name: version(name) for name in NAMES},
    }
    if on_gpu:
        properties = torch.cuda.get_device_properties(DEVICE)
        facts["memory"] = f"{properties.total_memory / 2**30:.0f} GiB"
        facts["compute capability"] = f"{properties.major}.{properties.minor}"
        facts["multiprocessors"] = str(properties.multi_processor_count)
    for name, value in facts.items():
        tell({"fact": name, "value": value})
    source = torch.zeros(2**20 if rehearse else 2**29, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    times = in_a_row(copy)
    best = min(seconds(copy, times) for _ in range(7))
    tell({"fact": "copy on the device", "value": f"{2 * source.nbytes / best / 1e9:.0f} GB/s"})
