"""Tell how far runs are, from their files alone."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from refusal import refused
from report_files import write_run

from pcl_auto.cli.commands.status import status
from pcl_auto.errors import StateError
from pcl_auto.report.status import DamagedRun, Status, all_runs, runs_of, status_of
from pcl_auto.training.find_model import find_model
from pcl_auto.training.request import SUPERVISED_TRAINER
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.lock import sole_writer


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "work", "test")


@pytest.fixture
def model(workspace: Workspace) -> Path:
    return write_run(workspace.results)


def hold(model: Path, process: int, machine: str) -> None:
    """Write the holder's file as the lock of a run does."""
    (model.parent / f".{model.name}.holder").write_text(f"process {process} on {machine} since 2026-01-01T00:00:00")


def ended_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def test_a_run_that_nobody_holds_has_stopped(model: Path) -> None:
    found = status_of(model / "fold_all")
    assert (found.state, found.epoch, found.epochs) == ("stopped", 3, 3)
    assert (found.losses, found.dice, found.dice_of) == ({"loss": 0.25, "contrast": 1.5}, [0.5, None], "labeled cases")
    assert [(entry["event"], entry["round"]) for entry in found.rounds] == [("pseudo_labels", 1), ("pseudo_labels", 2)]


@pytest.mark.parametrize("machine", [socket.gethostname(), "another-machine"])
@pytest.mark.parametrize("alive", [True, False])
def test_who_holds_a_run(model: Path, machine: str, alive: bool) -> None:
    hold(model, os.getpid() if alive else ended_process(), machine)
    here = machine == socket.gethostname()
    assert status_of(model / "fold_all").state == ("elsewhere" if not here else "running" if alive else "stopped")


@pytest.mark.parametrize("content", ["", "process", "process x on y since z"])
def test_an_unreadable_holder(model: Path, content: str) -> None:
    (model.parent / f".{model.name}.holder").write_text(content.replace(" y ", f" {socket.gethostname()} "))
    assert status_of(model / "fold_all").state == "stopped"


def test_a_run_with_all_its_files_is_finished_whoever_holds_it(model: Path) -> None:
    hold(model, os.getpid(), socket.gethostname())
    (model / "fold_all" / "checkpoint_final.pth").touch()
    assert status_of(model / "fold_all").state == "running"
    (model / "fold_all" / "validation").mkdir()
    (model / "fold_all" / "validation" / "summary.json").touch()
    found = status_of(model / "fold_all")
    assert (found.state, found.seconds_left) == ("finished", None)


def test_the_time_left_follows_from_the_last_epochs(model: Path) -> None:
    seconds = [100.0, 1, 2, 3, 4, 5]
    lines = [{"event": "epoch", "time": "t", "epoch": n + 1, "seconds": s} for n, s in enumerate(seconds)]
    record = json.loads((model / "fold_all" / "run.json").read_text())
    record["identity"]["recipe"]["schedule"] |= {"supervised_epochs": 4, "rounds": 3, "epochs_per_round": 2}
    (model / "fold_all" / "run.json").write_text(json.dumps(record))
    (model / "fold_all" / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = status_of(model / "fold_all")
    assert (found.epoch, found.epochs, found.seconds_left) == (6, 10, 4 * 3.0)
    labeled = [{"event": "pseudo_labels", "time": "t", "round": number, "seconds": 50.0 * number} for number in (1, 2)]
    with (model / "fold_all" / "events.jsonl").open("a") as events:
        events.writelines(json.dumps(line) + "\n" for line in labeled)
    assert status_of(model / "fold_all").seconds_left == 4 * 3.0 + 100.0


def test_a_run_that_has_not_begun(model: Path) -> None:
    (model / "fold_all" / "events.jsonl").unlink()
    found = status_of(model / "fold_all")
    assert (found.stage, found.epoch, found.last_event, found.seconds_left) == ("preparing", 0, "", None)


def test_all_runs_the_last_first_and_the_damaged_by_name(workspace: Workspace, model: Path) -> None:
    baseline = write_run(workspace.results, trainer=SUPERVISED_TRAINER)
    os.utime(model / "fold_all" / "events.jsonl", (1, 1))
    os.utime(model / "fold_all" / "run.json", (1, 1))
    assert [Path(run.folder).parent for run in all_runs(workspace)] == [baseline, model]
    (baseline / "plans.json").write_text("{")
    damaged, sound = all_runs(workspace)
    assert (Path(damaged.folder).parent, damaged.state) == (baseline, "damaged")
    assert isinstance(damaged, DamagedRun)
    assert [problem.where for problem in damaged.problems] == [str(baseline / "plans.json")]
    assert Path(sound.folder).parent == model
    with refused(StateError, "run.file-unreadable"):
        runs_of(baseline)


def test_the_command_shows_it(workspace: Workspace, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = workspace.results.parent
    hold(model, os.getpid(), socket.gethostname())
    status(workspace_path=root)
    head, row = capfd.readouterr().out.splitlines()
    assert head.split() == ["data", "set", "split", "recipe", "state", "epoch", "left", "patch", "Dice"]
    assert row.split() == ["X", "L2_s0", "tiny", "running", "3/3", "0.50", "–"]
    status(model.name, workspace_path=root)
    shown = capfd.readouterr().out
    assert "Dice       0.50 – (labeled cases)" in shown
    assert "round 2    2 of 3 pseudo-labels used, Dice 0.877 to the last round's" in shown
    assert "command    pclauto train --labeled 2" in shown
    status("tiny", workspace_path=root)
    assert capfd.readouterr().out == shown
    status(workspace_path=root, json=True)
    assert json.loads(capfd.readouterr().out) == [status_of(model / "fold_all").as_dict()]


def test_a_run_without_a_record_is_preparing(workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    model = workspace.results / "Dataset001_X" / "nnUNetTrainerPCL__nnUNetPlans_L2_s0_my_recipe__3d_fullres"
    with sole_writer(model):
        (found,) = all_runs(workspace)
        status(workspace_path=workspace.results.parent)
        assert capfd.readouterr().out.splitlines()[1].split() == ["X", "L2_s0", "my_recipe", "running", "preparing"]
        with refused(StateError, "model.missing") as refusal:
            find_model(workspace, None)
        assert model.name in refusal.problems[0].fix
    assert isinstance(found, Status)
    assert (found.state, found.stage, found.split, found.recipe) == ("running", "preparing", "L2_s0", "my_recipe")
    assert all_runs(workspace) == []


def test_an_empty_workspace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status(workspace_path=tmp_path / "new")
    assert "begin one with `pclauto train`" in capfd.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_run_in_a_container_of_the_same_name_is_running(model: Path) -> None:
    with sole_writer(model):
        hold(model, ended_process(), socket.gethostname())  # its number means nothing here
        assert status_of(model / "fold_all").state == "running"
    hold(model, os.getpid(), socket.gethostname())  # of somebody else by now
    assert status_of(model / "fold_all").state == "stopped"


def test_a_run_that_the_system_does_not_let_read(
    workspace: Workspace, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pcl_auto.report.status.status_of", refuse)
    (damaged,) = all_runs(workspace)
    assert isinstance(damaged, DamagedRun)
    assert [problem.code for problem in damaged.problems] == ["run.unreadable"]
    assert damaged.folder == str(model / "fold_all")
