"""The table of faults and the tests name each other."""

from __future__ import annotations

import re
from pathlib import Path

FAULTS = Path(__file__).resolve().parent
ROW = re.compile(r"^\| F(\d+) \|.*\| ([^|]+) \|$", re.MULTILINE)
LINK = re.compile(r"\[(test_\w+\.py)\]\(([^)]+)\)")


def numbers_in(file: Path) -> set[int]:
    """The numbers of the faults that a file tests: `test_f30_f31_…` tests two."""
    numbers = re.findall(r"^def test_((?:f\d\d+_)+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {int(number) for group in numbers for number in re.findall(r"\d+", group)}


def test_every_fault_has_a_row_and_every_row_its_tests() -> None:
    rows = {int(number): LINK.findall(links) for number, links in ROW.findall((FAULTS / "README.md").read_text())}
    assert sorted(int(number) for number, _ in ROW.findall((FAULTS / "README.md").read_text())) == list(
        range(1, len(rows) + 1)
    )
    named = {(number, (FAULTS / path).resolve()) for number, links in rows.items() for _, path in links}
    there = {(number, file) for file in FAULTS.parent.rglob("test_*.py") for number in numbers_in(file)}
    assert named == there
    assert {number for number, _ in there} == set(rows)
