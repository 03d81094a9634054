"""Test that a refused command with --json prints one JSON object with the code of every problem."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pcl_auto.cli import main
from pcl_auto.cli.verbs import VERBS
from pcl_auto.errors import LockedError, Problem


@pytest.fixture(autouse=True)
def a_new_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in an empty folder, with nothing of nnU-Net in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("nnUNet_", "PCLAUTO_"))]:
        monkeypatch.delenv(name)


def end_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """Return the exit code of a command that ends before its work."""
    monkeypatch.setattr(sys, "argv", ["pclauto", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.run()
    return ended.value.code


def codes_on(stdout: str) -> list[str]:
    content = json.loads(stdout)
    assert list(content) == ["problems"]
    return [problem["code"] for problem in content["problems"]]


REFUSED = {
    "download": (("download", "Task11_None"), 2, ["archive.unknown-task"]),
    "init": (("init", "nowhere", "none", "-o", "Task100_New"), 2, ["init.no-folder", "init.no-folder"]),
    "check": (("check", "nowhere"), 2, ["data.unknown-task"]),
    "repair": (("repair", "a.nii", "b.nii", "-o", "out"), 3, ["data.missing", "data.missing"]),
    "plan": (("plan", "nowhere"), 2, ["data.unknown-task"]),
    "pretrain": (("pretrain",), 4, ["plan.missing"]),
    "train": (("train",), 4, ["plan.missing"]),
    "continue": (("continue",), 4, ["model.missing"]),
    "status": (("status", "none"), 4, ["model.unknown"]),
    "predict": (("predict", "a.nii.gz", "b.nii", "-o", "out"), 2, ["data.no-such-path", "data.no-such-path"]),
    "evaluate": (("evaluate", "out", "labels"), 2, ["data.no-such-path"]),
    "report": (("report",), 4, ["model.missing"]),
    "suggest": (("suggest",), 4, ["model.missing"]),
    "review": (("review", "--model", "none"), 4, ["model.unknown"]),
    "benchmark": (("benchmark", "nowhere", "-l", "x"), 2, ["data.unknown-task", "benchmark.labeled-not-a-number"]),
    "sweep": (("sweep",), 4, ["plan.missing"]),
    "recipes": (("recipes", "none", "--set", "contrast"), 2, ["recipe.unknown", "recipe.not-set-syntax"]),
    "demo": (("demo", "taken"), 2, ["data.place-taken"]),
}


def test_all_verbs_are_here() -> None:
    # `env` tells what there is, whatever that is.
    assert REFUSED.keys() | {"env"} == set(VERBS)


@pytest.mark.parametrize(("arguments", "code", "codes"), REFUSED.values(), ids=REFUSED)
def test_every_verb_shows_its_problems(
    arguments: tuple[str, ...],
    code: int,
    codes: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    Path("taken/Task99_Phantom").mkdir(parents=True)
    assert end_of(monkeypatch, *arguments, "--json") == code
    printed = capfd.readouterr()
    assert codes_on(printed.out) == codes
    assert [line.startswith("error: ") for line in printed.err.splitlines()] == [True] * len(codes)
    # Without the option stdout is empty, and stderr the same.
    assert end_of(monkeypatch, *arguments) == code
    assert capfd.readouterr() == ("", printed.err)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nope",),
        ("--nope",),
        ("plan",),
        ("train", "--labeled", "none"),
        ("predict", "a.nii.gz"),
        ("train", "--split", "."),
    ],
)
def test_what_the_parser_refuses_is_a_problem_too(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert end_of(monkeypatch, *arguments, "--json") == 2
    assert codes_on(capfd.readouterr().out) == ["command.arguments"]


@pytest.mark.parametrize(
    ("error", "code", "codes"),
    [
        (LockedError(Problem("lock.held", "another process", "here", "wait")), 6, ["lock.held"]),
        (OSError(errno.ENOSPC, "No space left on device", "checks.json"), 5, ["disk.full"]),
        (MemoryError("Unable to allocate 3 GiB"), 5, ["memory.too-small"]),
    ],
)
def test_what_the_system_refuses_is_shown_too(
    error: Exception, code: int, codes: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr("pcl_auto.data.dataset.decathlon.find_task", fail)
    assert end_of(monkeypatch, "plan", "task", "--json") == code
    assert codes_on(capfd.readouterr().out) == codes


def test_a_fault_of_the_program_is_no_problem_of_the_user(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("pcl_auto.data.dataset.decathlon.find_task", fail)
    assert end_of(monkeypatch, "plan", "task", "--json") == 1
    assert capfd.readouterr().out == ""


def test_a_file_of_that_name_asks_for_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert end_of(monkeypatch, "evaluate", "--", "out", "--json") == 2
    assert capfd.readouterr().out == ""


def test_one_of_several_processes_speaks(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert end_of(monkeypatch, "report", "--json") == 4
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has none")
def test_a_full_stdout_hides_no_refusal(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pcl_auto", "report", "--json"],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


# --- what train refuses before anything is read ---------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [("train", "--model", "any"), ("continue", "--labeled", "2"), ("continue", "--recipe", "quick"), ("continue", "5")],
)
def test_what_a_corrected_run_has_settled_is_no_option(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert end_of(monkeypatch, *arguments) == 2


def test_several_gpus_where_there_is_none(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for verb in ("train", "continue"):
        assert end_of(monkeypatch, verb, "--gpus", "2", "--json") == 2
        assert codes_on(capfd.readouterr().out) == ["device.no-gpu"]
