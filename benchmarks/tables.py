"""Write the tables of benchmarks/README.md from the results files beside it."""

import json
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
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in results["benchmarks"]:
        groups.setdefault(case["group"], []).append(case)
    for group, rows in groups.items():
        extra = sorted({name for row in rows for name in row["extra_info"]})
        columns = ["case", "min, ms", "median, ms", "IQR, ms", "over first", *extra]
        lines += ["", f"### {group}", "", f"| {' | '.join(columns)} |"]
        lines += ["| --- |" + " ---: |" * (len(columns) - 1)]
        for row in rows:
            stats = row["stats"]
            times = " | ".join(f"{stats[name] * 1e3:.2f}" for name in ("min", "median", "iqr"))
            ratio = stats["median"] / rows[0]["stats"]["median"]
            more = "".join(
                f" {row['extra_info'][name]:.2f} |" if name in row["extra_info"] else " |"
                for name in extra
            )
            lines.append(f"| {label(row, group)} | {times} | {ratio:.2f} |{more}")
    return "\n".join(lines)


def label(case: dict[str, Any], group: str) -> str:
    """Name a case by what its group does not say already."""
    params = case["params"] or {"": case["name"]}
    shown = [str(value) for value in params.values() if str(value) not in group]
    return ", ".join(shown) or str(case["param"])


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
