"""Kill the training examples at random moments, go on, and compare with runs that were let be.

Prints a table. On a generated stand-in, with small networks: each example is run once to its end,
and ten times until a SIGKILL at a moment drawn evenly from the time that the whole run took once it
had made its folder. Then every file that it left must be readable, and the same command with
--resume must end with the whole run's results.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from examples.lgg.standin import write_standin
from examples.saving.whole_files import read_json, read_saved

ROOT = Path(__file__).resolve().parents[1]
SEED = 23
CPU = ["--workers", "1", "--accelerator", "cpu"]
RECIPE = ["size=32", "batch_size=4", "widths=[8,16,32]", "flip=true", "degrees=15.0", "cosine=true"]
RAMP = ["gamma=1.0", "ramp=[0.1,0.5]", "patience=6"]


def recipe(data: Path, run: Path) -> list[object]:
    settings = ["--epochs", 8, "--set", *RECIPE, *RAMP]
    return ["examples.recipes", "train", "mu-net", "--data", data, "--output", run, *settings, *CPU]


def demo(data: Path, run: Path) -> list[object]:
    lengths = ["--warm-epochs", 6, "--epochs", 4, "--batch-size", 4, "--size", 32]
    where = ["--runs", run.parent, "--name", run.name]
    return ["examples.lgg", "--data", data, *where, *lengths, *CPU]


def homes(run: Path) -> list[Path]:
    """Return where a run keeps its files; the demo's are elsewhere until it is done."""
    return [run, run.with_name(f".part-{run.name}")]


def start(command: list[object], run: Path, moment: float | None = None) -> float | None:
    """Run to the end, or until so many seconds after the run's folder is there.

    Return the seconds from the folder to the end, None where the run was killed.
    """
    running = subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any(home.exists() for home in homes(run)) and running.poll() is None:
        time.sleep(0.01)
    began = time.perf_counter()
    try:
        _, error = running.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        running.kill()
        running.communicate()
        return None
    if running.returncode:
        raise RuntimeError(error)
    return time.perf_counter() - began


def left(run: Path) -> dict[str, int]:
    """Read every checkpoint and JSON file of a killed run; return how many there are."""
    paths = [
        path for home in homes(run) for path in home.rglob("*") if not path.name.startswith(".")
    ]
    saved = [read_saved(path) for path in paths if path.suffix == ".ckpt"]
    for path in paths:
        if path.suffix == ".json":
            read_json(path)
    # A recipe's checkpoints say how far they are, the demo's hold the figures of every epoch.
    epochs = [content.get("epoch", -1) + 1 or len(content["rows"]) for content in saved]
    return {"checkpoints": len(saved), "epochs": max(epochs, default=0)}


def results(run: Path) -> dict[str, str]:
    """Return what a run came to, less the time that it took."""
    # A recipe's report holds times, and the demo's report its scores.
    tables = [*run.glob("scores.csv")] or [*run.glob("report.md")]
    texts = {path.name: path.read_text() for path in tables}
    for path in run.rglob("metrics.csv"):
        table = pd.read_csv(path).drop(columns="seconds", errors="ignore")
        texts[str(path.relative_to(run))] = table.to_csv()
    return texts


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=10, help="of each example")
    wanted = parser.parse_args().kills
    numbers = random.Random(SEED)
    failed = False
    print("| example | killed after, s | checkpoints left | epochs in them | same results |")
    print("| --- | ---: | ---: | ---: | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "kaggle_3m"
        write_standin(data, patients=6, slices=12, size=48, seed=1)
        for example in (recipe, demo):
            whole = Path(scratch) / f"{example.__name__}-whole"
            seconds = start(example(data, whole), whole)
            assert seconds is not None  # nobody kills it
            expected = results(whole)
            kills = 0
            while kills < wanted:
                moment = numbers.uniform(0, seconds)
                run = Path(scratch) / f"{example.__name__}-{moment}"
                if start(example(data, run), run, moment) is not None:
                    continue  # there was nothing left to kill
                row = {"seconds": round(moment, 1)} | left(run)
                if results(run) != expected:  # it may have been killed after its last file
                    start([*example(data, run), "--resume"], run)
                same = results(run) == expected
                failed |= not same
                kills += 1
                cells = [example(data, run)[0], *row.values(), "yes" if same else "NO"]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
