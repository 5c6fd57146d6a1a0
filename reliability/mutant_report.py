"""What became of the mutants: a table of files, and the survivors."""

import json
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

KILLED = ("killed", "timeout", "crash")
KNOWN = Path(__file__).parent / "known_mutants.toml"
REPORT = Path(__file__).parent / "results" / "mutants.json"
COLUMNS = ("killed", "survived", "equivalent", "left")
Record = dict[str, Any]


def reasons(kind: str) -> dict[tuple[str, str, str], str]:
    """Read why lines, changed so, are an "equivalent" of what they were or a "survivor"."""
    entries = tomllib.loads(KNOWN.read_text())[kind]
    return {
        (entry["file"], entry["line"], became): entry["why"]
        for entry in entries
        for became in entry["became"]
    }


def report(records: Iterable[Record], left: Iterable[str], settings: Record) -> str:
    """Write results/mutants.json, and return its table; ``left`` are the files of what is to run.

    A mutant that no test of the selection runs has survived.
    """
    equivalent, why, survivors = reasons("equivalent"), reasons("survivor"), []
    files: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        key = record["file"], record["was"], record["became"]
        if record["outcome"] in KILLED:
            if key in equivalent:
                raise ValueError(f"a mutant that was killed is not equivalent: {key}")
            found = "killed"
        elif key in equivalent:
            found = "equivalent"
        elif record["outcome"] == "invalid":
            continue
        else:
            found = "survived"
            kept = {k: record[k] for k in ("file", "line", "was", "became", "outcome")}
            survivors.append(kept | {"why": why.get(key)})
        files[record["file"]][found] += 1
    for name in left:
        files[name]["left"] += 1
    total = sum(files.values(), Counter[str]())
    table = {}
    for name, counts in [*sorted(files.items()), ("in all", total)]:
        share = 100 * counts["killed"] / max(counts["killed"] + counts["survived"], 1)
        table[name] = {column: counts[column] for column in COLUMNS} | {"percent": round(share, 1)}
    survivors.sort(key=lambda entry: (entry["file"], entry["line"], entry["became"]))
    results = {"settings": settings, "files": table, "survivors": survivors}
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(results, indent=1) + "\n")
    rows = [" | ".join(map(str, (name, *row.values()))) for name, row in table.items()]
    head = "file | killed | survived | equivalent | left | killed, %"
    lines = [f"| {row} |" for row in [head, "--- | ---: | ---: | ---: | ---: | ---:", *rows]]
    unexplained = sum(survivor["why"] is None for survivor in survivors)
    return "\n".join([*lines, "", f"{unexplained} survivors without a reason in {KNOWN.name}"])
