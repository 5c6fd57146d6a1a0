"""Run chosen tests on one mutant: in a fork of a pytest session that has collected them already.

A mutant of a function's body takes the place of the body in the collected session; any other (a
constant, a default, a decorator) is imported anew. The working tree is never changed.
"""

import gc
import importlib
import importlib.machinery
import linecache
import os
import resource
import signal
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import coverage
import hypothesis
import pytest

OUTCOMES = ("survived", "killed", "anew", "error")
MEMORY = 8 * 2**30  # bytes
# What a mutated program cannot be asked quickly: compilation, and large images.
SLOW = "not compile and not exported and not large and not one_program"
Suite = dict[str, Any]


class Loaded(NamedTuple):
    """A session that has collected its tests, and the functions of every file that it loaded."""

    session: pytest.Session
    functions: dict[str, list[FunctionType]]


def prepare(sources: Path) -> None:
    """Import once what every mutant wants, but nothing of the sources."""
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported
    sys.path.insert(0, str(sources))
    for name in ("torch", "torch._inductor", "scipy.ndimage"):
        importlib.import_module(name)
    hasten_interpreter()
    hypothesis.settings.register_profile(
        "mutants", max_examples=10, derandomize=True, database=None, deadline=None
    )
    hypothesis.settings.load_profile("mutants")


def import_all(sources: Path) -> None:
    """Import every module, those too that the library imports when it needs them."""
    for path in sorted(sources.rglob("*.py")):
        name = ".".join(path.relative_to(sources.parent).with_suffix("").parts)
        importlib.import_module(name.removesuffix(".__init__"))


def interpreter() -> Any:
    return importlib.import_module("triton.runtime.interpreter")


def hasten_interpreter() -> None:
    """Take from Triton's interpreter what makes it thrice as slow, and changes no result.

    It looks through Triton's language at every call of a kernel's function, and finds out, for
    assertions that are off, whether integers overflow.
    """
    module = interpreter()
    module.interpreter_builder.options = module.InterpreterOptions(sanitize_overflow=False)
    patch, patched = module._patch_lang, set()

    def patch_once(function: FunctionType) -> Any:
        if id(function.__globals__) not in patched:
            patched.add(id(function.__globals__))
            patch(function)
        return module._LangPatchScope()  # nothing to restore

    module._patch_lang = patch_once


def collect(tests: Sequence[str], work: Callable[[pytest.Session], None]) -> None:
    """Collect the tests, and do the work in the place of running them."""

    class Loop:
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtestloop(self, session: pytest.Session) -> bool:
            if not session.testsfailed:  # in being collected
                work(session)
            return True

    options = ["-q", "-s", "--assert=plain", "--tb=no", "-p", "no:cacheprovider", "-k", SLOW]
    options += ["-o", "addopts=--import-mode=importlib"]
    pytest.main([*options, *tests], plugins=[Loop()])


def passes(session: pytest.Session, chosen: Sequence[str]) -> bool:
    """Tell whether the tests pass, up to the first that fails."""
    items = {item.nodeid: item for item in session.items}
    found = [items[name] for name in chosen if name in items]
    for item, following in zip_longest(found, found[1:]):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return False
    return True


def pass_anew(chosen: Sequence[str]) -> bool:
    """Tell whether the tests pass, collected now."""
    passed = []
    files = list(dict.fromkeys(name.split("::")[0] for name in chosen))
    collect(files, lambda session: passed.append(passes(session, chosen)))
    return passed == [True]


def in_fork(work: Callable[[], str], limit: int = 0) -> str:
    """Do the work in a child, and return what it returned, or how it ended.

    With a limit, in seconds of the processor, it does it unseen.
    """
    pid = os.fork()
    if not pid:
        if limit:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            signal.alarm(20 * limit)  # however busy the machine is
        code = OUTCOMES.index("error")
        try:
            code = OUTCOMES.index(work())
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        late = signal.SIGALRM, signal.SIGXCPU, signal.SIGKILL
        return "timeout" if os.WTERMSIG(status) in late else "crash"
    return OUTCOMES[os.WEXITSTATUS(status)]


