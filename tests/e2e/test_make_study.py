"""Do a small study as real processes, and see that trainings open no label of the scans that they are scored on."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from shared import copy_of, shell_in
from shell import Shell
from study_lists import toy_block, toy_dataset

from pcl_auto.benchmark.test_cases import hold_out
from pcl_auto.planning.plan import read_plan
from pcl_auto.workspace.files import read_json
from pcl_auto.workspace.folders import Workspace

pytestmark = pytest.mark.slow

STUDY = Path(__file__).parents[2] / "benchmarks" / "study"
LIST = toy_dataset("Task99_Phantom", "tiny.toml") + toy_block("[2]", 1, "mine.toml")
DEVELOPMENT = 2
# Imports and a plan on a slow core.
MAX_SECONDS = 600


def alive(word: str) -> list[int]:
    """Return the processes that have ``word`` in their command line (Linux)."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if word.encode() in file.read_bytes():
                found.append(int(file.parent.name))
    return found


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + MAX_SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def labels_of_development(workspace: Path, name: str = "Dataset099_Phantom") -> list[Path]:
    plan = read_plan(Workspace.at(workspace, "test").dataset(name))
    held_out, problems = hold_out(plan, DEVELOPMENT)
    assert held_out is not None
    assert problems == []
    labels = [plan.cases[scan.id].label for scan in held_out.scans]
    return [label for label in labels if label is not None]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are found in /proc")
def test_a_study_that_was_killed_goes_on_and_has_each_row_once(tmp_path: Path, five_labels: Path) -> None:
    # Names that a shell would take apart, and results named from where the command is given.
    shell = shell_in(tmp_path / "a study")
    folder = shell.folder
    (folder / "study.toml").write_text(LIST)
    (folder / "mine.toml").write_text('extends = "tiny.toml"\n[unlabeled_loss]\nweight = 0.5\n')
    command = [
        sys.executable, str(STUDY / "study_run.py"), "--time", "30m", "--data", str(five_labels.parent), "--work",
        "the work", "--results", "results", "--list", "study.toml", "--device", "cpu", "--workers", "0",
        "--commit", "c0ffee",
    ]  # fmt: skip
    logs, rows = folder / "the work" / "logs", folder / "results" / "toy_development.csv"

    first = subprocess.Popen(command, cwd=folder, env=shell.environment(), stderr=subprocess.PIPE)
    wait_for(lambda: first.poll() is not None or any("epoch" in log.read_text() for log in logs.glob("toy-*.txt")))
    assert first.poll() is None
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    # With what it has started: nobody would stop that.
    wait_for(lambda: alive(f"{folder / 'the work'}/results") == [])
    assert not rows.exists()

    done = subprocess.run(command, cwd=folder, env=shell.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 runs more on record, 0 are missing" in done.stderr
    before = rows.read_bytes()
    listed = list(csv.DictReader(rows.read_text().splitlines()))
    assert sorted((row["arm"], row["case"]) for row in listed) == sorted({(row["arm"], row["case"]) for row in listed})
    assert {row["arm"] for row in listed} == {"nnunet", "mine"}
    assert len(listed) == 2 * DEVELOPMENT
    assert {row["commit"] for row in listed} == {"c0ffee"}
    again = subprocess.run(command, cwd=folder, env=shell.environment(), capture_output=True, text=True)
    assert "0 runs more on record, 0 are missing" in again.stderr
    assert rows.read_bytes() == before

    # What is scored on was in no training, and both arms have the same cases.
    (splits,) = [path for path in (folder / "the work").rglob("splits") if path.is_dir()]
    recorded = [read_json(file) for file in splits.glob("*.json")]
    assert recorded
    scored = {row["case"] for row in listed}
    assert len({tuple(split["labeled"]) for split in recorded}) == 1
    for split in recorded:
        assert not scored & {*split["labeled"], *split["validation"], *split["unlabeled"], *split["hidden"]}

    table = subprocess.run(
        [sys.executable, str(STUDY / "study_table.py"), "--results", "results", "--list", "study.toml"],
        cwd=folder, env=shell.environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert table.returncode == 0, table.stderr
    assert "| `nnunet` | 1 |" in table.stdout
    assert "mine, 2 labels: no verdict: one draw" in table.stdout


def test_a_training_opens_no_label_of_the_scans_that_it_is_scored_on(shell: Shell, five_labels: Path) -> None:
    task = copy_of(five_labels, shell.folder / five_labels.name)
    shell.pclauto("plan", task, "--workspace", "work", "--gpu-memory-gb", "1")
    labels = labels_of_development(shell.folder / "work")
    whole = {label: label.read_bytes() for label in labels}
    assert len(whole) == DEVELOPMENT

    def write(label: Path, content: bytes) -> None:
        """Write over a label so that neither its size nor its time tells of it."""
        before = label.stat()
        label.write_bytes(content)
        os.utime(label, ns=(before.st_atime_ns, before.st_mtime_ns))

    for label in labels:
        write(label, b"\xa5" * len(whole[label]))
    # A round too, and axes to mirror along that are measured.
    (shell.folder / "joint.toml").write_text('extends = "tiny.toml"\n[augmentation]\nmirroring = "symmetric"\n')
    command = ["benchmark", task, "--workspace", "work", "--labeled", "2", "--draws", "1", "--device", "cpu",
               "--arms", "joint.toml", "--base-recipe", "tiny.toml", "--test-cases", str(DEVELOPMENT)]  # fmt: skip
    problems = shell.refusal(*command, code=3)
    assert {Path(problem["where"]).name for problem in problems} == {label.name for label in labels}
    (trained,) = (shell.folder / "work").rglob("checkpoint_final.pth")
    weights = trained.read_bytes()

    for label, content in whole.items():
        write(label, content)
    shell.pclauto(*command)
    assert trained.read_bytes() == weights
