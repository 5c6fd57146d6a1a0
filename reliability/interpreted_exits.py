"""Let coverage know where an interpreted kernel ends.

Triton's interpreter runs a copy of each kernel that has the kernel's lines but no decorator. What
leaves the copy leaves a function that begins at its ``def``; coverage waits for one that begins at
the decorator, and would call the last branch of every kernel partial.
"""

import ast
from pathlib import Path

from coverage import CoverageData


def exits(arcs: list[tuple[int, int]], source: str) -> list[tuple[int, int]]:
    """Return those steps, from line to line, that leave a copy, as steps that leave the kernel."""
    begins = {
        node.lineno: node.decorator_list[0].lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.decorator_list
    }
    return [(last, -begins[-end]) for last, end in arcs if -end in begins]


def main() -> None:
    """Complete the data of the folder it runs in."""
    data = CoverageData()
    data.read()
    for name in data.measured_files():
        data.add_arcs({name: exits(data.arcs(name) or [], Path(name).read_text())})


if __name__ == "__main__":
    main()
