"""Run a study: the order of its runs, its refusals, and that nothing is done twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kept_times import keeping_times
from refusal import codes, refused

from pcl_auto.benchmark.study import (
    RESULTS,
    BenchmarkRequest,
    Study,
    _refuse_others,
    find_planned,
    request_problems,
    resolve_study,
    run_study,
)
from pcl_auto.benchmark.train_and_score import Job
from pcl_auto.data.split import Split
from pcl_auto.errors import LockedError, StateError, UsageError
from pcl_auto.recipe.load import RENAMED_KEYS
from pcl_auto.training.train import start_record
from pcl_auto.workspace.events import Listener
from pcl_auto.workspace.files import file_digest, read_json, write_json
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.lock import sole_writer

REQUEST = BenchmarkRequest(labeled="1,2", draws=2, arms="paper,nnunet,all-labels")


def resolved(workspace: Workspace, request: BenchmarkRequest = REQUEST) -> Study:
    return resolve_study(request, workspace.dataset(None), workspace)


class Work:
    """Stand in for training: note the jobs, score by arm."""

    def __init__(self, fails_after: int = 1000, labels: dict[str, str] | None = None) -> None:
        self.jobs: list[Job] = []
        self.fails_after, self.labels = fails_after, labels

    def __call__(self, job: Job, _listener: Listener) -> dict[str, Any]:
        if len(self.jobs) == self.fails_after:
            raise KeyboardInterrupt
        self.jobs.append(job)
        if job.request.shared_start is not None:
            job.request.shared_start.parent.mkdir(parents=True, exist_ok=True)
            job.request.shared_start.touch()
        dice = 0.5 if job.request.supervised_only else 0.6
        labels = {case: self.labels[case] for case in split_of(job).labeled} if self.labels else {}
        return {
            "mean": {"dice": dice, "hd95_mm": 2.0},
            "undefined": {"dice": 0, "hd95_mm": 1},
            "seconds": 60.0,
            "memory_mb": float("nan"),
            "model": "model",
            "labels": labels,
            "cases": [{"id": case, "dice": dice, "hd95_mm": 2.0} for case in "xy"],
        }


def split_of(job: Job) -> Split:
    assert job.request.split is not None
    return job.request.split


def run(study: Study, workspace: Workspace, work: Work) -> dict[str, Any]:
    return run_study(study, workspace, print_line=lambda _line: None, listener=lambda _event, _values: None, work=work)


def test_baselines_come_first_and_all_labels_after_the_first_comparison(workspace: Workspace) -> None:
    assert [run.name for run in resolved(workspace).runs] == [
        "nnunet_L1_s0", "paper_L1_s0", "nnunet_L1_s1", "paper_L1_s1",
        "nnunet_L4_s0", "nnunet_L4_s1",
        "nnunet_L2_s0", "paper_L2_s0", "nnunet_L2_s1", "paper_L2_s1",
    ]  # fmt: skip
    only = resolved(workspace, replace(REQUEST, arms="all-labels"))
    assert [run.name for run in only.runs][:2] == ["nnunet_L4_s0", "nnunet_L4_s1"]


def test_arms_of_one_group_share_their_start_and_no_others_do(workspace: Workspace, tmp_path: Path) -> None:
    # Another method than nnU-Net's in the rounds alone, which begin where the base's do.
    (tmp_path / "mine.toml").write_text('extends = "quick"\n[augmentation]\nmirroring = "all"\n')
    study = resolved(workspace, replace(REQUEST, arms=f"nnunet,{tmp_path / 'mine.toml'},all-labels"))
    starts: dict[tuple[int, int], set[Path | None]] = {}
    for run in study.runs:
        start = study.shared_start(run)
        if run.arm.all_labels:
            assert start is None
        else:
            starts.setdefault((run.labeled, run.draw), set()).add(start)
    assert len(starts) == 4
    assert all(len(group) == 1 for group in starts.values())
    assert len(set.union(*starts.values())) == 4
    longer = resolved(workspace, replace(REQUEST, epochs=24))
    assert longer.shared_start(longer.runs[0]) not in set.union(*starts.values())


def test_arms_of_another_augmentation_have_a_start_of_their_own(workspace: Workspace) -> None:
    study = resolved(workspace, replace(REQUEST, arms="nnunet,nnunet_no_mirroring,default"))
    assert len({study.shared_start(run) for run in study.runs}) == len(study.runs)
    deeper = resolved(workspace, replace(REQUEST, arms="nnunet,paper"))  # its network has another head
    assert len({deeper.shared_start(run) for run in deeper.runs}) == len(deeper.runs)
    alike = resolved(workspace, replace(REQUEST, arms="nnunet_symmetric,default"))
    assert len({alike.shared_start(run) for run in alike.runs}) == len(alike.runs) / 2


def test_a_study_goes_on_where_it_stopped(workspace: Workspace) -> None:
    study = resolved(workspace)
    with pytest.raises(KeyboardInterrupt):
        run(study, workspace, Work(fails_after=3))
    rest = Work()
    found = run(study, workspace, rest)
    assert list(found) == [run.name for run in study.runs]
    assert len(rest.jobs) == len(study.runs) - 3
    written = {file: file.stat().st_mtime_ns for file in (study.folder / "runs").iterdir()}
    again = Work()
    assert run(study, workspace, again) == found
    assert again.jobs == []
    assert {file: file.stat().st_mtime_ns for file in (study.folder / "runs").iterdir()} == written
    # More labels and arms go into the same folder, and to their place among the runs.
    more, request = Work(), replace(REQUEST, labeled="1,2,3")
    wider = resolved(workspace, request)
    assert list(run(wider, workspace, more)) == [planned.name for planned in wider.runs]
    assert {split_of(job).name for job in more.jobs} == {"L3_s0", "L3_s1"}


def test_one_process_at_a_time_writes_a_study(workspace: Workspace) -> None:
    study, work = resolved(workspace), Work()
    with sole_writer(study.folder), refused(LockedError, "lock.held"):
        run(study, workspace, work)
    assert work.jobs == []
    assert run(study, workspace, work)


def test_a_study_goes_into_no_data_set(workspace: Workspace, task: Path) -> None:
    (task / "dataset.json").touch()
    with refused(UsageError, "output.input-folder"):
        resolved(workspace, replace(REQUEST, folder=task / "labelsTs"))


def test_a_start_stays_until_all_its_arms_are_on_record(workspace: Workspace) -> None:
    study = resolved(workspace, replace(REQUEST, arms="nnunet_symmetric,default"))
    first = study.shared_start(study.runs[0])
    assert first is not None
    with pytest.raises(KeyboardInterrupt):
        run(study, workspace, Work(fails_after=1))
    assert list(first.parent.iterdir()) == [first]
    start_record(first).touch()
    with pytest.raises(KeyboardInterrupt):
        run(study, workspace, Work(fails_after=2))  # both arms of draw 0, and the baseline of draw 1
    second = study.shared_start(study.runs[2])
    assert list(first.parent.iterdir()) == [second]
    run(study, workspace, Work())
    assert not first.parent.exists()


def test_a_start_that_an_earlier_try_left_goes(workspace: Workspace) -> None:
    study = resolved(workspace)
    run(study, workspace, Work())
    left = study.shared_start(study.runs[0])
    assert left is not None
    left.parent.mkdir()
    left.touch()
    (left.parent / "of_another_study.pth").touch()
    run(study, workspace, Work())
    assert [file.name for file in left.parent.iterdir()] == ["of_another_study.pth"]


def test_jobs_are_trainings_of_their_arm(workspace: Workspace) -> None:
    study, work = resolved(workspace), Work()
    run(study, workspace, work)
    requests = [job.request for job in work.jobs]
    assert [len(split_of(job).labeled) for job in work.jobs] == [1, 1, 1, 1, 4, 4, 2, 2, 2, 2]
    assert [request.supervised_only for request in requests[:5]] == [True, False, True, False, True]
    assert not any(request.remember for request in requests)
    assert all(request.recipe_mirroring for request in requests)
    # Scored as its model would be used.
    assert all(job.mirroring for job in work.jobs)


@pytest.mark.parametrize(
    ("changes", "setting"),
    [({"epochs": 24}, "recipe.schedule"), ({"mirroring": False}, "mirroring"), ({"configuration": "2d"}, "configura")],
)
def test_runs_of_other_settings_are_refused(workspace: Workspace, changes: dict[str, Any], setting: str) -> None:
    run(resolved(workspace), workspace, Work())
    work = Work()
    with refused(StateError, "run.settings-changed") as refusal:
        run(resolved(workspace, replace(REQUEST, **changes)), workspace, work)
    assert any(setting in problem.what for problem in refusal.problems)
    assert work.jobs == []
    assert all("--folder" in problem.fix for problem in refusal.problems)


def test_other_test_labels_are_refused(workspace: Workspace, task: Path) -> None:
    run(resolved(workspace), workspace, Work())
    (task / "labelsTs" / "x.nii.gz").write_bytes(b"other")
    with refused(StateError, "run.settings-changed") as refusal:
        run(resolved(workspace), workspace, Work())
    assert all(problem.what.endswith("test.digest") for problem in refusal.problems)


def test_f70_other_test_scans_of_the_same_size_are_refused(workspace: Workspace, task: Path) -> None:
    run(resolved(workspace), workspace, Work())
    scan = task / "imagesTs" / "x.nii.gz"
    keeping_times(scan, lambda file: file.write_bytes(file.read_bytes()[::-1]))
    with refused(StateError, "run.settings-changed") as refusal:
        run(resolved(workspace), workspace, Work())
    assert all(problem.what.endswith("images") for problem in refusal.problems)


def test_f70_training_labels_that_change_between_two_arms(workspace: Workspace, task: Path) -> None:
    study = resolved(workspace)
    files = {case: entry.label for case, entry in study.plan.cases.items() if entry.label is not None}
    labels = {case: file_digest(file) for case, file in files.items()}
    with pytest.raises(KeyboardInterrupt):
        run(study, workspace, Work(2, labels))
    (first, *_) = split_of(study.job(study.runs[0], workspace)).labeled
    before = files[first].read_bytes()
    keeping_times(files[first], lambda file: file.write_bytes(before[::-1]))
    more = Work(labels=labels)
    with refused(StateError, "benchmark.label-changed") as refusal:
        run(study, workspace, more)
    assert first in refusal.problem.what
    files[first].write_bytes(before)
    run(study, workspace, more)
    # Of records too: a label may have changed while a run began.
    file = study.file(study.runs[0])
    content = read_json(file)
    content["labels"][first] = "0" * 64
    write_json(file, content)
    with refused(StateError, "benchmark.label-changed"):
        study.recorded()


def test_runs_of_version_02_know_no_digest_of_an_image(workspace: Workspace) -> None:
    study = resolved(workspace)
    run(study, workspace, Work())
    for file in (study.folder / "runs").iterdir():
        content = read_json(file)
        del content["settings"]["images"]
        write_json(file, content)
    data = workspace.dataset(None)
    content = read_json(data.plan_file)
    for entry in content["cases"].values():
        entry["digest"] = "0" * 64  # planned again since
    write_json(data.plan_file, content)
    again = Work()
    run(resolved(workspace), workspace, again)
    assert again.jobs == []


def as_version_0_1(file: Path) -> dict[str, Any]:
    """Return a recorded run with the recipe keys of version 0.1, under the name that its arm had then."""
    content: dict[str, Any] = read_json(file)
    recipe = content["settings"]["recipe"]
    for old, new in RENAMED_KEYS.items():
        (old_table, old_key), (table, key) = old.split("."), new.split(".")
        recipe.setdefault(old_table, {})[old_key] = recipe[table].pop(key)
    for table in [table for table, keys in recipe.items() if keys == {}]:
        del recipe[table]
    recipe["pseudo_labels"]["crf"] = False
    recipe |= {"name": "bench-paper-0a1b2c", "description": "of the time"}
    return content


def test_runs_of_version_0_1_are_the_same_settings(workspace: Workspace) -> None:
    study = resolved(workspace)
    found = run(study, workspace, Work())
    file = study.folder / "runs" / "paper_L1_s0.json"
    old = as_version_0_1(file)
    assert {"judgement", "mixing"} <= old["settings"]["recipe"].keys()
    write_json(file, old)
    again = Work()
    assert list(run(study, workspace, again)) == list(found)
    assert again.jobs == []
    assert read_json(file) == old
    old["settings"]["recipe"]["judgement"]["range_margin"] += 0.25
    write_json(file, old)
    with refused(StateError, "run.settings-changed") as refusal:
        run(study, workspace, again)
    assert "recipe.pseudo_label_filter.range_margin" in refusal.problem.what


def test_everything_wrong_is_said_at_once(workspace: Workspace, task: Path) -> None:
    request = replace(REQUEST, labeled="0,2,5,9", arms="paper,nope", test_labels=task / "no", configuration="1d")
    with pytest.raises(UsageError) as caught:
        resolved(workspace, request)
    assert codes(caught.value.problems) == [
        "benchmark.labeled-not-a-number",
        "benchmark.unknown-arm",
        "benchmark.too-many-labels",
        "benchmark.too-many-labels",
        "benchmark.test-folder-missing",
        "plan.unknown-configuration",
    ]


def test_recipes_need_a_case_without_a_label(workspace: Workspace) -> None:
    file = workspace.dataset(None).plan_file
    content = read_json(file)
    del content["cases"]["u"]
    write_json(file, content)
    with refused(UsageError, "benchmark.no-unlabeled") as refusal:
        resolved(workspace, replace(REQUEST, labeled="1,4"))
    assert "4 labels" in refusal.problem.what
    resolved(workspace, replace(REQUEST, labeled="1,4", arms="supervised"))


def test_a_wrong_budget_does_not_hide_a_wrong_arm() -> None:
    problems = request_problems(replace(REQUEST, base_recipe="nope", arms="neither", labeled="x"))
    assert codes(problems) == ["benchmark.labeled-not-a-number", "recipe.unknown", "benchmark.unknown-arm"]


def test_data_sets_by_name_by_folder_and_not_planned(
    workspace: Workspace, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (None, "Toy", "5", "Task05_Toy", str(task)):
        found = find_planned(name, workspace)
        assert found is not None
        assert found.name == "Dataset005_Toy"
    assert find_planned("Task06_Other", workspace) is None
    assert find_planned("Task06_Other", Workspace.at(tmp_path / "empty", "test")) is None


def test_test_cases_of_the_pool_are_in_no_training(workspace: Workspace) -> None:
    request = replace(REQUEST, test_cases=1, labeled="1,2")
    study = resolved(workspace, request)
    (tested,) = (scan.id for scan in study.held_out.scans)
    assert study.all_labels == 3
    whole = resolved(workspace)
    for run in study.runs:
        split = study.job(run, workspace).request.split
        assert split is not None
        assert {*split.labeled, *split.unlabeled} == set("abcdu") - {tested}
        assert len(split.labeled) == run.labeled
        assert split.name.endswith("_H1")
        assert run.arm.all_labels or study.shared_start(run) != whole.shared_start(run)
    for run in whole.runs:
        split = split_of(whole.job(run, workspace))
        assert {*split.labeled, *split.unlabeled} == set("abcdu")
        assert "_H" not in split.name


def test_held_out_cases_are_no_labels_to_learn_from(workspace: Workspace) -> None:
    with refused(UsageError, "benchmark.too-many-labels") as refusal:
        resolved(workspace, replace(REQUEST, test_cases=2, labeled="1,3"))
    assert refusal.problem.found == "3"
    with refused(UsageError, "benchmark.too-few-labeled"):
        resolved(workspace, replace(REQUEST, test_cases=9))
    with refused(UsageError, "benchmark.two-kinds-of-test"):
        resolved(workspace, replace(REQUEST, test_cases=1, test_labels=Path("labels")))


@pytest.mark.parametrize("name", RESULTS)
def test_results_of_something_else_are_not_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('["mine"]')
    with refused(UsageError, "output.not-ours"):
        _refuse_others(tmp_path)
    for other in RESULTS:
        (tmp_path / other).write_text('{"runs_done": 1, "runs_wanted": 2}')
    _refuse_others(tmp_path)


def test_settings_without_a_file_are_part_of_every_run(workspace: Workspace) -> None:
    study, changed = (resolved(workspace, replace(REQUEST, settings=given)) for given in ((), ("batch.patches=6",)))
    before, after = ({run.name: study.settings(run) for run in study.runs} for study in (study, changed))
    assert before.keys() == after.keys()
    assert all(
        after[name]["recipe"]["batch"]["patches"] == 6 != before[name]["recipe"]["batch"]["patches"] for name in after
    )
    run(study, workspace, Work())
    with pytest.raises(StateError) as caught:
        changed.recorded()
    assert {problem.code for problem in caught.value.problems} == {"run.settings-changed"}


def test_wrong_settings_are_told_once_with_all_else(workspace: Workspace) -> None:
    request = replace(REQUEST, settings=("contrast.temprature=1", "a"), labeled="x", arms="paper,nope")
    told = [problem.code for problem in request_problems(request)]
    assert sorted(told) == [
        "benchmark.labeled-not-a-number", "benchmark.unknown-arm", "recipe.not-set-syntax", "recipe.unknown-key",
    ]  # fmt: skip
