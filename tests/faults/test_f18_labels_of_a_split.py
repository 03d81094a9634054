"""F18 and F19 once more: what the labels that a training opens do not show, said before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusal import refused
from refusals import label, rewrite, small_task
from shell import Shell

from pcl_auto.data.checks.shown_classes import absent_classes, empty_cases
from pcl_auto.data.labels import Labels
from pcl_auto.errors import DataError
from pcl_auto.planning.make_plan import plan_task
from pcl_auto.planning.plan import PlanSettings
from pcl_auto.training.request import TrainRequest, resolve_runs
from pcl_auto.workspace.folders import Workspace

SOUND, EMPTY, ALSO_EMPTY, LACKING = (f"phantom_{number:03d}" for number in (1, 2, 3, 4))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels: one sound, two all background, one without class 2."""
    task = small_task(tmp_path_factory.mktemp("labels"), labeled=4, unlabeled=1)
    for number in (2, 3):
        rewrite(label(task, number), np.zeros_like)
    rewrite(label(task, 4), lambda voxels: np.where(voxels == 2, 1, voxels))
    return task


@pytest.fixture(scope="module")
def workspace(task: Path) -> Workspace:
    workspace = Workspace.at(task.parent / "work", "test")
    plan_task(task, workspace, PlanSettings())
    return workspace


def warned(workspace: Workspace, *cases: str, **options: Any) -> list[tuple[str, str]]:
    """Return codes and words of the warnings about a training on these labeled cases."""
    (run, *_) = resolve_runs(TrainRequest(labeled_cases=cases, recipe="quick", **options), workspace)
    return [(problem.code, f"{problem.what} {problem.found}") for problem in run.warnings]


def test_f18_labeled_cases_that_show_no_class_are_refused(workspace: Workspace) -> None:
    for cases in ([EMPTY], [EMPTY, ALSO_EMPTY]):
        with refused(DataError, "split.no-class-shown") as refusal:
            warned(workspace, *cases)
        assert all(case in refusal.problem.found for case in cases)


def test_f18_labeled_cases_of_which_some_show_no_class(workspace: Workspace) -> None:
    assert warned(workspace, SOUND) == []
    ((code, words),) = warned(workspace, SOUND, EMPTY)
    assert code == "label.empty"
    assert EMPTY in words
    assert SOUND not in words


def test_f19_a_class_that_no_labeled_case_of_the_split_shows(workspace: Workspace) -> None:
    ((code, words),) = warned(workspace, LACKING)
    assert code == "label.class-absent"
    assert "labeled case shows class 2" in words
    assert warned(workspace, LACKING, SOUND) == []
    assert [code for code, _ in warned(workspace, LACKING, EMPTY)] == ["label.empty", "label.class-absent"]


def test_f18_validation_cases_likewise(workspace: Workspace, tmp_path: Path) -> None:
    def split(validation: str) -> Path:
        file = tmp_path / f"{validation}.json"
        file.write_text(f'{{"labeled": ["{SOUND}"], "validation": ["{validation}"]}}')
        return file

    with refused(DataError, "split.no-class-shown") as refusal:
        resolve_runs(TrainRequest(split_file=split(EMPTY), recipe="quick"), workspace)
    assert "validation" in refusal.problem.what
    (run,) = resolve_runs(TrainRequest(split_file=split(LACKING), recipe="quick"), workspace)
    assert [(each.code, each.what) for each in run.warnings] == [
        ("label.class-absent", f"no validation case shows class {_second(workspace)}")
    ]


def _second(workspace: Workspace) -> str:
    from pcl_auto.planning.plan import read_plan

    labels = read_plan(workspace.dataset(None)).dataset_json["labels"]
    return f"2 ({next(name for name, value in labels.items() if value == 2)})"


def test_f18_a_fold_that_learns_from_empty_labels_alone(workspace: Workspace) -> None:
    with refused(DataError, "split.no-class-shown") as refusal:
        warned(workspace, SOUND, EMPTY, folds=2)
    assert EMPTY in refusal.problem.found
    assert SOUND not in refusal.problem.found


def test_f18_labels_that_the_split_hides_are_not_looked_at(task: Path, workspace: Workspace) -> None:
    hidden = label(task, 1)
    content = hidden.read_bytes()
    hidden.unlink()
    try:
        assert [code for code, _ in warned(workspace, LACKING)] == ["label.class-absent"]
    finally:
        hidden.write_bytes(content)


def test_f18_train_says_it_before_it_trains(shell: Shell, workspace: Workspace) -> None:
    where = ["--workspace", str(workspace.preprocessed.parent), "--dry-run", "--recipe", "quick", "--device", "cpu"]
    said = shell.pclauto("train", "--labeled-cases", LACKING, *where)
    assert "warning: no labeled case shows class 2" in said.stderr
    problems = shell.refusal("train", "--labeled-cases", EMPTY, *where, code=3)
    assert [problem["code"] for problem in problems] == ["split.no-class-shown"]


def test_f18_regions_and_ignored_voxels() -> None:
    labels: Labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    counts = {"a": {0: 5, 3: 2}, "b": {0: 5, 1: 1}, "c": {0: 5, 1: 0, 2: 0}}
    assert empty_cases(counts, labels) == ["a", "c"]
    assert absent_classes(list(counts.values()), labels) == ["2 (core)"]
    assert absent_classes([{2: 1}], labels) == []
