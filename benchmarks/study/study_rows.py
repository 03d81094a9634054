"""Read and append the rows of the study: one per run and case, in CSV files that are committed.

A row is never overwritten. The rows of a run carry a checksum over all of them, so that a file that was torn, or edited
by hand, is seen.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from study_list import Scans, StudyRun

from pcl_auto.errors import DataError, Problem, StateError
from pcl_auto.workspace.files import write_text
from pcl_auto.workspace.lock import sole_writer

COLUMNS = (
    "dataset", "arm", "labels", "draw", "scans", "case", "dice", "hd95_mm", "commit", "recipe_digest", "data_digest",
    "machine", "device", "seconds", "checksum",
)  # fmt: skip
SCANS: dict[str, Scans] = {"development": "development", "confirmation": "confirmation"}


@dataclass(frozen=True)
class RunRows:
    """The result of a run: scores by case, and what made it. NaN stands for a value that does not exist."""

    run: StudyRun
    dice: Mapping[str, float]
    hd95_mm: Mapping[str, float]
    commit: str
    data_digest: str
    machine: str
    device: str
    seconds: float

    def rows(self) -> list[dict[str, str]]:
        """Return the rows, by case, with their checksum."""
        of_run = {
            "dataset": self.run.dataset,
            "arm": self.run.arm,
            "labels": self.run.labels,
            "draw": str(self.run.draw),
            "scans": self.run.scans,
            "commit": self.commit,
            "recipe_digest": self.run.recipe_digest,
            "data_digest": self.data_digest,
            "machine": self.machine,
            "device": self.device,
            "seconds": f"{self.seconds:.0f}",
        }
        rows = [
            {**of_run, "case": case, "dice": _written(dice), "hd95_mm": _written(self.hd95_mm[case])}
            for case, dice in sorted(self.dice.items())
        ]
        return [{**row, "checksum": _checksum(rows)} for row in rows]


def _written(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.5f}"


def _checksum(rows: Iterable[Mapping[str, str]]) -> str:
    lines = sorted("|".join(row[column] for column in COLUMNS if column != "checksum") for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]


class RowFiles:
    """The folder of the rows, a file for each data set and kind of scans."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> dict[StudyRun, RunRows]:
        """Read all runs on record.

        Raises:
            DataError: files that cannot be read, rows that were torn or edited, runs that are there twice; all at once.
        """
        problems: list[Problem] = []
        found: dict[StudyRun, RunRows] = {}
        for file in sorted(self.folder.glob("*.csv")):
            for run, runs in self._read(file, problems).items():
                if run in found or len(runs) > 1:
                    makers = [
                        f"{entry.machine} at {entry.commit}" for entry in [*runs, *filter(None, [found.get(run)])]
                    ]
                    what, fix = f"two results for {run.name}", "keep the rows of one of them"
                    problems.append(Problem("study.run-twice", what, str(file), fix, "one", " | ".join(makers)))
                found[run] = runs[0]
        problems += _data_problems(found.values(), self.folder)
        if problems:
            raise DataError(problems)
        return found

    def _read(self, file: Path, problems: list[Problem]) -> dict[StudyRun, list[RunRows]]:
        fix = "restore it from its history (git checkout), and let `make study` alone write it"
        try:
            reader = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8")), strict=True)
            lines = list(reader)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            problems.append(Problem("study.rows-unreadable", "rows cannot be read", str(file), fix, found=str(error)))
            return {}
        header = tuple(reader.fieldnames or ())
        if header != COLUMNS:
            expected, found = ",".join(COLUMNS), ",".join(map(str, header))
            problems.append(Problem("study.rows-unreadable", "other columns", str(file), fix, expected, found))
            return {}
        groups: dict[tuple[StudyRun, str], list[dict[str, str]]] = defaultdict(list)
        wrong: Counter[str] = Counter()
        for number, row in enumerate(lines, start=2):
            run = _run_of(row)
            if run is None:
                wrong[f"line {number}"] += 1
            else:
                groups[run, row["checksum"]].append(row)
        runs: dict[StudyRun, list[RunRows]] = defaultdict(list)
        for (run, checksum), rows in groups.items():
            cases = Counter(row["case"] for row in rows)
            if _checksum(rows) != checksum or max(cases.values()) > 1:
                wrong[run.name] += 1
                continue
            runs[run].append(_as_run(run, rows))
        if wrong:
            found = ", ".join(sorted(wrong))
            what = "rows were torn, doubled or edited by hand"
            problems.append(Problem("study.rows-edited", what, str(file), fix, "rows that fit their checksum", found))
        return runs

    def refuse_unwritable(self) -> None:
        """Make sure, before hours of training, that rows can be written.

        Raises:
            StateError: they cannot.
        """
        try:
            with sole_writer(self.folder / "rows", wait=True):
                pass
        except OSError as error:
            fix = "give yourself the right to write there, or name another folder with --results"
            raise StateError(
                Problem("study.rows-unwritable", "rows cannot be written", str(self.folder), fix, found=str(error))
            ) from None

    def append(self, result: RunRows) -> bool:
        """Append the rows of a run, all of them or none; return False where the run is on record.

        Raises:
            DataError: what is there cannot be read, or is of other data or cases; nothing is written.
        """
        file = self.folder / f"{result.run.dataset}_{result.run.scans}.csv"
        with sole_writer(self.folder / "rows", wait=True):
            found = self.read()
            if result.run in found:
                return False
            if problems := _data_problems([*found.values(), result], self.folder):
                raise DataError(problems)
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            if file.is_file():
                before = file.read_text(encoding="utf-8")
                # An editor may have left out the end of the last line.
                text.write(before if before.endswith("\n") else f"{before}\n")
            else:
                writer.writeheader()
            writer.writerows(result.rows())
            write_text(file, text.getvalue())
        return True


