"""Mutation testing: change the library one operator at a time, and see whether a test notices.

Every mutant of ``functional`` and ``losses`` that cosmic-ray knows, and a seeded sample of the
rest, against the tests that run the changed line: the quickest first, for eight seconds at most.
Resumes where it stopped; writes reliability/results/mutants.json.
"""

import argparse
import ast
import gc
import hashlib
import json
import os
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

from reliability import mutant_runs as runs
from reliability.mutant_report import KILLED, report

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "gliomaseg_layers"
RAW = ROOT / ".mutants"
WHOLE = ("functional", "losses")
TESTS = ["functional", "kernels", "losses", "layers", "metrics", "networks", "test_every_module.py"]
TESTS = [f"tests/{name}" for name in [*TESTS, "test_architecture.py", "test_costs.py"]]


class Mutant(NamedTuple):
    """One change: the n-th place in a file where an operator of cosmic-ray acts."""

    file: str
    line: int
    operator: str
    occurrence: int

    @property
    def path(self) -> Path:
        return SOURCES / self.file

    def code(self) -> str:
        operator = cosmic_ray.plugins.get_operator(f"core/{self.operator}")()
        return str(mutate_code(self.path.read_text(), operator, self.occurrence))

    def change(self, code: str) -> tuple[str, str]:
        """Return the first line that differs, as it was and as it became."""
        pairs = zip(self.path.read_text().splitlines(), code.splitlines(), strict=False)
        was, became = next(pair for pair in pairs if pair[0] != pair[1])
        return was.strip(), became.strip()


def mutants(path: Path) -> Iterator[Mutant]:
    """List a file's mutants, but for what computes nothing.

    That is type annotations, the bare star of a signature, and ``strict=True`` of ``zip``, which
    asserts what always holds.
    """
    tree, nodes = ast.parse(path.read_text()), list(ast_nodes(get_ast(path.read_text())))
    notes = [
        (note.lineno, note.col_offset, note.end_lineno, note.end_col_offset)
        for node in ast.walk(tree)
        for name in ("annotation", "returns")
        if (note := getattr(node, name, None)) is not None
    ]
    for name in sorted(cosmic_ray.plugins.operator_names()):
        operator = cosmic_ray.plugins.get_operator(name)
        if operator.arguments():
            continue  # replaces named variables: wants to be told which
        places = [(node, place) for node in nodes for place in operator().mutation_positions(node)]
        for occurrence, (node, ((line, column), _)) in enumerate(places):
            noted = any(note[:2] <= (line, column) <= note[2:] for note in notes)
            strict = node.get_code(include_prefix=False) == "True" and (
                node.get_previous_leaf().get_previous_leaf().value == "strict"
            )
            bare = node.type == "operator" and node.get_next_leaf() == ","
            if not (noted or strict or bare):
                file = str(path.relative_to(SOURCES))
                yield Mutant(file, line, name.split("/")[1], occurrence)


