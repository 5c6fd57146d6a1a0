"""Draw calls with Hypothesis, part by part, until so many examples have passed; resume if stopped.

Every part is a seed: it runs each test that Hypothesis draws for with examples of its own, in the
order of the seeds. What passed is counted in an untracked file, and is not run again.
"""

import argparse
import json
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TESTS = [
    "test_whole_calls.py",
    "functional/test_properties.py",
    "layers/test_whole_calls.py",
    "metrics/test_whole_calls.py",
]


class Part:
    """A pytest plugin that sets how many examples a test gets, and counts those that it runs."""

    def __init__(self, examples: int) -> None:
        self.examples = examples
        self.count: Counter[str] = Counter()

    def pytest_configure(self) -> None:
        """Come after the suite's own settings, which its conftest loads."""
        from hypothesis import HealthCheck, settings  # not before pytest, which rewrites it

        settings.register_profile(
            "part",
            max_examples=self.examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        settings.load_profile("part")

    def pytest_itemcollected(self, item: Any) -> None:
        """Count the examples of a test by its file and name."""
        drawn = item.obj.hypothesis
        drawn.inner_test = self.counted(drawn.inner_test, item.nodeid)

    def counted(self, test: Any, name: str) -> Any:
        """Return the test with a count of what it is called with."""

        @wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            self.count[name] += 1
            test(*args, **kwargs)

        return run


def run_part(seed: int, examples: int) -> dict[str, int]:
    """Run every test with so many examples, and return how many each had."""
    part = Part(examples)
    tests = [str(HERE.parent / "tests" / name) for name in TESTS]
    if pytest.main(["-q", f"--hypothesis-seed={seed}", *tests], plugins=[part]):
        raise SystemExit(f"seed {seed} found a failure, printed above")
    return dict(sorted(part.count.items()))


def main() -> None:
    """Run the parts that the results do not hold yet, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100_000, help="in all")
    parser.add_argument("--part", type=int, default=500, help="examples of a test in one part")
    parser.add_argument("--results", type=Path, default=HERE.parent / "runs" / "fuzz.json")
    args = parser.parse_args()
    args.results.parent.mkdir(exist_ok=True)
    done: dict[str, dict[str, int]] = {}
    if args.results.exists():
        done = json.loads(args.results.read_text())
    spawn = multiprocessing.get_context("spawn")
    seed = 0
    while (total := sum(sum(part.values()) for part in done.values())) < args.examples:
        if str(seed) not in done:
            with ProcessPoolExecutor(1, spawn) as process:
                done[str(seed)] = process.submit(run_part, seed, args.part).result()
            args.results.write_text(json.dumps(done, indent=1) + "\n")
        seed += 1
    by_test: Counter[str] = Counter()
    for counts in done.values():
        by_test.update(counts)
    print("| test | examples |", "| --- | ---: |", sep="\n")
    for name, count in by_test.items():
        print(f"| `{name.removeprefix('tests/')}` | {count:,} |")
    print(f"\n{total:,} examples passed, in {len(done)} parts.")


if __name__ == "__main__":
    main()