def _run_of(row: Mapping[str, str]) -> StudyRun | None:
    """Return the run of a row, None if the row is none."""
    # A line that is too short has None for values, one that is too long has them under the key None.
    if None in row.values() or None in row or row["scans"] not in SCANS or not row["draw"].isdecimal():
        return None
    scans = SCANS[row["scans"]]
    return StudyRun(row["dataset"], row["arm"], row["labels"], int(row["draw"]), scans, row["recipe_digest"])


def _as_run(run: StudyRun, rows: Sequence[Mapping[str, str]]) -> RunRows:
    def scores(column: str) -> dict[str, float]:
        return {row["case"]: float(row[column]) if row[column] else math.nan for row in rows}

    first = rows[0]
    return RunRows(
        run, scores("dice"), scores("hd95_mm"), first["commit"], first["data_digest"], first["machine"],
        first["device"], float(first["seconds"]),
    )  # fmt: skip


def _data_problems(found: Iterable[RunRows], folder: Path) -> list[Problem]:
    """List data sets whose rows are of different files, or of different cases."""
    digests: dict[str, set[str]] = defaultdict(set)
    cases: dict[tuple[str, str], set[tuple[str, ...]]] = defaultdict(set)
    for entry in found:
        digests[entry.run.dataset].add(entry.data_digest)
        cases[entry.run.dataset, entry.run.scans].add(tuple(sorted(entry.dice)))
    fix = "keep the rows of one of them, and move the others to another folder"
    problems = [
        Problem(
            "study.data-changed",
            f"rows of different files of {name}",
            str(folder),
            fix,
            "one",
            " | ".join(sorted(all_)),
        )
        for name, all_ in digests.items()
        if len(all_) > 1
    ]
    for (name, scans), lists in cases.items():
        if len(lists) > 1:
            numbers = " | ".join(str(len(entry)) for entry in sorted(lists))
            what = f"{scans} rows of {name} with different cases"
            problems.append(
                Problem("study.other-cases", what, str(folder), fix, "the same cases in every run", numbers)
            )
    return problems


def refuse_changed_data(found: Iterable[RunRows], digests: Mapping[str, str], folder: Path) -> None:
    """Make sure that the data sets at hand are those that the rows were made with.

    Raises:
        StateError: one of them changed since.
    """
    recorded = {entry.run.dataset: entry.data_digest for entry in found}
    fix = "restore the data set, or move the rows that are of the other one to another folder"
    problems = [
        Problem(
            "study.data-changed", f"data set {name} changed since its rows", str(folder), fix, recorded[name], digest
        )
        for name, digest in digests.items()
        if recorded.get(name, digest) != digest
    ]
    if problems:
        raise StateError(problems)
