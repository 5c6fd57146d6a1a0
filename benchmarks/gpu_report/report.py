"""What has been found so far, a line each as it comes, and the pages made of it."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Found = dict[str, Any]
Tell = Callable[[Found], None]
COLUMNS = ["table", "row", "column", "over", "ratio", "low", "high", "least", "ms", "peak"]


def append(lines: Path, part: str, found: Found) -> None:
    """Add a line to what a part has found; it is on the disk when this returns."""
    with (lines / f"{part}.jsonl").open("a") as file:
        file.write(json.dumps(found) + "\n")


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all: whoever looks meanwhile sees the one before."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a Markdown table."""
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def number(value: Any, digits: int = 3) -> str:
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


class Report:
    """The report on what the lines of all parts say, to be written again and again."""

    def __init__(self, out: Path, lines: Path, parts: list[str], rehearse: bool) -> None:
        self.out, self.lines, self.parts, self.rehearse = out, lines, parts, rehearse

    def found(self, part: str) -> list[Found]:
        path = self.lines / f"{part}.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]  # not one half written

    def ended(self, part: str) -> str:
        return next((line["ended"] for line in self.found(part) if "ended" in line), "not ended")

    def is_right(self) -> bool:
        """Tell whether every check of the part "right" was reached, and none failed."""
        outcomes = [line["outcome"] for line in self.found("right") if "outcome" in line]
        return self.ended("right") == "whole" and "passed" in outcomes and "failed" not in outcomes

    def summary(self, part: str) -> str:
        found = self.found(part)
        counts = [
            f"{sum(line.get('outcome') == outcome for line in found)} {outcome}"
            for outcome in ("passed", "failed", "skipped")
        ]
        if not any("outcome" in line for line in found):
            failed = sum("error" in line for line in found)
            ended = sum("ended" in line for line in found)
            counts = [f"{len(found) - failed - ended} found", f"{failed} failed"]
        return f"{part}: {', '.join(counts)}; ended {self.ended(part)}"

    def write(self) -> None:
        """Write results.json, report.md and, to be published, a short page and a CSV."""
        found = {part: self.found(part) for part in self.parts}
        replace(self.out / "results.json", json.dumps(found, indent=1))
        replace(self.out / "report.md", self.page(found))
        facts = {line["fact"]: line["value"] for line in found["machine"] if "fact" in line}
        if "device" in facts:
            versions = (
                f"gliomaseg_layers {facts.get('gliomaseg_layers')}, torch {facts.get('torch')}"
            )
            name = re.sub(r"\W+", "-", facts["device"]).strip("-").lower()
            text = io.StringIO(newline="")
            rows = csv.DictWriter(text, [*COLUMNS, "device", "versions"], extrasaction="ignore")
            rows.writeheader()
            for line in found["fast"]:
                if "ratio" in line:
                    line = {key: number(value, 4) for key, value in line.items()}
                    rows.writerow(line | {"device": facts["device"], "versions": versions})
            replace(self.out / f"{name}.csv", text.getvalue())
            replace(self.out / f"{name}.md", self.page(found, f"Measured on {facts['device']}"))

    def page(self, found: dict[str, list[Found]], short: str = "") -> str:
        """Return the whole report, or under a title of its own what a reader wants of it."""
        parts = [
            f"# {short or 'GPU report'}"
            + ", rehearsed on a CPU: no figure here is of a GPU" * self.rehearse
        ]
        parts += [f"{self.summary(part)}." for part in self.parts if found[part]]
        facts = [(line["fact"], line["value"]) for line in found["machine"] if "fact" in line]
        parts += ["## The machine", table(["", ""], facts)]
        parts += ["## Goals", self.goals(found["fast"])]
        for part in ("right", "core"):
            # The first is the table; why a check failed is for those who mend it.
            parts += [f"## Checks: {part}", *self.checks(found[part])[: 1 if short else None]]
        parts += ["## Times", *self.times(found["fast"])]
        if not short:
            parts += ["## Tuning", *self.times(found["tuned"])]
        return "\n\n".join(parts) + "\n"

    def goals(self, found: list[Found]) -> str:
        rows = []
        for line in found:
            if "ratio" in line and ("at_most" in line or "at_least" in line):
                most, ratio = "at_most" in line, line["ratio"]
                goal = line["at_most"] if most else line["at_least"]
                rows.append(
                    (
                        f"{line['table']}: {line['row']} {line.get('column', '')}",
                        f"at {'most' if most else 'least'} {goal}",
                        number(ratio),
                        "yes" if (ratio <= goal if most else ratio >= goal) else "NO",
                    )
                )
        return table(["", "goal", "measured", "reached"], rows)

    def checks(self, found: list[Found]) -> list[str]:
        files: dict[str, dict[str, int]] = {}
        for line in found:
            if "outcome" in line:
                counts = files.setdefault(line["test"].split("::")[0], {})
                counts[line["outcome"]] = counts.get(line["outcome"], 0) + 1
        outcomes = ("passed", "failed", "skipped")
        rows = [[name, *(counts.get(key, 0) for key in outcomes)] for name, counts in files.items()]
        failed = [
            f"Failed: `{line['test']}`\n\n```\n{line['why']}\n```"
            for line in found
            if line.get("outcome") == "failed"
        ]
        skipped = {
            f"Skipped: `{line['test'].split('[')[0]}`: {line.get('why', '')}"
            for line in found
            if line.get("outcome") == "skipped"
        }
        return [table(["", *outcomes], rows), *sorted(skipped), *failed]

    def times(self, found: list[Found]) -> list[str]:
        parts, tables = [], dict.fromkeys(line["table"] for line in found if "table" in line)
        for title in tables:
            lines = [line for line in found if line.get("table") == title]
            rows = [
                [
                    line["row"],
                    line.get("column", ""),
                    *(number(line.get(name, "")) for name in ("ratio", "low", "high", "ms")),
                    line.get("error", line.get("note", "")),
                ]
                for line in lines
            ]
            over = next((line["over"] for line in lines if "over" in line), "")
            parts += [f"### {title}", over]
            parts.append(table(["", "", "ratio", "low", "high", "least, ms", ""], rows))
        return parts
