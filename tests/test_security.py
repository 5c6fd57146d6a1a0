"""Nothing here runs what a file or a text says, or asks for a network."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import offline

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    path
    for folder in ("src", "examples", "docs", "benchmarks", "reliability")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not {"generated", "_build"} & set(path.parts)
]
# Mutation testing runs the library's own source, changed.
EXCEPTED = {
    "mutants.py": {"compile"},
    "lesions.py": {"KDTree(one).query", "KDTree(other).query"},  # of points
}
RUN_TEXT = {"eval", "exec", "compile", "__import__"}
PICKLES = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "builtins"}
NETWORK = {
    *("socket", "ssl", "socketserver", "http", "urllib", "ftplib", "smtplib", "xmlrpc", "asyncio"),
    *("requests", "httpx", "aiohttp", "urllib3", "huggingface_hub"),
}
SHELLS = (
    "os.system",
    "os.popen",
    "os.exec",
    "os.spawn",
    "os.posix_spawn",
    "subprocess.get",
    "pty.",
)
# What reads pickles, and has no safe form.
UNSAFE = ("read_pickle", "load_from_checkpoint", "unsafe_load", "load_state_dict_from_url")
UNSAFE_TAILS = ("hub.load", "jit.load", "yaml.load", "torch.package")


def faults(source: str) -> set[str]:
    """Name what a program does that may run foreign text, or reach for a network."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{name}" for name in names if name == "load"}
                found |= {f"os.{name}" for name in names if f"os.{name}".startswith(SHELLS)}
                names = [node.module or ""]
            found |= {name for name in names if name.partition(".")[0] in PICKLES | NETWORK}
        elif isinstance(node, ast.Name) and node.id in RUN_TEXT:
            found.add(node.id)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            last = name.rpartition(".")[2]
            if name.startswith(SHELLS) or given.get("shell", "False") != "False":
                found.add("shell")
            if last in UNSAFE or name.endswith(UNSAFE_TAILS):
                found.add(name)
            if last in ("eval", "query") and node.args:  # of pandas, a text; of a module, nothing
                found.add(name)
            if name == "torch.load" or "ckpt_path" in given:
                found |= {name} if given.get("weights_only") != "True" else set()
            if given.get("allow_pickle", "False") != "False":
                found.add("allow_pickle")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_what_it_reads(path: Path) -> None:
    assert faults(path.read_text()) == EXCEPTED.get(path.name, set())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("eval('1')", "eval"),
        ("list(map(exec, texts))", "exec"),
        ("__import__(name)", "__import__"),
        ("import pickle", "pickle"),
        ("def late():\n    from joblib import load", "joblib"),
        ("from torch import load", "torch.load"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=False)", "torch.load"),
        ("torch.load(path, weights_only=safe)", "torch.load"),
        ("trainer.fit(module, ckpt_path=path)", "trainer.fit"),
        ("Module.load_from_checkpoint(path)", "Module.load_from_checkpoint"),
        ("torch.hub.load('a', 'b')", "torch.hub.load"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("table.query(text)", "table.query"),
        ("subprocess.run(text, shell=True)", "shell"),
        ("os.system(text)", "shell"),
        ("from os import system", "os.system"),
        ("import urllib.request", "urllib.request"),
        ("from huggingface_hub import hf_hub_download", "huggingface_hub"),
    ],
)
def test_the_walk_sees_faults(source: str, expected: str) -> None:
    assert expected in faults(source)


@pytest.mark.parametrize(
    "source",
    [
        "module.eval()",
        "torch.compile(loss)",
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "subprocess.run([sys.executable, path])",
        "trainer.fit(module, ckpt_path=path, weights_only=True)",
    ],
)
def test_the_walk_lets_pass(source: str) -> None:
    assert not faults(source)


def run_offline(*program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", *program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_package_needs_no_network() -> None:
    done = run_offline("-m", "tests.support.offline")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "program",
    [
        "import socket; socket.socket().connect(('127.0.0.1', 9))",
        "import socket; socket.socket().bind(('', 0))",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import urllib.request; urllib.request.urlopen('http://localhost')",
        "import torch; torch.hub.load_state_dict_from_url('http://localhost/a')",
    ],
)
def test_a_network_would_be_seen(program: str) -> None:
    guard = "import sys; from tests.support import offline; sys.addaudithook(offline.refuse)"
    done = run_offline("-c", f"{guard}\ntry:\n    {program}\nexcept Exception: pass")
    assert done.returncode == offline.REFUSED, done.stdout + done.stderr