@cache
def statements(path: Path) -> list[tuple[int, int]]:
    """Return first and last line of every statement; of compound ones and clauses, of the head."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            body = getattr(node, "body", None)
            last = max(body[0].lineno - 1, first) if body else node.end_lineno or first
            found.append((first, last))
    return sorted(found)


def digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


def outcome(
    mutant: Mutant, code: str, suite: runs.Suite, loaded: runs.Loaded | None, budget: float
) -> str:
    """Run a mutant in a collected session, or anew where there is none; "anew" asks for that."""
    lines, path = suite["lines"].get(str(mutant.path), {}), str(mutant.path)
    first, last = max(s for s in statements(mutant.path) if s[0] <= mutant.line <= s[1])
    names = {name for line in range(first, last + 1) for name in lines.get(str(line), [])}
    if "" in names:  # run at import: it may change whatever the file does
        if loaded is not None:
            return "anew"
        names = {name for line in lines.values() for name in line}
    chosen = runs.choose(suite, names - {""}, budget)
    if not chosen:
        return "not run"

    def run() -> str:
        if loaded is None:
            runs.import_mutated(path, code)
            return "survived" if runs.pass_anew(chosen) else "killed"
        if not runs.swap_bodies(loaded, path, code):
            return "anew"
        return "survived" if runs.passes(loaded.session, chosen) else "killed"

    return runs.in_fork(run, 10 + 3 * int(budget))


def records() -> dict[Mutant, dict[str, Any]]:
    """Return the newest outcome of every mutant of the sources as they are."""
    path = RAW / "outcomes.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    sources = {name: digest(SOURCES / name) for name in {entry["file"] for entry in entries}}
    return {
        Mutant(*(entry[name] for name in Mutant._fields)): entry
        for entry in entries
        if entry["source"] == sources[entry["file"]]
    }


def todo(chosen: list[Mutant], suite: runs.Suite, budget: float) -> list[Mutant]:
    """Return what has no outcome, and what survived other tests than these."""
    known = records()
    settled = {
        mutant
        for mutant, entry in known.items()
        if entry["outcome"] in (*KILLED, "invalid")
        or (entry["suite"] == suite["key"] and entry["budget"] >= budget)
    }
    return [mutant for mutant in chosen if mutant not in settled]


def work(share: list[Mutant], suite: runs.Suite, tests: list[str], budget: float) -> None:
    """Record outcomes: first those that a collected session can show, then the others."""

    def record(loaded: runs.Loaded | None) -> None:
        for mutant in todo(share, suite, budget):
            code = mutant.code()
            try:
                runs.compiled(code, str(mutant.path))
            except SyntaxError:
                found = "invalid"
            else:
                found = outcome(mutant, code, suite, loaded, budget)
            if found == "anew" and loaded is not None:
                continue
            was, became = mutant.change(code)
            entry = mutant._asdict() | {"was": was, "became": became, "outcome": found}
            entry |= {"source": digest(mutant.path), "suite": suite["key"], "budget": budget}
            with (RAW / "outcomes.jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def unchanged(loaded: runs.Loaded) -> str:
        for path in {mutant.path for mutant in share}:
            runs.swap_bodies(loaded, str(path), path.read_text())
        names = runs.choose(suite, set(suite["seconds"]), 4 * budget)
        return "survived" if runs.passes(loaded.session, names) else "killed"

    def in_session(loaded: runs.Loaded) -> None:
        if (found := runs.in_fork(lambda: unchanged(loaded), 60 + 12 * int(budget))) != "survived":
            raise RuntimeError(f"without a change the tests are {found}")
        record(loaded)

    def collected() -> str:
        runs.collect(tests, lambda session: in_session(runs.load(session, SOURCES)))
        return "survived"

    runs.in_fork(collected)
    record(None)


def measured(tests: list[str]) -> runs.Suite:
    """Return what the tests run, measured once for these tests and sources."""
    files = sorted([*SOURCES.rglob("*.py"), *(ROOT / "tests").rglob("*.py")])
    key = f"{digest(*files)}-{hashlib.sha256(' '.join(tests).encode()).hexdigest()[:6]}"
    path = RAW / f"suite-{key}.json"
    if not path.exists():

        def measure() -> str:
            suite = runs.measure(tests, SOURCES) | {"key": key}
            if not suite["seconds"]:
                raise RuntimeError(f"no test passes of {tests}")
            path.write_text(json.dumps(suite))
            return "survived"

        runs.in_fork(measure)
    suite: runs.Suite = json.loads(path.read_text())
    return suite


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="what to change, below src/gliomaseg_layers")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="files and folders of tests")
    parser.add_argument("--sample", type=int, default=150, help="mutants of what is not WHOLE")
    parser.add_argument("--seed", type=int, default=23)
    parser.add_argument("--budget", type=float, default=8.0, help="seconds of tests a mutant")
    parser.add_argument("--again", action="store_true", help="only what survived so far")
    parser.add_argument("--jobs", type=int, default=2, help="0 only reports what is known")
    given = parser.parse_args()
    os.chdir(ROOT)
    runs.prepare(ROOT / "src")
    RAW.mkdir(exist_ok=True)
    every = [mutant for path in sorted(SOURCES.rglob("*.py")) for mutant in mutants(path)]
    chosen = [mutant for mutant in every if mutant.file.startswith(WHOLE)]
    rest = [mutant for mutant in every if not mutant.file.startswith(WHOLE)]
    chosen += random.Random(given.seed).sample(rest, given.sample)
    if given.files:
        chosen = [m for m in chosen if m.file.startswith(tuple(given.files))]
    if given.again:
        known = records()
        chosen = [m for m in chosen if m in known and known[m]["outcome"] not in KILLED]
    random.Random(given.seed).shuffle(chosen)  # so that each share takes as long
    if given.jobs:
        suite = measured(given.tests)
        print(f"{len(chosen)} mutants, {len(todo(chosen, suite, given.budget))} to run", flush=True)
        gc.freeze()
    workers = []
    for index in range(given.jobs):
        if not (pid := os.fork()):
            try:
                work(chosen[index :: given.jobs], suite, given.tests, given.budget)
            finally:
                os._exit(0)
        workers.append(pid)
    for pid in workers:
        os.waitpid(pid, 0)
    known = records()
    settings = {name: value for name, value in vars(given).items() if name != "jobs"}
    left = [mutant.file for mutant in chosen if mutant not in known]
    print(report([known[mutant] for mutant in chosen if mutant in known], left, settings))


if __name__ == "__main__":
    main()
