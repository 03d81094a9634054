"""Test that a plan does not look again at files it has seen, and that another setting makes another run."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from golden import TRAIN, scramble, user, weights
from shared import PLAN_OPTIONS, model_of
from shell import Shell

pytestmark = pytest.mark.slow


def planned(five_labels: Path, folder: Path) -> Shell:
    shell = user(folder, five_labels)
    shell.pclauto("plan", "Task99_Phantom", *PLAN_OPTIONS)
    return shell


def labels(shell: Shell, kind: str) -> list[Path]:
    """The labels of the split's ``labeled`` or ``hidden`` cases."""
    shell.train(*TRAIN[1:], "--prepare-only")
    (split,) = (json.loads(file.read_text()) for file in shell.folder.rglob("splits/L2_s3.json"))
    return [shell.folder / "Task99_Phantom" / "labelsTr" / f"{case}.nii.gz" for case in split[kind]]


def test_once_planned_nothing_looks_at_a_hidden_label(five_labels: Path, unperturbed: Path, tmp_path: Path) -> None:
    shell = planned(five_labels, tmp_path / "user")
    broken, empty, gone = labels(shell, "hidden")
    broken.write_bytes(gzip.compress(b"no label"))
    empty.write_bytes(b"")
    gone.unlink()
    shell.train(*TRAIN[1:], "--restart")
    assert weights(shell.folder) == weights(unperturbed)


def test_another_labeled_case_changes_the_weights(five_labels: Path, unperturbed: Path, tmp_path: Path) -> None:
    """So that the comparison of weights can fail."""
    shell = user(tmp_path / "user", five_labels)
    shell.pclauto("plan", "Task99_Phantom", *PLAN_OPTIONS)
    scramble(labels(shell, "labeled")[0], seed=0)
    shell.pclauto("plan", "Task99_Phantom", *PLAN_OPTIONS)
    shell.train(*TRAIN[1:], "--restart")
    assert weights(shell.folder) != weights(unperturbed)


def test_another_setting_is_refused_with_the_difference(shell: Shell, own_trained: Path) -> None:
    recipe = shell.folder / "tiny.toml"
    before = {path: path.stat().st_mtime_ns for path in model_of(own_trained).rglob("*")}
    recipe.write_text(recipe.read_text().replace("learning_rate = 2e-3", "learning_rate = 1e-3"))
    refused = shell.train("--workspace", own_trained, "--recipe", recipe, "--json", code=4)
    (problem,) = json.loads(refused.stdout)["problems"]
    assert problem["code"] == "run.settings-changed"
    assert "recipe.optimizer.learning_rate" in problem["what"]
    assert (problem["expected"], problem["found"]) == ("0.002", "0.001")
    assert "--restart" in problem["fix"]
    assert {path: path.stat().st_mtime_ns for path in model_of(own_trained).rglob("*")} == before
