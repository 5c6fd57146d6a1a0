"""Mutation testing: change the library one operator at a time, and see whether a test notices.

Every change that cosmic-ray knows, or a seeded sample, against the tests that run the changed line:
the quickest first, for some seconds. Resumes where it stopped; prints a table, and what survived.
The working tree is never changed: a mutant is imported in the place of its file.
"""

import argparse
import ast
import hashlib
import importlib
import importlib.machinery
import json
import linecache
import os
import random
import resource
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import coverage
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "gliomaseg_layers"
RAW = ROOT / ".mutants"
TESTS = ["tests/functional", "tests/kernels", "tests/losses", "tests/layers", "tests/metrics"]
# What cannot be asked quickly: compilation, and large images.
QUICK = "not compile and not exported and not large and not one_program"
MEMORY = 8 * 2**30  # bytes
KILLED, SURVIVED, TIMEOUT, INVALID = "killed", "survived", "timeout", "invalid"


class Mutant(NamedTuple):
    """One change: the n-th place in a file where an operator of cosmic-ray acts."""

    file: str
    line: int
    operator: str
    occurrence: int

    def code(self) -> str:
        text = (SOURCES / self.file).read_text()
        return str(mutate_code(text, get_operator(self.operator)(), self.occurrence))


def mutants(path: Path) -> Iterator[Mutant]:
    """List a file's mutants, but for annotations and the bare star, which compute nothing."""
    text = path.read_text()
    notes = [
        (note.lineno, note.col_offset, note.end_lineno, note.end_col_offset)
        for node in ast.walk(ast.parse(text))
        for name in ("annotation", "returns")
        if (note := getattr(node, name, None)) is not None
    ]
    for name in sorted(operator_names()):
        operator = get_operator(name)
        if operator.arguments():
            continue  # replaces named variables: wants to be told which
        nodes = ast_nodes(get_ast(text))
        places = [(node, place) for node in nodes for place in operator().mutation_positions(node)]
        for occurrence, (node, ((line, column), _)) in enumerate(places):
            noted = any(note[:2] <= (line, column) <= note[2:] for note in notes)
            bare = node.type == "operator" and node.get_next_leaf() == ","
            if not (noted or bare):
                yield Mutant(str(path.relative_to(SOURCES)), line, name, occurrence)


def digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


class Watch:
    """A pytest plugin that times every test, and tells coverage which one runs."""

    def __init__(self, tracer: coverage.Coverage) -> None:
        self.tracer, self.seconds = tracer, dict[str, float]()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.tracer.switch_context(item.nodeid)
        failed, start = item.session.testsfailed, time.process_time()
        result = yield
        if item.session.testsfailed == failed:
            self.seconds[item.nodeid] = time.process_time() - start
        return result


def run_tests(*tests: str, plugins: Sequence[object] = ()) -> int:
    options = ["-q", "--tb=no", "--assert=plain", "-p", "no:cacheprovider", "-k", QUICK]
    return int(pytest.main([*options, *tests], plugins=plugins))


def measure(tests: list[str], path: Path) -> int:
    """Write how long every test takes, and the tests that run each line; "" is the import.

    A test that fails without a change is left out.
    """
    tracer = coverage.Coverage(data_file=None, include=[f"{SOURCES}/*"], config_file=False)
    watch = Watch(tracer)
    tracer.start()
    run_tests(*tests, plugins=[watch])
    tracer.stop()
    data = tracer.get_data()
    lines = {file: data.contexts_by_lineno(file) for file in data.measured_files()}
    path.write_text(json.dumps({"seconds": watch.seconds, "lines": lines}))
    return 0


def chosen_tests(mutant: Mutant, suite: dict[str, Any], budget: float) -> list[str]:
    """Return the tests that run the statement, one case of a test after the other's."""
    path, seconds = SOURCES / mutant.file, suite["seconds"]
    lines = suite["lines"].get(str(path), {})
    spans = [
        (node.lineno, (getattr(node, "body", None) or [node])[0].end_lineno or node.lineno)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.stmt)
    ]
    first, last = max(span for span in spans if span[0] <= mutant.line)
    names = {name for line in range(first, last + 1) for name in lines.get(str(line), [])}
    if "" in names:  # run at import: it may change whatever the file does
        names = {name for tests in lines.values() for name in tests}
    ranks: Counter[str] = Counter()
    ranked = []
    for name in sorted(names & seconds.keys(), key=lambda name: (seconds[name], name)):
        ranked.append((ranks[name.split("[")[0]], seconds[name], name))
        ranks[name.split("[")[0]] += 1
    found, spent = [], 0.0
    for _, took, name in sorted(ranked):
        if spent + took < budget:
            spent += took
            found.append(name)
    return found


def import_mutated(path: str, text: str) -> None:
    """Make the next import of the file that of the mutated text."""
    loader: Any = importlib.machinery.SourceFileLoader
    get_code = loader.get_code

    def mutated_code(self: Any, name: str) -> Any:
        return compile(text, path, "exec") if self.path == path else get_code(self, name)

    loader.get_code = mutated_code
    # Triton reads kernels as text.
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)


