"""Test the command as a process: exit codes, and what goes to stdout and to stderr."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shell import Shell, warm_address
from warm import Command

from pcl_auto import __version__, errors
from pcl_auto.cli import main
from pcl_auto.cli.verbs import VERBS
from pcl_auto.errors import PclautoError, Problem

HEAVY = ("torch", "nnunetv2", "SimpleITK", "numpy", "scipy", "nibabel", "matplotlib", "requests", "pooch")
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PclautoError)]

COLOR = re.compile(r"\x1b\[(?:\d+;)*[34]\d[;m]")

# Runs the command and says on stderr which heavy packages that took.
WATCH_IMPORTS = f"""
import sys
from pcl_auto.cli.main import run
try:
    run()
finally:
    print("imported:", *sorted(set(sys.modules) & set({HEAVY})), file=sys.stderr)
"""


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own: what a command imports is seen where nothing was imported before."""
    return Shell(folder).process(*arguments)


def pclauto(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return Shell(folder).python("-m", "pcl_auto", *arguments)


@pytest.mark.parametrize("arguments", [("nope",), ("--nope",), ("plan",), ("train", "--labeled", "0")])
def test_what_the_command_does_not_know(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = pclauto(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def codes_of(done: subprocess.CompletedProcess[str]) -> list[str] | None:
    """Return the codes of the problems on stdout, which is empty or one JSON object that holds nothing else."""
    if not done.stdout:
        return None
    content = json.loads(done.stdout)
    assert list(content) == ["problems"]
    return [problem["code"] for problem in content["problems"]]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_plan_of_a_missing_task_names_where_it_looked(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = pclauto(tmp_path, "plan", "Task05_Prostate", *options)
    assert done.returncode == 2
    assert codes_of(done) == (["data.unknown-task"] if options else None)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no task 'Task05_Prostate'")
    assert str(tmp_path) in line
    assert "Fix: " in line
    assert list(tmp_path.iterdir()) == []


def test_plan_of_a_bad_folder_lists_its_problems(tmp_path: Path) -> None:
    task = tmp_path / "Task05_Bad"
    task.mkdir()
    (task / "dataset.json").write_text('{"labels": 3}')
    done = pclauto(tmp_path, "plan", "Task05_Bad", "--gpu-memory-gb", "4")
    assert done.returncode == 3
    assert done.stdout == ""
    listed = done.stderr.splitlines()
    assert listed
    assert all(line.startswith("error: ") for line in listed)

    as_json = pclauto(tmp_path, "plan", "Task05_Bad", "--gpu-memory-gb", "4", "--json")
    assert as_json.returncode == 3
    (problems,) = json.loads(as_json.stdout).values()
    assert [problem["code"] for problem in problems] == codes_of(as_json)
    assert [f"error: {Problem(**problem)}" for problem in problems] == listed
    assert as_json.stderr == done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["Task05_Bad"]


@pytest.mark.parametrize("arguments", [("train",), ("train", "--json"), ("predict", ".", "-o", "out")])
def test_what_needs_a_plan_or_a_model_says_so(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = pclauto(tmp_path, *arguments)
    assert done.returncode == 4
    assert codes_of(done) == (["plan.missing"] if "--json" in arguments else None)
    assert str(tmp_path / "pclauto_work") in done.stderr
    assert f"pclauto {'plan' if arguments[0] == 'train' else 'train'}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_evaluate_of_what_is_not_there(tmp_path: Path) -> None:
    done = pclauto(tmp_path, "evaluate", "out", "labels")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")


def test_benchmark_of_a_task_without_test_labels_lists_all_that_is_wrong(tmp_path: Path) -> None:
    task = tmp_path / "Task05_Bad"
    (task / "imagesTs").mkdir(parents=True)
    (task / "dataset.json").write_text("{}")
    done = pclauto(tmp_path, "benchmark", "Task05_Bad", "--labeled", "0,2", "--arms", "nnunet,papr", "--json")
    assert done.returncode == 2
    assert codes_of(done) == [
        "benchmark.labeled-not-a-number",
        "benchmark.unknown-arm",
        "benchmark.test-folder-missing",
    ]
    lines = done.stderr.splitlines()
    assert [line.startswith("error: ") for line in lines] == [True] * 3
    assert "'papr'" in lines[1]
    assert [path.name for path in tmp_path.iterdir()] == ["Task05_Bad"]


def test_benchmark_of_a_missing_task(tmp_path: Path) -> None:
    done = pclauto(tmp_path, "benchmark", "Task05_Prostate", "--labeled", "x", "--json")
    assert done.returncode == 2
    assert codes_of(done) == ["data.unknown-task", "benchmark.labeled-not-a-number"]
    assert pclauto(tmp_path, "benchmark").returncode == 4
    assert pclauto(tmp_path, "benchmark", "--draws", "0").returncode == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_error_is_a_line_and_its_exit_code(
    kind: type[PclautoError], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    problems = [Problem("data.first", "first", "a\nb", "fix it"), Problem("data.second", "second", "c", "fix it")]

    def fail(*_arguments: object) -> None:
        raise kind(problems)

    monkeypatch.setattr("pcl_auto.data.dataset.decathlon.find_task", fail)
    monkeypatch.setattr(sys, "argv", ["pclauto", "plan", "task"])
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert caught.value.code == kind.exit_code
    assert capfd.readouterr() == ("", "error: first in a\\x0ab. Fix: fix it.\nerror: second in c. Fix: fix it.\n")


def fails(*_arguments: object) -> None:
    raise ZeroDivisionError("a bug\n")


def test_an_unexpected_fault_is_two_lines_and_a_kept_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("pcl_auto.data.dataset.decathlon.find_task", fails)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["pclauto", "plan", "task"])
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert caught.value.code == 1
    printed = capfd.readouterr().err
    assert printed.startswith("unexpected fault: ZeroDivisionError: a bug")
    assert "Traceback" not in printed
    (kept,) = tmp_path.iterdir()
    assert str(kept) in printed
    assert "in fails" in kept.read_text()


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcl_auto.data.dataset.decathlon.find_task", fails)
    monkeypatch.setattr(sys, "argv", ["pclauto", "plan", "task", "--debug"])
    with pytest.raises(ZeroDivisionError):
        main.run()


def test_a_full_disk_is_told_as_one(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "checks.json")

    monkeypatch.setattr("pcl_auto.data.dataset.decathlon.find_task", fail)
    monkeypatch.setattr(sys, "argv", ["pclauto", "plan", "task"])
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert caught.value.code == 5
    assert "checks.json: found No space left on device. Fix: make room" in capfd.readouterr().err


def test_an_interrupted_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pcl_auto.data.dataset.decathlon.find_task", interrupt)
    monkeypatch.setattr(sys, "argv", ["pclauto", "plan", "task"])
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert caught.value.code == 130


def test_the_help_tells_every_exit_code() -> None:
    assert all(f"{kind.exit_code} " in main._EPILOG for kind in KINDS)


def test_without_arguments_the_command_explains_itself(tmp_path: Path) -> None:
    done = pclauto(tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert all(verb in done.stdout for verb in VERBS)
    assert pclauto(tmp_path, "--help").stdout == pclauto(tmp_path, "-h").stdout


@pytest.mark.parametrize("arguments", [(), ("--help",), ("--version",), *((verb, "--help") for verb in VERBS)])
def test_help_is_there_before_anything_heavy_is_imported(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = python(tmp_path, "-c", WATCH_IMPORTS, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["imported:"]
    assert done.stdout


def test_the_watch_on_imports_sees_them(tmp_path: Path) -> None:
    done = python(tmp_path, "-c", WATCH_IMPORTS, "evaluate", "out", "labels")
    assert "numpy" in done.stderr.splitlines()[-1]
    assert "torch" not in done.stderr.splitlines()[-1]


def test_a_wrong_task_name_is_answered_without_torch(tmp_path: Path) -> None:
    done = python(tmp_path, "-c", WATCH_IMPORTS, "plan", "nope")
    assert "torch" not in done.stderr.splitlines()[-1]


def test_the_version(tmp_path: Path) -> None:
    assert pclauto(tmp_path, "--version").stdout == f"pclauto {__version__}\n"


def completed(folder: Path, shell: str, line: str, *, action: str = "complete") -> str:
    """Return what a shell offers after ``line``; or its script of completion."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    if shell != "bash":
        words = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    return subprocess.run(
        [str(Path(sys.executable).with_name("pclauto"))],
        cwd=folder, env={**os.environ, **words, "_PCLAUTO_COMPLETE": f"{action}_{shell}"}, text=True,
        capture_output=True, check=True, timeout=60,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_verbs_options_and_recipes(tmp_path: Path, shell: str) -> None:
    assert "_PCLAUTO_COMPLETE" in completed(tmp_path, shell, "", action="source")
    assert "status" in completed(tmp_path, shell, "pclauto stat")
    assert "--supervised-only" in completed(tmp_path, shell, "pclauto train --supervised")
    recipes = completed(tmp_path, shell, "pclauto train --recipe qu")
    assert "quick" in recipes
    assert "paper" not in recipes


def in_terminal(folder: Path, variables: dict[str, str], *arguments: str) -> str:
    """Return what the command writes when its output is a terminal."""
    ours, theirs = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "FORCE_COLOR"}}
    environment = {**kept, "COLUMNS": "100", **variables}
    run = ["-m", "pcl_auto", *arguments]
    command = Command(warm_address(), run, cwd=folder, env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # so a terminal ends on Linux
        while more := os.read(ours, 65536):
            shown += more
    os.close(ours)
    command.wait()
    return shown.decode()


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colors_are_left_out_when_asked(tmp_path: Path, variables: dict[str, str]) -> None:
    for arguments in (("--help",), ("train", "--nope")):
        assert COLOR.search(in_terminal(tmp_path, {"TERM": "xterm-256color"}, *arguments))
        assert not COLOR.search(in_terminal(tmp_path, {"TERM": "xterm-256color", **variables}, *arguments))
    assert "\x1b" not in in_terminal(tmp_path, {"TERM": "dumb"}, "env")
