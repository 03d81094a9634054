"""Test what reaches the terminal: results apart from messages, and nothing that steers it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from pcl_auto.cli.console.problems import MAX_ALONE
from pcl_auto.cli.console.terminal import MAX_OF_CLASSES_SHOWN, MAX_PROBLEMS_SHOWN, Terminal, some_of
from pcl_auto.errors import Problem
from pcl_auto.workspace.files import printable
from pcl_auto.workspace.processes import output_to


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("scan.nii.gz", "scan.nii.gz"),
        ("Größe 3 × 4 µm", "Größe 3 × 4 µm"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\r", "a\\x0ab\\x09c\\x0d"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe", "\\x202egnp.exe"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_a_message_cannot_steer_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    Terminal().print_line("failed: \x1b]0;title\x07[bold]scan[/bold]\nsecond line")
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "failed: \\x1b]0;title\\x07[bold]scan[/bold]\nsecond line\n"


@pytest.mark.parametrize("on_terminal", [True, False])
def test_every_problem_has_a_line_up_to_a_limit(
    on_terminal: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [
        Problem("data.bad", f"problem {number}", f"file\n{number}", "fix it")
        for number in range(MAX_PROBLEMS_SHOWN + 2)
    ]
    terminal = Terminal()
    monkeypatch.setattr(type(terminal.err), "is_terminal", on_terminal)
    terminal.problems(problems, "warning")
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "warning: problem 0 in file\\x0a0. Fix: fix it."
    if on_terminal:
        assert len(lines) == MAX_PROBLEMS_SHOWN + 1
        assert lines[-1] == "warning: and 2 more; --json lists each"
    else:
        assert len(lines) == MAX_PROBLEMS_SHOWN + 2


def test_problems_of_one_kind_share_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    missing = [
        Problem("data.missing", "image is missing", f"/data/x.json ({n})", "restore it", f"/data/images/{n}.nii.gz")
        for n in range(269)
    ]
    other = [Problem("data.bad", "bad", f"file {n}", "fix it", found=str(n)) for n in range(MAX_ALONE)]
    renamed = [Problem("data.name", "odd name", f"/data/{n}?", f"rename it to {n}") for n in range(MAX_ALONE + 1)]
    Terminal().problems([*missing, *other, *renamed])
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == (
        "error: image is missing, 269 times; in /data: x.json (0), x.json (1), x.json (2), x.json (3) and 265 more; "
        "expected /data/images: 0.nii.gz, 1.nii.gz, 2.nii.gz, 3.nii.gz and 265 more. Fix: restore it."
    )
    assert lines[1:-2] == [f"error: {problem}" for problem in other]
    assert lines[-2].endswith("Fix: rename it to 0, and so on (--json has each).")
    assert lines[-1] == "error: 276 in all; --json lists each"


def test_json_is_one_document_without_what_json_does_not_know(capfd: pytest.CaptureFixture[str]) -> None:
    Terminal().json({"dice": (0.5, math.nan), "hd95": {"core": math.inf}, "folder": Path("out"), "name": "µ"})
    out, err = capfd.readouterr()
    assert json.loads(out) == {"dice": [0.5, None], "hd95": {"core": None}, "folder": "out", "name": "µ"}
    assert err == ""


def test_a_terminal_is_reached_while_output_goes_to_a_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    with output_to(tmp_path / "log.txt"):
        os.write(1, b"nnU-Net's own\n")
        terminal.print_line("progress")
        terminal.json([])
    assert capfd.readouterr() == ("[]\n", "progress\n")
    assert (tmp_path / "log.txt").read_text() == "nnU-Net's own\n"


def test_f90_of_hundreds_of_classes_some_are_listed() -> None:
    most = MAX_OF_CLASSES_SHOWN
    assert some_of(map(str, range(most)), " ") == " ".join(map(str, range(most)))
    assert some_of((str(value) for value in range(500)), ", ").endswith(f", {most - 1}, and {500 - most} more")
    assert some_of([]) == ""
