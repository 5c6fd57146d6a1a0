"""Prove and time everything on a GPU, in one run of minutes, with what such a machine has.

PYTHONPATH=src python -m benchmarks.gpu_report --out DIR --seconds 480
PYTHONPATH=src python -m benchmarks.gpu_report --out DIR --rehearse     # on a CPU

Needs torch, triton, numpy, pytest, hypothesis and scipy. Five parts run one after the other, each
in a process of its own, so that one that crashes or takes too long costs no other. DIR holds what
has been found so far at any moment: report.md to read, results.json, a CSV for `benchmarks.tables`,
and what each part printed.
Ends with 1 if anything in the part "right" failed or was not reached, else with 0.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu_report.report import Report, append

ROOT = Path(__file__).parents[2]
NEEDS = ("torch", "triton", "numpy", "pytest", "hypothesis", "scipy")
# What runs a part, and the share of the time that has gone by when it must end: what one leaves,
# the next has.
PARTS = {
    "machine": ("machine.find", 0.03),
    "right": ("checks.right", 0.50),
    "core": ("checks.core", 0.65),
    "fast": ("speed.measure", 0.92),
    "tuned": ("tuning.measure", 1.0),
}


def run_part(name: str, lines: Path, rehearse: bool) -> None:
    module, function = PARTS[name][0].split(".")
    part = getattr(import_module(f"benchmarks.gpu_report.{module}"), function)
    part(partial(append, lines, name), rehearse)


def what_is_missing(rehearse: bool) -> str | None:
    for name in NEEDS:
        if find_spec(name) is None:
            return f"the report needs {name}, which is not installed here"
    import torch

    if not (rehearse or torch.cuda.is_available()):
        return "the report needs a GPU, and torch sees none here; --rehearse runs it on a CPU"
    return None


def start(name: str, lines: Path, log_file: Path, rehearse: bool) -> subprocess.Popen[bytes]:
    """Start a part in its own process; the kernels of a rehearsal are interpreted."""
    interpreted = {"TRITON_INTERPRET": "1"} if rehearse else {}
    command = [sys.executable, "-m", "benchmarks.gpu_report", "--out", str(lines), "--part", name]
    with log_file.open("wb") as log:
        return subprocess.Popen(
            command + ["--rehearse"] * rehearse,
            cwd=ROOT,
            env=os.environ | interpreted,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    parser.add_argument("--seconds", type=float, default=480, help="time for all parts together")
    parser.add_argument("--rehearse", action="store_true", help="small shapes, on a CPU")
    parser.add_argument(
        "--part", choices=PARTS, help="run one part alone, which adds lines to PART.jsonl"
    )
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if given.part:
        run_part(given.part, out, given.rehearse)
        return 0
    if missing := what_is_missing(given.rehearse):
        parser.error(missing)
    # What the parts find, line by line, is not for the reader; the report has it all.
    lines = Path(tempfile.mkdtemp())
    report = Report(out, lines, list(PARTS), given.rehearse)
    began = time.monotonic()
    for name, (_, share) in PARTS.items():
        process = start(name, lines, out / f"{name}.log", given.rehearse)
        while process.poll() is None and time.monotonic() - began < share * given.seconds:
            time.sleep(0.5)
            report.write()
        late = process.poll() is None
        if late:
            process.kill()
        code = process.wait()
        append(
            lines, name, {"ended": "out of time" if late else f"with {code}" if code else "whole"}
        )
        report.write()
        print(report.summary(name), flush=True)
    right = report.is_right()
    shutil.rmtree(lines)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
