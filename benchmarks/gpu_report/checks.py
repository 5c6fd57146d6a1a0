"""The parts that ask whether it is right: pytest, on tensors of the device, test by test."""

import pytest

from benchmarks.gpu_report.report import Found, Tell
from benchmarks.workloads import DEVICE

# Warnings of other versions are none of ours here, and not all of the test plugins are installed.
SETTINGS = ["-o", "addopts=", "-o", "filterwarnings=", "--import-mode=importlib"]
SETTINGS += ["-q", "--tb=short", "-p", "no:cacheprovider"]
RIGHT = [
    "tests/kernels/test_outlier_weight_triton.py",
    "tests/functional/test_outlier_weight_backend.py",
    "tests/kernels/test_on_a_gpu.py",
]
# The most telling first: as many as there is time for.
CORE = [
    "tests/functional/test_outlier_region.py",
    "tests/functional/test_outlier_weight.py",
    "tests/losses/test_compound.py",
    "tests/functional/test_region_density.py",
    "tests/functional/test_scores.py",
    "tests/functional/test_dice.py",
    "tests/functional/test_cross_entropy.py",
    "tests/functional/test_noise_image.py",
    "tests/layers/test_fusion.py",
    "tests/layers/test_values.py",
    "tests/networks/test_u_shapes.py",
    "tests/functional/test_box_filter.py",
    "tests/losses",
    "tests/test_every_module.py",
]


class Outcomes:
    """A plugin of pytest that tells how each test went, as it goes."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.note(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self.note(report)

    def note(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        found: Found = {"test": report.nodeid, "outcome": report.outcome}
        if report.skipped and isinstance(report.longrepr, tuple):
            found["why"] = report.longrepr[2]
        elif report.failed:
            found["why"] = report.longreprtext[-2000:]
        self.tell(found)


def run(tell: Tell, *arguments: str) -> None:
    code = pytest.main([*SETTINGS, *arguments], plugins=[Outcomes(tell)])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        tell({"test": "pytest itself", "outcome": "failed", "why": f"it ended with {code!r}"})


def right(tell: Tell, rehearse: bool) -> None:
    run(tell, *RIGHT)


def core(tell: Tell, rehearse: bool) -> None:
    run(
        tell,
        f"--device={DEVICE.type}",
        *(["tests/functional/test_scores.py"] if rehearse else CORE),
    )
