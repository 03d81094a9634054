"""F74: a data set that was moved is the same; another one of its name is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from refusal import refused
from refusals import image, label, rewrite, small_task

from pcl_auto.errors import UsageError
from pcl_auto.planning.make_plan import PlanOutcome, plan_task
from pcl_auto.planning.plan import PlanSettings
from pcl_auto.training.request import TrainRequest, resolve_run
from pcl_auto.training.run_identity import identity
from pcl_auto.workspace.files import read_json, write_json
from pcl_auto.workspace.folders import Workspace

SETTINGS = PlanSettings(memory_gb=1.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task that is planned in ``work``, and a copy of both in which everything may be changed."""
    folder = tmp_path_factory.mktemp("made")
    plan(small_task(folder, labeled=2), folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "work", tmp_path / "work", symlinks=True).parent)


def task_of(folder: Path) -> Path:
    (found,) = folder.glob("Task*")
    return found


def plan(task: Path, folder: Path) -> PlanOutcome:
    return plan_task(task, Workspace.at(folder / "work", "test"), SETTINGS)


def copied(made: Path, folder: Path, *, keep_times: bool = True) -> Path:
    copy = shutil.copy2 if keep_times else shutil.copyfile
    return Path(shutil.copytree(task_of(made), folder / "moved" / task_of(made).name, copy_function=copy))


@pytest.mark.parametrize("keep_times", [True, False])
def test_f74_a_moved_data_set_goes_on(made: Path, folder: Path, keep_times: bool) -> None:
    work = Workspace.at(folder / "work", "test")
    before = read_json(work.dataset(None).plan_file)
    run = resolve_run(TrainRequest(labeled=1), work)
    outcome = plan(copied(made, folder, keep_times=keep_times), folder)
    assert outcome.up_to_date
    assert [warning.code for warning in outcome.warnings] == ["plan.moved"]
    after = read_json(work.dataset(None).plan_file)
    assert after["task"].pop("root") == str(folder / "moved" / task_of(made).name)
    before["task"].pop("root")
    assert after == before
    moved = resolve_run(TrainRequest(labeled=1), work)
    assert moved.plan.root != run.plan.root
    assert identity(moved, {})["input_content"] == identity(run, {})["input_content"]
    assert plan(folder / "moved" / task_of(made).name, folder).warnings == outcome.warnings[:-1]


def test_f74_a_plan_of_version_02_is_compared_by_size_and_time(made: Path, folder: Path) -> None:
    data = Workspace.at(folder / "work", "test").dataset(None)
    content, checks = read_json(data.plan_file), read_json(data.checks_file)
    for entry in content["cases"].values():
        del entry["digest"]
    for records in (checks["images"], checks["labels"]):
        for entry in records.values():
            del entry["digest"], entry["ctime_ns"]
    write_json(data.plan_file, content)
    write_json(data.checks_file, checks)
    moved = copied(made, folder)
    os.utime(image(moved, 1), ns=(1, 1))
    with refused(UsageError, "plan.number-taken"):
        plan(moved, folder)
    shutil.copystat(image(task_of(made), 1), image(moved, 1))
    assert plan(moved, folder).up_to_date


def another_value(file: Path) -> None:
    rewrite(file, lambda voxels: voxels ^ 1 if voxels.dtype.kind == "u" else voxels + 1)


@pytest.mark.parametrize("changed", [image, label])
@pytest.mark.parametrize("change", [another_value, lambda file: file.write_bytes(file.read_bytes() + b"\0")])
def test_f74_another_data_set_of_the_same_name(
    made: Path, folder: Path, changed: Callable[[Path, int], Path], change: Callable[[Path], object]
) -> None:
    moved = copied(made, folder)
    file = changed(moved, 1)
    before = {path: path.read_bytes() for path in (folder / "work").rglob("*.json")}
    change(file)
    with refused(UsageError, "plan.number-taken") as refusal:
        plan(moved, folder)
    assert "phantom_001" in refusal.problem.found
    assert {path: path.read_bytes() for path in (folder / "work").rglob("*.json")} == before


def test_f74_other_cases_of_the_same_name(made: Path, folder: Path) -> None:
    moved = small_task(folder / "other", labeled=1)
    with refused(UsageError, "plan.number-taken") as refusal:
        plan(moved, folder)
    assert "cases are in one of them only" in refusal.problem.found
