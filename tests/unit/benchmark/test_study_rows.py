"""Append and read the rows of the study, and see what was torn, edited, doubled or made of other data."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from refusal import codes, refused
from study_list import StudyRun
from study_rows import COLUMNS, RowFiles, RunRows, refuse_changed_data

from pcl_auto.errors import DataError, StateError

RUN = StudyRun("toy", "default", "2", 0, "development", "abcd1234")
RESULT = RunRows(
    run=RUN,
    dice={"a": 0.5, "b": 0.25, "c, d": math.nan},
    hd95_mm={"a": 1.5, "b": math.nan, "c, d": math.nan},
    commit="c0ffee",
    data_digest="0123456789",
    machine="A CPU @ 2.50GHz; AVX2; 2 cores",
    device="cpu",
    seconds=61.0,
)


@pytest.fixture
def rows(tmp_path: Path) -> RowFiles:
    files = RowFiles(tmp_path / "results")
    for arm in ("default", "nnunet"):
        for draw in range(2):
            assert files.append(replace(RESULT, run=replace(RUN, arm=arm, draw=draw)))
    assert files.append(replace(RESULT, run=replace(RUN, scans="confirmation")))
    return files


def file_of(rows: RowFiles) -> Path:
    return rows.folder / "toy_development.csv"


def test_what_is_appended_is_read(rows: RowFiles) -> None:
    found = rows.read()
    assert len(found) == 5
    read = found[RUN]
    assert read.dice["a"] == 0.5
    assert math.isnan(read.dice["c, d"])
    assert math.isnan(read.hd95_mm["b"])
    assert replace(read, dice={}, hd95_mm={}) == replace(RESULT, dice={}, hd95_mm={})
    assert {file.name for file in rows.folder.glob("*.csv")} == {"toy_development.csv", "toy_confirmation.csv"}
    assert file_of(rows).read_text().splitlines()[0].split(",") == list(COLUMNS)
    assert len(file_of(rows).read_text().splitlines()) == 1 + 4 * 3


def test_a_run_on_record_is_not_overwritten(rows: RowFiles) -> None:
    before = file_of(rows).read_bytes()
    assert not rows.append(replace(RESULT, dice=dict.fromkeys(RESULT.dice, 1.0)))
    assert file_of(rows).read_bytes() == before


def test_rows_of_another_recipe_are_another_run(rows: RowFiles) -> None:
    assert rows.append(replace(RESULT, run=replace(RUN, recipe_digest="other")))
    assert len(rows.read()) == 6


def test_no_rows_at_all(tmp_path: Path) -> None:
    assert RowFiles(tmp_path / "none").read() == {}


def test_every_edited_field_is_seen(rows: RowFiles) -> None:
    text = file_of(rows).read_text()
    lines = text.splitlines()
    for column in range(len(COLUMNS)):
        if COLUMNS[column] == "case":
            continue  # holds a comma in one row
        fields = lines[1].split(",")
        fields[column] += "1"
        file_of(rows).write_text("\n".join([lines[0], ",".join(fields), *lines[2:]]) + "\n")
        with refused(DataError, "study.rows-edited"):
            rows.read()


def test_a_torn_file_is_seen_wherever_it_ends(rows: RowFiles) -> None:
    whole = file_of(rows).read_bytes()
    ends = [0]
    for line in whole.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    # Behind a whole run nothing is missing but the runs that follow.
    between_runs = {ends[1 + 3 * number] for number in range(5)}
    for size in random.Random(0).sample(range(1, len(whole)), 80):
        if size in between_runs or size + 1 in between_runs:
            continue
        file_of(rows).write_bytes(whole[:size])
        with pytest.raises(DataError) as caught:
            rows.read()
        assert {*codes(caught.value.problems)} <= {"study.rows-edited", "study.rows-unreadable", "study.other-cases"}
        # Nothing is appended behind it, and nothing of it is lost.
        with pytest.raises(DataError):
            rows.append(replace(RESULT, run=replace(RUN, draw=7)))
        assert file_of(rows).read_bytes() == whole[:size]


def test_lines_that_are_there_twice(rows: RowFiles) -> None:
    lines = file_of(rows).read_text().splitlines()
    file_of(rows).write_text("\n".join([*lines, *lines[1:4]]) + "\n")
    with refused(DataError, "study.rows-edited"):
        rows.read()


def test_results_of_two_machines_for_one_run(rows: RowFiles, tmp_path: Path) -> None:
    other = RowFiles(tmp_path / "other")
    other.append(replace(RESULT, machine="Another CPU", commit="beef"))
    with file_of(rows).open("a") as file:
        file.write("".join(line + "\n" for line in file_of(other).read_text().splitlines()[1:]))
    with refused(DataError, "study.run-twice") as refusal:
        rows.read()
    assert all(part in refusal.problem.found for part in ("Another CPU", "beef", "A CPU", "c0ffee"))
    # In two files as well.
    file_of(rows).unlink()
    file_of(other).rename(rows.folder / "toy_development.csv")
    (rows.folder / "copy.csv").write_bytes((rows.folder / "toy_development.csv").read_bytes())
    with refused(DataError, "study.run-twice"):
        rows.read()


def test_other_columns_and_no_text(rows: RowFiles) -> None:
    file_of(rows).write_text("case,dice\na,1\n")
    (rows.folder / "toy_confirmation.csv").write_bytes(b"\xff\xfe\x00")
    with refused(DataError, "study.rows-unreadable", "study.rows-unreadable"):
        rows.read()


def test_runs_of_other_cases(rows: RowFiles) -> None:
    before = file_of(rows).read_bytes()
    with refused(DataError, "study.other-cases"):
        rows.append(replace(RESULT, run=replace(RUN, draw=5), dice={"a": 0.1}, hd95_mm={"a": 0.1}))
    assert file_of(rows).read_bytes() == before
    other = RowFiles(rows.folder.parent / "other")
    other.append(replace(RESULT, run=replace(RUN, draw=5), dice={"a": 0.1}, hd95_mm={"a": 0.1}))
    file_of(other).rename(rows.folder / "copy.csv")
    with refused(DataError, "study.other-cases"):
        rows.read()


def test_rows_are_appended_behind_a_last_line_without_its_end(rows: RowFiles) -> None:
    file_of(rows).write_text(file_of(rows).read_text().rstrip("\n"))
    assert rows.append(replace(RESULT, run=replace(RUN, draw=5)))
    assert len(rows.read()) == 6


def test_a_folder_that_cannot_be_written_is_refused_before_a_training(tmp_path: Path) -> None:
    RowFiles(tmp_path / "rows").refuse_unwritable()
    (tmp_path / "file").touch()
    with refused(StateError, "study.rows-unwritable"):
        RowFiles(tmp_path / "file").refuse_unwritable()


def test_rows_of_data_that_changed(rows: RowFiles) -> None:
    refuse_changed_data(rows.read().values(), {"toy": RESULT.data_digest, "other": "x"}, rows.folder)
    with refused(StateError, "study.data-changed"):
        refuse_changed_data(rows.read().values(), {"toy": "changed"}, rows.folder)
    changed, other = replace(RESULT, run=replace(RUN, draw=5), data_digest="changed"), RowFiles(rows.folder / "other")
    with refused(DataError, "study.data-changed"):
        rows.append(changed)
    assert len(rows.read()) == 5
    other.append(changed)
    file_of(other).rename(rows.folder / "copy.csv")
    with refused(DataError, "study.data-changed"):
        rows.read()