def in_fork(work: Callable[[], int], limit: int) -> str:
    """Do the work unseen in a child, for so many seconds of the processor at most."""
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        signal.alarm(20 * limit)  # however busy the machine is
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return TIMEOUT
    return KILLED if os.WEXITSTATUS(status) else SURVIVED


def tried(file: str, text: str, tests: list[str], budget: float) -> str:
    """Run tests with a text in the place of a file."""

    def work() -> int:
        import_mutated(str(SOURCES / file), text)
        return run_tests("-x", *tests)

    return in_fork(work, 30 + 3 * int(budget)) if tests else SURVIVED


def outcome(mutant: Mutant, suite: dict[str, Any], budget: float) -> str:
    text, tests = mutant.code(), chosen_tests(mutant, suite, budget)
    try:
        with warnings.catch_warnings(action="ignore"):  # `is` with a literal
            compile(text, mutant.file, "exec")
    except SyntaxError:
        return INVALID
    return tried(mutant.file, text, tests, budget)


def known() -> dict[Mutant, dict[str, Any]]:
    """Return the newest outcome of every mutant of the sources as they are."""
    path = RAW / "outcomes.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {
        Mutant(*(entry[name] for name in Mutant._fields)): entry
        for entry in entries
        if entry["source"] == digest(SOURCES / entry["file"])
    }


def work_through(share: list[Mutant], suite: dict[str, Any], budget: float, key: str) -> None:
    for name in {mutant.file for mutant in share}:
        tests = sorted(
            {test for m in share if m.file == name for test in chosen_tests(m, suite, 1)}
        )
        if tried(name, (SOURCES / name).read_text(), tests, 4 * budget) != SURVIVED:
            raise RuntimeError(f"the tests of {name} fail without a change")
    for mutant in share:
        was = (SOURCES / mutant.file).read_text().splitlines()
        became = mutant.code().splitlines()
        change = next(pair for pair in zip(was, became, strict=False) if pair[0] != pair[1])
        entry = mutant._asdict() | {"change": " -> ".join(line.strip() for line in change)}
        entry["outcome"] = outcome(mutant, suite, budget)
        entry["survived"] = key if entry["outcome"] == SURVIVED else None
        entry["source"] = digest(SOURCES / mutant.file)
        with (RAW / "outcomes.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")


def report(entries: list[dict[str, Any]]) -> str:
    """Return a table of files, and the survivors."""
    files = sorted({entry["file"] for entry in entries})
    lines = ["| file | mutants | killed | survived |", "| --- | ---: | ---: | ---: |"]
    for name in [*files, "in all"]:
        counts = Counter(
            entry["outcome"]
            for entry in entries
            if name in (entry["file"], "in all") and entry["outcome"] != INVALID
        )
        killed = counts[KILLED] + counts[TIMEOUT]
        lines.append(f"| `{name}` | {counts.total()} | {killed} | {counts[SURVIVED]} |")
    lines += [""] + [
        f"{entry['file']}:{entry['line']}  {entry['change']}"
        for entry in sorted(entries, key=lambda entry: (entry["file"], entry["line"]))
        if entry["outcome"] == SURVIVED
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", default=["functional", "losses", "_reduction.py"])
    parser.add_argument("--tests", nargs="+", default=TESTS, help="files and folders of tests")
    parser.add_argument("--sample", type=int, help="so many mutants of all")
    parser.add_argument("--seed", type=int, default=23)
    parser.add_argument("--budget", type=float, default=8.0, help="seconds of tests a mutant")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    os.chdir(ROOT)
    os.environ |= {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    RAW.mkdir(exist_ok=True)
    chosen = [
        mutant
        for path in sorted(SOURCES.rglob("*.py"))
        if str(path.relative_to(SOURCES)).startswith(tuple(given.files))
        for mutant in mutants(path)
    ]
    random.Random(given.seed).shuffle(chosen)  # so that each share takes as long
    chosen = chosen[: given.sample]
    files = digest(*SOURCES.rglob("*.py"), *ROOT.glob("tests/**/*.py"))
    key = f"{files}-{hashlib.sha256(' '.join(given.tests).encode()).hexdigest()[:6]}"
    done = known()
    # What survived meets the tests again where they are others.
    todo = [m for m in chosen if m not in done or done[m]["survived"] not in (None, key)]
    print(f"{len(chosen)} mutants, {len(todo)} to run", flush=True)
    if todo:
        measured = RAW / f"suite-{key}.json"
        if not measured.exists():  # in a process of its own, which imports the library
            in_fork(lambda: measure(given.tests, measured), 3600)
        suite = json.loads(measured.read_text())
        for name in ("torch", "torch._inductor", "scipy.ndimage", "triton"):
            importlib.import_module(name)  # once for all
        workers = []
        for index in range(given.jobs):
            if not (pid := os.fork()):
                try:
                    work_through(todo[index :: given.jobs], suite, given.budget, key)
                except RuntimeError as error:
                    print(error, flush=True)
                finally:
                    os._exit(0)
            workers.append(pid)
        for pid in workers:
            os.waitpid(pid, 0)
    done = known()
    print(report([done[mutant] for mutant in chosen if mutant in done]))


if __name__ == "__main__":
    main()
