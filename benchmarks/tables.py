"""Write a device's table of results, and the tables of benchmarks/README.md.

python -m benchmarks.tables                 # README.md from results/*.csv
python -m benchmarks.tables epyc            # before that, results/epyc.csv from results/local.json

A table of results/local.json takes the place of the one with its title; the others stay.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MARK = "<!-- tables -->"
COLUMNS = ["table", "row", "column", "over", "ratio", "low", "high", "least", "ms", "peak"]
COLUMNS += ["device", "versions"]


def measured() -> pd.DataFrame:
    """Read what pytest-benchmark wrote: a row for every case."""
    results = json.loads((RESULTS / "local.json").read_text())
    rows = [
        {"table": case["group"], "ms": 1e3 * case["stats"]["min"]}
        | case["extra_info"]
        | results["machine_info"]
        for case in results["benchmarks"]
    ]
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def update(device: str) -> None:
    path, new = RESULTS / f"{device}.csv", measured()
    if path.exists():
        old = pd.read_csv(path)
        new = pd.concat([new, old[~old["table"].isin(new["table"])]])
    new.to_csv(path, index=False, float_format="%.4g")


def shown(number: float) -> str:
    digits = 1 if number >= 10 else 2 if number >= 0.1 else 3
    return "" if pd.isna(number) else f"{number:.{digits}f}"


def table(title: str, rows: pd.DataFrame) -> str:
    """Return a Markdown table: a ratio for each row and column, or all of the one column's."""
    over, versions = rows[["over", "versions"]].iloc[0]
    lines = [f"### {title}", "", f"{over[0].upper()}{over[1:]}. Of {versions}.", ""]
    wide = rows["column"].nunique() > 1
    if wide:
        names = list(rows["column"].unique())
    else:
        names = ["ratio", "middle half", "of the least times", "least, ms"]
        names += ["peak"] * bool(rows["peak"].notna().any())
    lines += [f"| | {' | '.join(names)} |", "| --- |" + " ---: |" * len(names)]
    for name, group in rows.groupby("row", sort=False):
        if wide:
            cells = group.set_index("column").reindex(names)["ratio"].map(shown).tolist()
        else:
            case = group.iloc[0]
            half = "" if pd.isna(case["low"]) else f"{shown(case['low'])} to {shown(case['high'])}"
            cells = [shown(case["ratio"]), half, shown(case["least"]), shown(case["ms"])]
            cells += [shown(case["peak"])] * (len(names) - 4)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("device", nargs="?", help="whose table results/local.json goes into")
    if device := parser.parse_args().device:
        update(device)
    parts = [(HERE / "README.md").read_text().split(MARK)[0] + MARK]
    for path in sorted(RESULTS.glob("*.csv")):
        results = pd.read_csv(path)
        parts.append(f"## {results['device'].iloc[0]}")
        parts += [table(str(title), rows) for title, rows in results.groupby("table", sort=False)]
    (HERE / "README.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
