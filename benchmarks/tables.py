"""Write the tables of benchmarks/README.md from the results files beside it."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MARK = "<!-- tables -->"


def table(results: dict[str, Any]) -> str:
    machine = results["machine_info"]
    lines = [
        f"## {machine['device']}, {machine['threads']} threads",
        "",
        f"torch {machine['torch']}, gliomaseg_layers {machine['gliomaseg_layers']} "
        f"at commit {str(results['commit'])[:9]}.",
    ]
    for group, cases in groupby(results["benchmarks"], key=lambda case: case["group"]):
        rows = list(cases)
        lines += ["", f"### {group}", "", "| case | min, ms | median, ms | IQR, ms | over first |"]
        lines += ["| --- | ---: | ---: | ---: | ---: |"]
        for row in rows:
            stats = row["stats"]
            times = " | ".join(f"{stats[name] * 1e3:.2f}" for name in ("min", "median", "iqr"))
            ratio = stats["median"] / rows[0]["stats"]["median"]
            lines.append(f"| {row['param']} | {times} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    readme = HERE / "README.md"
    introduction = readme.read_text().split(MARK)[0]
    results = [
        json.loads(path.read_text())
        for path in sorted(HERE.glob("results/*.json"))
        if path.stem != "local"
    ]
    readme.write_text("\n\n".join([introduction + MARK, *map(table, results)]) + "\n")


if __name__ == "__main__":
    main()