def measure(tests: Sequence[str], sources: Path) -> Suite:
    """Run each test twice: how long it takes, and which lines of the sources it runs.

    Lines that the import of the sources runs are listed as a test without a name runs them.
    """
    seconds: dict[str, float] = {}
    tracer = coverage.Coverage(data_file=None, include=[f"{sources}/*"], config_file=False)

    def run(session: pytest.Session, *, traced: bool) -> Iterator[tuple[str, float]]:
        for item, following in zip_longest(session.items, session.items[1:]):
            failed, start = session.testsfailed, time.process_time()
            if traced:
                tracer.switch_context(item.nodeid)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed == failed:
                yield item.nodeid, time.process_time() - start

    def work(session: pytest.Session) -> None:
        tracer.stop()  # it makes what Triton interprets several times slower
        timed = dict(run(session, traced=False))
        tracer.start()
        passed = {name for name, _ in run(session, traced=True)}
        seconds.update((name, timed[name]) for name in timed if name in passed)

    tracer.start()
    import_all(sources)
    collect(tests, work)
    tracer.stop()
    data = tracer.get_data()
    lines = {
        path: {
            line: [name for name in names if not name or name in seconds]
            for line, names in data.contexts_by_lineno(path).items()
        }
        for path in data.measured_files()
    }
    return {"seconds": seconds, "lines": lines}


def choose(suite: Suite, names: set[str], budget: float) -> list[str]:
    """Order tests: the quickest case of every test function, then their second quickest, ...

    What takes no time, such as most of what is refused, comes with the first.
    """
    seconds, cases = suite["seconds"], defaultdict(list)
    for name in sorted(names, key=lambda name: (seconds[name], name)):
        cases[name.split("[")[0]].append(name)
    ranked = [
        (rank * (seconds[name] > 0.01), name)
        for group in cases.values()
        for rank, name in enumerate(group)
    ]
    chosen, spent = [], 0.0
    for _, name in sorted(ranked, key=lambda entry: (entry[0], seconds[entry[1]])):
        if seconds[name] < budget / 4 and spent + seconds[name] < budget:
            spent += seconds[name]
            chosen.append(name)
    return chosen


def load(session: pytest.Session, sources: Path) -> Loaded:
    """Look once for what every fork would look for."""
    import_all(sources)
    module, functions = interpreter(), defaultdict(list)
    for thing in gc.get_objects():
        if type(thing) is FunctionType:
            functions[thing.__code__.co_filename].append(thing)
        elif type(thing) is module.InterpretedFunction:
            thing.rewrite()  # both of which every fork would do
            module._patch_lang(thing.fn)
    gc.freeze()
    return Loaded(session, functions)


def swap_bodies(loaded: Loaded, path: str, mutated: str) -> bool:
    """Give a file's functions their mutated bodies, where each can be told apart."""
    if path not in loaded.functions:
        return False
    lines = mutated.splitlines(keepends=True)
    linecache.cache[path] = (len(mutated), None, lines, path)  # what Triton's interpreter reads
    codes = list(bodies(compiled(mutated, path)))
    named, often = dict(codes), Counter(name for name, _ in codes)
    for function in loaded.functions[path]:
        name = function.__code__.co_qualname, function.__code__.co_firstlineno
        if often[name] != 1 or named[name].co_freevars != function.__code__.co_freevars:
            return False
        function.__code__ = named[name]
        interpreter().InterpretedFunction.rewritten_fn.pop(function, None)
    return True


def compiled(text: str, path: str) -> CodeType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `is` with a literal
        return compile(text, path, "exec")


def bodies(code: CodeType) -> Iterator[tuple[tuple[str, int], CodeType]]:
    """Name a module's code objects, by qualified name and first line."""
    yield (code.co_qualname, code.co_firstlineno), code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from bodies(constant)


def import_mutated(path: str, mutated: str) -> None:
    """Make the next import of the file that of the mutated text."""
    loader = importlib.machinery.SourceFileLoader
    get_code = loader.get_code

    def get_mutated(self: Any, fullname: str) -> CodeType | None:
        return compiled(mutated, path) if self.path == path else get_code(self, fullname)

    loader.get_code = get_mutated  # type: ignore[method-assign]
    linecache.cache[path] = (len(mutated), None, mutated.splitlines(keepends=True), path)
