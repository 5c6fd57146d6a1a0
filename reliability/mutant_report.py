"""What became of the mutants: a table of files, and the survivors."""

import json
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

KILLED = ("killed", "timeout", "crash")
EQUIVALENT = Path(__file__).parent / "equivalent_mutants.toml"
REPORT = Path(__file__).parent / "results" / "mutants.json"
Record = dict[str, Any]


def reasons() -> dict[tuple[str, str, str], str]:
    """Read why a line, changed so, does the same as before."""
    entries = tomllib.loads(EQUIVALENT.read_text())["equivalent"]
    return {
        (entry["file"], entry["line"], became): entry["why"]
        for entry in entries
        for became in entry["became"]
    }


def report(records: Iterable[Record], settings: Record) -> str:
    """Write results/mutants.json, and return its table."""
    equivalent, counts, survivors = reasons(), Counter[tuple[str, str]](), []
    for record in records:
        file, found = record["file"], record["outcome"]
        if found in KILLED:
            found = "killed"
        elif (file, record["was"], record["became"]) in equivalent:
            found = "equivalent"
        elif found != "invalid":
            survivors.append({k: record[k] for k in ("file", "line", "was", "became", "outcome")})
            found = "survived"
        for name in (file, "in all"):
            counts[name, found] += 1
    names = [*sorted({name for name, _ in counts} - {"in all"}), "in all"]
    files: dict[str, dict[str, float]] = {}
    for name in names:
        killed, survived, same = (
            counts[name, found] for found in ("killed", "survived", "equivalent")
        )
        files[name] = {"killed": killed, "survived": survived, "equivalent": same}
        files[name]["percent"] = round(100 * killed / max(killed + survived, 1), 1)
    survivors.sort(key=lambda entry: (entry["file"], entry["line"], entry["became"]))
    results = {"settings": settings, "files": files, "survivors": survivors}
    REPORT.write_text(json.dumps(results, indent=1) + "\n")
    rows = [
        f"| {name} | {row['killed']} | {row['survived']} | {row['equivalent']} | {row['percent']} |"
        for name, row in files.items()
    ]
    head = "| file | killed | survived | equivalent | killed, % |"
    return "\n".join([head, "| --- | ---: | ---: | ---: | ---: |", *rows])
