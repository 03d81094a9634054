"""Print and write the table of a check: a row per check, with its outcome, figures and seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PASSED, FAILED, NOT_RUN = "pass", "FAIL", "not run"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Result:
    """Hold the outcome of one row."""

    row: str
    outcome: str
    figures: str
    seconds: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)


def render(results: Sequence[Result]) -> str:
    """Render the results as text that fits a terminal of any width: figures come last."""
    columns = ["check", "result", "s", "figures"]
    rows = [[entry.row, entry.outcome, f"{entry.seconds:.0f}", entry.figures] for entry in results]
    widths = [max(len(row[column]) for row in [columns, *rows]) for column in range(3)]
    return "\n".join(
        f"{name.ljust(widths[0])}  {outcome.ljust(widths[1])}  {seconds.rjust(widths[2])}  {figures}".rstrip()
        for name, outcome, seconds, figures in [columns, *rows]
    )


def as_markdown(title: str, results: Sequence[Result]) -> str:
    """Render the results as a table in Markdown."""
    lines = [f"# {title}", "", "| check | result | s | figures |", "|---|---|---|---|"]
    for entry in results:
        figures = entry.figures.replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {entry.row} | {entry.outcome} | {entry.seconds:.0f} | {figures} |")
    return "\n".join([*lines, ""])


def write(out: Path, title: str, facts: Mapping[str, Any], results: Sequence[Result]) -> None:
    """Write ``check.json`` and ``check.md``, each whole or not at all."""
    content = {"schema_version": SCHEMA_VERSION, **facts, "rows": [asdict(entry) for entry in results]}
    for name, text in (
        ("check.json", json.dumps(content, indent=1, default=str) + "\n"),
        ("check.md", as_markdown(title, results)),
    ):
        temporary = out / f".{name}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out / name)


def read(out: Path, facts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Result]]:
    """Read the machine and the rows of an earlier check with the same ``facts``; nothing where there is none."""
    try:
        content = json.loads((out / "check.json").read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA_VERSION or any(content[key] != value for key, value in facts.items()):
            return {}, {}
        return dict(content["machine"]), {entry["row"]: Result(**entry) for entry in content["rows"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}, {}


def exit_code(results: Sequence[Result]) -> int:
    """Tell the exit code: 1 if any row failed."""
    return int(any(entry.outcome == FAILED for entry in results))
