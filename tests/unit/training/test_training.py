"""Resolve trainings: split, folder, device, and runs that may go on."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from refusal import refused
from tiny_model import PLANS
from toy_plans import toy_plan
from toys import label_map, ramp, save

from pcl_auto.data.checks.check_files import image_stats
from pcl_auto.data.split import Correction, with_corrections
from pcl_auto.errors import StateError, UsageError
from pcl_auto.nnunet.environment import choose_device
from pcl_auto.planning.plan import Plan, read_plan, write_plan
from pcl_auto.planning.split_plans import record_split
from pcl_auto.recipe.load import from_dict
from pcl_auto.recipe.settings import Schedule
from pcl_auto.recipe.time_budget import Costs, Fitted, write_fit
from pcl_auto.training import estimate as forecast
from pcl_auto.training import train as training
from pcl_auto.training.request import (
    JOINT_TRAINER,
    SUPERVISED_TRAINER,
    Run,
    TrainRequest,
    resolve_run,
    resolve_runs,
    resolve_split,
)
from pcl_auto.training.run_identity import identity
from pcl_auto.training.train import train
from pcl_auto.workspace.events import silent
from pcl_auto.workspace.files import file_digest, write_json, write_text
from pcl_auto.workspace.folders import DatasetFolder, Workspace
from pcl_auto.workspace.run_record import compare_versions, refuse_changes, start_anew

LABELED = ("a", "b", "c", "d")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A planned task of four labeled cases and one without a label; its images are of a few voxels."""
    root, place = tmp_path / "Task05_Toy", Workspace.at(tmp_path / "work", "test")
    cases = {}
    for case in (*LABELED, "u"):
        image = save(root / "imagesTr" / f"{case}.nii.gz", ramp())
        save(root / "labelsTr" / f"{case}.nii.gz", label_map() % 2)
        cases[case] = {
            "image": str(image.relative_to(root)),
            "label": None if case == "u" else f"labelsTr/{case}.nii.gz",
            "source": "training",
            "shape": [5, 6, 7],
            **image_stats(image),
        }
    content = toy_plan(
        root,
        "Dataset005_Toy",
        cases,
        {"channel_names": {"0": "MR"}, "labels": {"background": 0, "core": 1}},
        ("2d", "3d_fullres"),
    )
    write_plan(DatasetFolder(place.preprocessed / "Dataset005_Toy"), content)
    return place


@pytest.fixture
def plan(workspace: Workspace) -> Plan:
    return read_plan(workspace.dataset(None))


def written(folder: Path, content: Any) -> Path:
    file = folder / "split.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


# --- the split ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"labeled": 1, "labeled_cases": ("a",)},
        {"labeled": 1, "split_file": Path("split.json")},
        {"labeled": 1, "labeled_cases": ("a",), "split_file": Path("split.json")},
    ],
)
def test_one_way_to_choose_labels(plan: Plan, options: dict[str, Any]) -> None:
    with refused(UsageError, "split.several-ways") as refusal:
        resolve_split(TrainRequest(**options), plan)
    assert refusal.problem.where.count(" and ") == len(options) - 1


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "\x00",
        [],
        "3",
        {},
        {"labeled": "ab"},
        {"labeled": {"a": 1}},
        {"labeled": [1]},
        {"labeled": ["a"], "validation": "b"},
        {"labeled": ["a"], "validation": None},
    ],
)
def test_a_file_that_is_no_split(plan: Plan, tmp_path: Path, content: Any) -> None:
    file = written(tmp_path, content)
    with refused(UsageError, "split.unreadable") as refusal:
        resolve_split(TrainRequest(split_file=file), plan)
    assert refusal.problem.where == str(file)


def test_a_split_file_that_is_not_there(plan: Plan, tmp_path: Path) -> None:
    with refused(UsageError, "split.unreadable"):
        resolve_split(TrainRequest(split_file=tmp_path / "none.json"), plan)


def test_a_split_file_beside_a_number_of_validation_cases(plan: Plan, tmp_path: Path) -> None:
    request = TrainRequest(split_file=written(tmp_path, {"labeled": ["a"]}), validation=1)
    with refused(UsageError, "split.file-and-validation"):
        resolve_split(request, plan)


def test_cases_that_are_not_there(plan: Plan) -> None:
    with refused(UsageError, "split.unknown-case", "split.unlabeled-case") as refusal:
        resolve_split(TrainRequest(labeled_cases=("a", "u", "x")), plan)
    assert len(refusal.problems) == 2


def test_more_validation_cases_than_the_named_ones_leave(plan: Plan) -> None:
    with refused(UsageError, "split.too-few-labeled"):
        resolve_split(TrainRequest(labeled_cases=("a", "b"), validation=3), plan)


def test_a_number_of_labels(plan: Plan) -> None:
    split = resolve_split(TrainRequest(labeled=2, seed=1), plan)
    assert (split.name, len(split.labeled), len(split.hidden)) == ("L2_s1", 2, 2)
    assert set(split.unlabeled) == {*split.hidden, "u"}


def test_all_labels(plan: Plan) -> None:
    split = resolve_split(TrainRequest(), plan)
    assert (split.labeled, split.unlabeled) == (LABELED, ("u",))


def test_named_cases_with_validation_drawn_among_the_others(plan: Plan) -> None:
    split = resolve_split(TrainRequest(labeled_cases=("c", "a"), validation=1), plan)
    assert split.labeled == ("a", "c")
    assert len(split.validation) == 1
    assert set(split.validation) < {"b", "d"}


def test_a_split_file_of_the_workspace_itself(plan: Plan, tmp_path: Path) -> None:
    drawn = resolve_split(TrainRequest(labeled=2, validation=1), plan)
    again = resolve_split(TrainRequest(split_file=written(tmp_path, drawn.as_dict())), plan)
    assert replace(again, name=drawn.name) == drawn


def test_f72_a_split_file_says_what_is_learned_from_without_labels(plan: Plan, tmp_path: Path) -> None:
    drawn = resolve_split(TrainRequest(labeled=2), plan)
    few = {**drawn.as_dict(), "unlabeled": ["u"]}
    split = resolve_split(TrainRequest(split_file=written(tmp_path, few)), plan)
    assert (split.labeled, split.unlabeled, split.hidden) == (drawn.labeled, ("u",), ())


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"labeled": ["a"], "hidden": ["a"]}, "split.hidden-and-open"),
        ({"labeled": ["b"], "validation": ["a"], "hidden": ["a", "c"]}, "split.hidden-and-open"),
        ({"labeled": ["a"], "unlabeled": ["a", "u"]}, "split.case-twice"),
        ({"labeled": ["a"], "unlabelled": ["u"]}, "split.unknown-key"),
        ({"labeled": ["a"], "val": ["b"]}, "split.unknown-key"),
    ],
)
def test_f72_a_split_file_that_contradicts_itself(
    plan: Plan, tmp_path: Path, content: dict[str, Any], code: str
) -> None:
    with refused(UsageError, code):
        resolve_split(TrainRequest(split_file=written(tmp_path, content)), plan)


# --- the run --------------------------------------------------------------------------------------------------


def test_a_run_without_a_plan(tmp_path: Path) -> None:
    with refused(StateError, "plan.missing"):
        resolve_run(TrainRequest(), Workspace.at(tmp_path, "test"))


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        ({"dataset": "Spleen"}, "plan.unknown-dataset", "'Spleen'"),
        ({"recipe": "none"}, "recipe.unknown", "'none'"),
        ({"configuration": "3d_lowres"}, "plan.unknown-configuration", "'3d_lowres'"),
        ({"recipe": "quick", "epochs": 2}, "recipe.too-few-epochs", ""),
        ({"labeled": 5}, "split.too-few-labeled", ""),
    ],
)
def test_a_run_of_what_does_not_exist(workspace: Workspace, options: dict[str, Any], code: str, named: str) -> None:
    with refused(UsageError, code) as refusal:
        resolve_run(TrainRequest(**options), workspace)
    assert named in refusal.problem.what


def test_a_setting_whose_package_is_missing_is_refused_before_anything_is_done(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pcl_auto.workspace.resources.find_spec", lambda _name: None)
    before = sorted(workspace.preprocessed.parent.rglob("*"))
    with refused(UsageError, "run.package-missing") as refusal:
        train(TrainRequest(tensorboard=True, device="cpu"), workspace, lambda _event, _values: None)
    assert "tensorboard" in refusal.problem.what
    assert refusal.problem.where == "--tensorboard"
    assert "'pclauto[tensorboard]'" in refusal.problem.fix
    assert sorted(workspace.preprocessed.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("table", "setting"),
    [
        ("pseudo_label_filter", {"largest_component": True}),
        ("pseudo_labels", {"match_volumes": 1.0}),
    ],
)
def test_what_regions_do_not_allow_is_refused_at_once(
    workspace: Workspace, plan: Plan, table: str, setting: dict[str, object]
) -> None:
    recipe = from_dict({"name": "mine", table: setting})
    resolve_run(TrainRequest(recipe=recipe), workspace)
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    write_plan(workspace.dataset(None), {**plan.content, "dataset_json": {**plan.dataset_json, "labels": labels}})
    with refused(UsageError, "recipe.not-with-regions") as refusal:
        resolve_run(TrainRequest(recipe=recipe), workspace)
    assert refusal.problem.what.split()[0] == f"{table}.{next(iter(setting))}"
    # Of pseudo-labels; there are none.
    resolve_run(TrainRequest(recipe=recipe, supervised_only=True), workspace)
    with refused(UsageError, "recipe.not-with-regions") as refusal:
        resolve_run(TrainRequest(recipe="mean_teacher"), workspace)
    assert refusal.problem.what.split()[0] == "unlabeled_loss.method"


def test_images_that_changed_since_the_plan_are_all_listed(workspace: Workspace, plan: Plan) -> None:
    plan.cases["a"].image.unlink()
    plan.cases["u"].image.write_bytes(b"more voxels")
    os.utime(plan.cases["c"].image, ns=(1, 1))
    with refused(StateError, "plan.image-changed") as refusal:
        resolve_run(TrainRequest(), workspace)
    assert [(Path(problem.where).name, problem.found) for problem in refusal.problems] == [
        ("a.nii.gz", "the file is gone"),
        ("c.nii.gz", "another size or time"),
        ("u.nii.gz", "another size or time"),
    ]


def test_a_label_that_is_gone(workspace: Workspace, plan: Plan) -> None:
    gone = plan.cases["b"].label
    assert gone is not None
    gone.unlink()
    with refused(StateError, "plan.label-gone") as refusal:
        resolve_run(TrainRequest(), workspace)
    assert refusal.problem.where == str(gone)
    # Of a case whose label stays hidden it does not matter.
    resolve_run(TrainRequest(labeled_cases=("a",)), workspace)


def test_a_split_on_record_with_other_cases(workspace: Workspace, plan: Plan) -> None:
    split = resolve_split(TrainRequest(labeled=2), plan)
    data = workspace.dataset(None)
    file = record_split(split, data)
    assert record_split(split, data) == file
    with refused(StateError, "split.recorded-otherwise") as refusal:
        record_split(replace(split, labeled=("a",)), data)
    assert refusal.problem.where == str(file)


def test_a_run_and_its_folder(workspace: Workspace) -> None:
    run = resolve_run(TrainRequest(labeled=2, recipe="quick"), workspace)
    assert run.plans_name == "nnUNetPlans_L2_s0_quick"
    assert run.model == workspace.results / "Dataset005_Toy" / f"{JOINT_TRAINER}__{run.plans_name}__3d_fullres"
    assert run.folder == run.model / "fold_all"
    assert not run.finished
    assert not workspace.results.exists()


def test_a_data_set_that_has_grown_gets_a_split_of_its_own(workspace: Workspace) -> None:
    first = resolve_run(TrainRequest(labeled=2), workspace)
    record = first.data.split_file(first.split.name)
    write_json(record, replace(first.split, unlabeled=first.split.unlabeled[:-1]).as_dict())
    grown = resolve_run(TrainRequest(labeled=2), workspace)
    assert grown.split.labeled == first.split.labeled
    assert grown.split.name.startswith(f"{first.split.name}_g")
    assert grown.model != first.model
    assert resolve_run(TrainRequest(labeled=2), workspace) == grown
    write_json(record, first.split.as_dict())
    assert resolve_run(TrainRequest(labeled=2), workspace) == first


def test_a_finished_run(workspace: Workspace) -> None:
    run = resolve_run(TrainRequest(), workspace)
    run.folder.mkdir(parents=True)
    (run.folder / "checkpoint_final.pth").touch()
    assert not run.finished
    write_json(run.folder / "validation" / "summary.json", {})
    assert run.finished


def test_folds_are_runs_of_one_model(workspace: Workspace) -> None:
    runs = resolve_runs(TrainRequest(labeled=3, folds=3), workspace)
    assert [run.folder.name for run in runs] == ["fold_0", "fold_1", "fold_2"]
    assert len({run.model for run in runs}) == 1
    assert runs[0].model != resolve_run(TrainRequest(labeled=3), workspace).model
    (single,) = resolve_runs(TrainRequest(labeled=3), workspace)
    assert single.folder.name == "fold_all"


def test_folds_are_not_scored_by_corrections(workspace: Workspace, plan: Plan) -> None:
    drawn = resolve_split(TrainRequest(labeled=2), plan)
    record_split(drawn, workspace.dataset(None))
    mask = save(workspace.preprocessed / "mask.nii.gz", label_map() % 2)
    digest = file_digest(mask)
    corrected = with_corrections(drawn, [Correction("u", digest, drawn.name, "model", 1)])
    taken_up = workspace.dataset(None).correction_file("u", digest)
    taken_up.parent.mkdir(parents=True)
    mask.rename(taken_up)
    with refused(UsageError, "split.folds-and-corrections"):
        resolve_runs(TrainRequest(split=corrected, folds=2), workspace)


def correction(**changes: Any) -> dict[str, Any]:
    return {"case": "u", "mask": "a" * 64, "split": "L2_s0", "model": "model", "round": 1, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"case": "../../../u"}, {"case": 3}, {"case": ".."}, {"mask": "../../etc/pa" + "a" * 52}, {"mask": ["a" * 64]},
        {"mask": "A" * 64}, {"split": "a/b"}, {"split": "../L2_s0"}, {"model": "/tmp"}, {"model": "a\x1bb"},
        {"round": "1"}, {"round": True}, {"more": 1},
    ],
)  # fmt: skip
def test_f72_a_history_that_leads_elsewhere(plan: Plan, tmp_path: Path, changes: dict[str, Any]) -> None:
    content = {"labeled": ["a", "u"], "history": [correction(**changes)]}
    with refused(UsageError, "split.unreadable"):
        resolve_split(TrainRequest(split_file=written(tmp_path, content)), plan)


@pytest.mark.parametrize(
    ("content", "case"),
    [
        ({"labeled": ["a", "x"]}, "x"),  # of no plan
        ({"labeled": ["a"]}, "u"),  # not said to be labeled
        ({"labeled": ["a", "b"], "validation": ["b"]}, "b"),
    ],
)
def test_f72_a_history_of_what_is_not_corrected(plan: Plan, tmp_path: Path, content: dict[str, Any], case: str) -> None:
    file = written(tmp_path, {**content, "history": [correction(case=case)]})
    with refused(UsageError, "split.not-corrected") as refusal:
        resolve_split(TrainRequest(split_file=file), plan)
    assert repr(case) in refusal.problem.what


def test_f72_a_history_that_overrides_a_label(workspace: Workspace, plan: Plan, tmp_path: Path) -> None:
    data = workspace.dataset(None)
    drawn = resolve_split(TrainRequest(labeled=2), plan)
    shown, hidden = drawn.labeled[0], drawn.hidden[0]
    file = written(tmp_path, {"labeled": [*drawn.labeled, hidden], "history": [correction(case=hidden)]})
    with refused(UsageError, "split.not-corrected"):  # by a split that nobody recorded
        resolve_run(TrainRequest(split_file=file), workspace)
    record_split(drawn, data)
    with refused(StateError, "plan.label-gone"):  # there is no such mask
        resolve_run(TrainRequest(split_file=file), workspace)
    file = written(tmp_path, {"labeled": list(drawn.labeled), "history": [correction(case=shown)]})
    with refused(UsageError, "split.not-corrected") as refusal:
        resolve_run(TrainRequest(split_file=file), workspace)
    assert refusal.problem.where == str(data.split_file("L2_s0"))


def test_a_corrected_mask_is_the_one_that_was_taken_up(workspace: Workspace, plan: Plan) -> None:
    drawn = resolve_split(TrainRequest(labeled=2), plan)
    record_split(drawn, workspace.dataset(None))
    corrected = with_corrections(drawn, [Correction("u", "a" * 64, drawn.name, "model", 1)])
    mask = save(workspace.dataset(None).correction_file("u", "a" * 64), label_map() % 2)
    with refused(StateError, "split.correction-changed") as refusal:
        resolve_run(TrainRequest(split=corrected), workspace)
    assert refusal.problem.where == str(mask)


def test_f71_a_shared_start_is_of_the_labels_that_are_there(workspace: Workspace, plan: Plan, tmp_path: Path) -> None:
    run, start, checkpoint = resolve_run(TrainRequest(), workspace), tmp_path / "start.pth", tmp_path / "latest.pth"
    checkpoint.write_bytes(b"one")
    epochs = run.recipe.schedule.supervised_epochs

    def train_to(now: Run) -> None:
        hear = training._keeping_start(silent, now, start)
        hear("checkpoint", {"epochs": epochs, "file": checkpoint})

    assert not training._is_start_of(run, start)
    train_to(run)
    assert training._is_start_of(run, start)
    label = plan.cases["a"].label
    assert label is not None
    save(label, label_map() * 0 + 1)
    later = resolve_run(TrainRequest(), workspace)
    assert not training._is_start_of(later, start)
    checkpoint.write_bytes(b"two")
    train_to(later)
    assert training._is_start_of(later, start)
    assert start.read_bytes() == b"two"
    training.start_record(start).unlink()  # killed before it was written
    assert not training._is_start_of(later, start)


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        ({"folds": 5}, "split.fold-count", "2 to 4"),
        ({"folds": 2, "labeled": 1}, "split.fold-count", "2 labeled cases or more"),
        ({"folds": 2, "validation": 1}, "split.folds-and-validation", ""),
    ],
)
def test_folds_that_cannot_be(workspace: Workspace, options: dict[str, Any], code: str, expected: str) -> None:
    with refused(UsageError, code) as refusal:
        resolve_runs(TrainRequest(**options), workspace)
    assert "--folds" in refusal.problem.where
    assert refusal.problem.expected == expected


@pytest.mark.parametrize("options", [{"supervised_only": True}, {"split_file": "all"}])
def test_without_unlabeled_cases_nnunet_trains_alone(workspace: Workspace, plan: Plan, options: dict[str, Any]) -> None:
    if "split_file" in options:  # a task whose every case has a label, and all labels are used
        cases = {case: entry for case, entry in plan.content["cases"].items() if case != "u"}
        write_plan(workspace.dataset(None), {**plan.content, "cases": cases})
        options = {}
    assert resolve_run(TrainRequest(**options), workspace).trainer == SUPERVISED_TRAINER


REQUESTS = [
    TrainRequest(),
    TrainRequest(seed=1),
    TrainRequest(labeled=2),
    TrainRequest(labeled=2, seed=1),
    TrainRequest(labeled=2, validation=1),
    TrainRequest(labeled_cases=("a", "b")),
    TrainRequest(labeled_cases=("a", "b"), seed=1),
    TrainRequest(supervised_only=True),
    TrainRequest(recipe="quick"),
    TrainRequest(epochs=20),
    TrainRequest(budget="2h"),
    TrainRequest(budget="90m"),
    TrainRequest(budget="2h", deterministic=True),
    TrainRequest(deterministic=True),
    TrainRequest(configuration="2d"),
]


def test_different_runs_have_different_folders_that_nnunet_can_parse(workspace: Workspace) -> None:
    models = [resolve_run(request, workspace).model for request in REQUESTS]
    assert len(set(models)) == len(models)
    assert {len(model.name.split("__")) for model in models} == {3}


def test_settings_without_a_file_are_part_of_the_run(workspace: Workspace) -> None:
    request = TrainRequest(labeled=2, recipe="quick", epochs=24)
    plain, same, changed, other = (
        resolve_run(replace(request, settings=settings), workspace)
        for settings in ((), ("batch.patches=4",), ("batch.patches=6",), ("batch.patches=8",))
    )
    assert same == plain, "the recipe's own value changes nothing"
    assert len({run.model for run in (plain, changed, other)}) == 3
    assert changed.model.name == f"{JOINT_TRAINER}__nnUNetPlans_L2_s0_quick-batch.patches-6_e24__3d_fullres"
    recipe = identity(changed, {})["recipe"]
    assert (recipe["name"], recipe["batch"]["patches"]) == ("quick-batch.patches-6", 6)
    baseline = resolve_run(replace(request, settings=("batch.patches=6",), supervised_only=True), workspace)
    assert baseline.recipe == changed.recipe
    assert baseline.model.name.startswith(SUPERVISED_TRAINER)


def test_wrong_settings_are_told_with_a_wrong_recipe(workspace: Workspace) -> None:
    with refused(UsageError, "recipe.unknown", "recipe.not-set-syntax"):
        resolve_run(TrainRequest(recipe="none", settings=("batch",)), workspace)


def test_fewer_epochs_scale_the_recipe(workspace: Workspace) -> None:
    run = resolve_run(TrainRequest(recipe="quick", epochs=24), workspace)
    assert run.recipe.schedule.epochs == 24
    assert run.plans_name.endswith("_quick_e24")


# --- a budget of time ---


def fit_on_file(workspace: Workspace, request: TrainRequest) -> Schedule:
    """As the first command with that budget leaves it."""
    run = resolve_run(request, workspace)
    schedule = Schedule(steps_per_epoch=7, supervised_epochs=5, rounds=2, epochs_per_round=3)
    costs = Costs(1.0, 0.1, 0.2, 0.05, 0.5, 3.0, 4.0)
    fitted = Fitted("2h", run.recipe.as_dict(), schedule, costs, 30.0, 900, 30.0, 1.5, "cpu")
    write_fit(run.budget_file, fitted)
    return schedule


def test_a_budget_is_part_of_the_name_in_one_spelling(workspace: Workspace) -> None:
    names = {resolve_run(TrainRequest(budget=text), workspace).plans_name for text in ("90m", "1h30m", "5400s")}
    assert len(names) == 1
    assert names.pop().endswith("_default_b1h30m")


def test_a_run_and_its_baseline_follow_the_schedule_on_file(workspace: Workspace) -> None:
    request = TrainRequest(labeled=2, budget="2h")
    assert resolve_run(request, workspace).fitted is None
    schedule = fit_on_file(workspace, request)
    for each in (request, replace(request, supervised_only=True)):
        run = resolve_run(each, workspace)
        assert run.recipe.schedule == schedule
        assert identity(run, {})["budget_s"] == 7200
    others: list[dict[str, Any]] = [
        {"seed": 1},
        {"labeled": 1},
        {"budget": "1h"},
        {"recipe": "quick"},
        {"configuration": "2d"},
    ]
    for options in others:
        assert resolve_run(replace(request, **options), workspace).fitted is None


def test_a_budget_and_epochs_exclude_each_other(workspace: Workspace) -> None:
    with refused(UsageError, "budget.and-epochs"):
        resolve_run(TrainRequest(budget="2h", epochs=20), workspace)
    with refused(UsageError, "budget.not-a-time") as refusal:
        resolve_run(TrainRequest(budget="two hours"), workspace)
    assert "1h30m" in refusal.problem.expected


def test_steps_of_several_processes_are_not_timed(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    request = TrainRequest(budget="2h")
    run = resolve_run(request, workspace)
    monkeypatch.setattr(forecast, "started_ranks", lambda: 2)
    with refused(UsageError, "budget.several-processes") as refusal:
        forecast.fit_budget(run, request, {}, SimpleNamespace(type="cuda"))
    assert refusal.problem.fix == "take --epochs"
    assert not run.budget_file.exists()


def test_the_forecast_of_a_baseline_has_no_pseudo_labels(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    request = TrainRequest(budget="2h")
    fit_on_file(workspace, request)
    content = {**resolve_run(request, workspace).plan.content, "step_memory_gb": {"2d": None, "3d_fullres": 2.0}}
    content["nnunet_plans"]["configurations"]["3d_fullres"]["batch_size"] = 4
    write_plan(workspace.dataset(None), content)
    monkeypatch.setattr(forecast, "gpu_memory_mb", forecast.step_memory_mb)
    joint = forecast.expected(resolve_run(request, workspace))
    alone = forecast.expected(resolve_run(replace(request, supervised_only=True), workspace))
    # 30 + 1 + 11 epochs of (7 steps, a validation step, a checkpoint) + 2 rounds + 4; the rounds' steps are 0.2 s.
    assert joint["wall_s"] == pytest.approx(30 + 1 + 5 * 0.7 + 6 * 1.4 + 11 * 0.55 + 6 + 4, abs=0.06)
    assert alone["wall_s"] == pytest.approx(30 + 1 + 11 * 0.7 + 11 * 0.55 + 4, abs=0.06)
    assert (joint["disk_mb"], alone["disk_mb"]) == (33, 30)
    assert joint["gpu_memory_mb"] == alone["gpu_memory_mb"] == 2048
    half = replace(request, recipe="quick")  # half as wide, four patches
    assert forecast.expected(resolve_run(half, workspace))["gpu_memory_mb"] == 1024
    assert forecast.expected(resolve_run(replace(request, configuration="2d"), workspace))["gpu_memory_mb"] is None


def test_a_deeper_head_takes_its_memory(workspace: Workspace) -> None:
    content = {**resolve_run(TrainRequest(), workspace).plan.content, "step_memory_gb": {"3d_fullres": 2.0}}
    content["nnunet_plans"]["configurations"]["3d_fullres"] |= PLANS["configurations"]["3d_fullres"]
    content["dataset_json"] |= {"channel_names": {"0": "T2"}, "labels": {"background": 0, "gland": 1}}
    write_plan(workspace.dataset(None), content)
    request = TrainRequest(configuration="3d_fullres")
    planned = forecast.step_memory_mb(resolve_run(replace(request, recipe="default"), workspace))
    deeper = forecast.step_memory_mb(resolve_run(replace(request, recipe="paper"), workspace))
    assert planned == 2048
    # At 8 x 8 x 8 voxels the network has three maps of 4 features and one of 2 classes, at 4 x 4 x 4 one of 8 features.
    numbers = 3 * 4 * 8**3 + 2 * 8**3 + 8 * 4**3
    assert deeper == round(2048 * (numbers + 3 * 4 * 8**3) / numbers)


def test_gpu_memory_is_that_of_a_step_and_of_the_weights(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {**read_plan(workspace.dataset(None)).content, "step_memory_gb": {"3d_fullres": 0.5}}
    content["dataset_json"]["channel_names"] = {"0": "MRI"}
    content["nnunet_plans"]["configurations"]["3d_fullres"] = {
        "batch_size": 4,
        "patch_size": [64, 64, 64],
        "architecture": {"arch_kwargs": {"features_per_stage": [8, 16]}},
    }
    write_plan(workspace.dataset(None), content)
    monkeypatch.setattr("pcl_auto.nnunet.network.weight_count", lambda *_: 10 * 2**20)

    def estimated(**options: Any) -> int | None:
        return forecast.gpu_memory_mb(resolve_run(TrainRequest(labeled=1, **options), workspace))

    # Of a weight: itself, gradient, momentum, half of itself, teacher. Of a feature: its gradient.
    assert estimated(supervised_only=True) == round(1.2 * (512 + 10 * (4 + 4 + 4 + 2)))
    assert estimated() == round(1.2 * (512 + 10 * (4 + 4 + 4 + 2 + 4) + 4 * 8 * 4 * 64**3 / 2**20))
    adam = from_dict({"optimizer": {"name": "adam"}})
    assert estimated(recipe=adam, supervised_only=True) == round(1.2 * (512 + 10 * (4 + 4 + 4 + 2 + 4)))
    # Without the contrastive loss there are no such features.
    assert estimated(recipe="self_training") == round(1.2 * (512 + 10 * 14))
    for method in ("mean_teacher", "uncertainty_mean_teacher", "copy_paste_teacher"):
        assert estimated(recipe=method) == round(1.2 * (512 + 10 * (14 + 4)))
    assert estimated(recipe="cross_supervision") == round(1.2 * (512 + 10 * (14 + 14)))


# --- a model to start from ---


def test_a_model_takes_the_place_of_the_supervised_epochs(workspace: Workspace, tmp_path: Path) -> None:
    fold = tmp_path / "model" / "fold_all"
    fold.mkdir(parents=True)
    (fold / "checkpoint_final.pth").write_bytes(b"weights")
    run = resolve_run(TrainRequest(labeled=2, start_from=fold.parent), workspace)
    assert run.start == fold / "checkpoint_final.pth"
    assert run.recipe.schedule.supervised_epochs == 0
    assert run.recipe.schedule.epochs == run.recipe.schedule.rounds * run.recipe.schedule.epochs_per_round
    assert "_from" in run.plans_name
    assert resolve_run(TrainRequest(labeled=2, start_from=run.start), workspace) == run
    (fold / "checkpoint_final.pth").write_bytes(b"others")
    assert resolve_run(TrainRequest(labeled=2, start_from=run.start), workspace).plans_name != run.plans_name


def test_a_start_that_is_none_or_several(workspace: Workspace, tmp_path: Path) -> None:
    with refused(StateError, "model.no-start"):
        resolve_run(TrainRequest(start_from=tmp_path), workspace)
    for fold in ("fold_0", "fold_1"):
        (tmp_path / fold).mkdir()
        (tmp_path / fold / "checkpoint_final.pth").touch()
    with refused(StateError, "model.several-starts") as refusal:
        resolve_run(TrainRequest(start_from=tmp_path), workspace)
    assert refusal.problem.found == "fold_0 | fold_1"
    with refused(UsageError, "model.start-unknown-to-stock") as refusal:
        resolve_run(TrainRequest(start_from=tmp_path / "fold_0", prepare_only=True), workspace)
    assert "-pretrained_weights" in refusal.problem.fix


def test_rounds_need_something_to_begin_with(workspace: Workspace) -> None:
    recipe = from_dict({"name": "bare", "schedule": {"supervised_epochs": 0}})
    with refused(UsageError, "recipe.nothing-to-begin-with"):
        resolve_run(TrainRequest(recipe=recipe), workspace)


# --- going on -------------------------------------------------------------------------------------------------


def test_a_changed_run_is_refused_with_every_difference(workspace: Workspace, tmp_path: Path) -> None:
    request = TrainRequest(labeled=2)
    run = resolve_run(request, workspace)
    recorded = json.loads(json.dumps(identity(run, {"patch": 1})))
    recipe = replace(run.recipe, batch=replace(run.recipe.batch, patches=8))
    changed = replace(run, settings=replace(run.settings, recipe=recipe, seed=3))
    with refused(StateError, "run.settings-changed") as refusal:
        refuse_changes(recorded, identity(changed, {"patch": 2}), tmp_path)
    differences = {problem.what: (problem.expected, problem.found) for problem in refusal.problems}
    assert differences["the run there has another recipe.batch.patches"] == ("0", "8")
    assert differences["the run there has another seed"] == ("0", "3")
    assert "the run there has another plan" in differences
    assert len(differences) == 3


@pytest.mark.parametrize(("before", "now"), [({}, {"seed": 0}), ({"seed": 0}, {}), ({"seed": {"a": 1}}, {"seed": 0})])
def test_a_setting_that_one_side_lacks(before: dict[str, Any], now: dict[str, Any], tmp_path: Path) -> None:
    with refused(StateError, "run.settings-changed") as refusal:
        refuse_changes(before, now, tmp_path)
    assert refusal.problem.what.endswith("another seed")


def test_a_deterministic_run_wants_the_versions_that_it_began_with(tmp_path: Path) -> None:
    before, now = {"torch": "1", "numpy": "2"}, {"torch": "1", "numpy": "3"}
    with refused(StateError, "run.versions-changed") as refusal:
        compare_versions(before, now, tmp_path, deterministic=True, listener=lambda _event, _values: None)
    assert (refusal.problem.expected, refusal.problem.found) == ("2", "3")
    assert "--restart" in refusal.problem.fix


def test_a_run_goes_on_that_began_when_there_were_fewer_settings(workspace: Workspace) -> None:
    run = resolve_run(TrainRequest(labeled=2), workspace)
    record = {"identity": identity(run, {"patch": 1}), "versions": {}, "threads": 2}
    before = json.loads(json.dumps(record))
    recipe = before["identity"]["recipe"]
    for table, key in (("optimizer", "schedule"), ("contrast", "head_convolutions"), ("pseudo_labels", "network")):
        del recipe[table][key]
    training._refuse_another(before, record, run, silent)
    recipe["optimizer"]["learning_rate"] = 0.5
    with refused(StateError, "run.settings-changed") as refusal:
        training._refuse_another(before, record, run, silent)
    assert refusal.problem.what.endswith("recipe.optimizer.learning_rate")


def test_f39_a_run_with_other_classes_is_refused_before_anything_is_prepared(workspace: Workspace, plan: Plan) -> None:
    request = TrainRequest(labeled=2)
    run = resolve_run(request, workspace)
    now = {"identity": identity(run, {"patch": 1}), "versions": {}, "threads": 2}
    before = json.loads(json.dumps(now))
    assert before["identity"]["labels"] == {"background": [0], "core": [1]}
    write_json(run.folder / "run.json", before)
    resolve_runs(request, workspace)
    for key in ("labels", "regions_class_order", "channel_names"):  # of an earlier version, without a model yet
        del before["identity"][key]
    write_json(run.folder / "run.json", before)
    resolve_runs(request, workspace)
    training._refuse_another(before, now, run, silent)
    described = plan.content["dataset_json"]
    write_json(run.model / "dataset.json", described)  # and as its trainer has left it
    training._refuse_another(before, now, run, silent)
    for changed in ({"labels": {"background": 0, "rim": 1}}, {"channel_names": {"0": "CT"}}):
        write_plan(run.data, {**plan.content, "dataset_json": {**described, **changed}})
        with refused(StateError, "run.settings-changed", *["run.settings-changed"] * ("labels" in changed)):
            resolve_runs(request, workspace)
        resolve_runs(replace(request, restart=True), workspace)


def test_f88_a_deterministic_run_goes_on_with_its_threads_on_its_device(workspace: Workspace) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    for deterministic in (False, True):
        run = resolve_run(TrainRequest(labeled=2, deterministic=deterministic), workspace)
        now = {"identity": identity(run, {"patch": 1}), "versions": {}, "device": "cpu", "threads": 8}

        def go_on(before: dict[str, Any], run: Any = run, now: dict[str, Any] = now) -> int:
            return training._refuse_another({**now, **before}, now, run, lambda *event: heard.append(event))

        assert go_on({}) == 8
        assert heard == []
        assert go_on({"threads": 2}) == (2 if deterministic else 8)
        assert heard == ([("threads", {"threads": 2, "here": 8})] if deterministic else [])
        heard.clear()
        if not deterministic:
            assert go_on({"device": "cuda"}) == 8
            continue
        with refused(StateError, "run.versions-changed") as refusal:
            go_on({"device": "cuda"})
        assert (refusal.problem.expected, refusal.problem.found) == ("cuda", "cpu")
        # A record of an earlier version tells neither.
        earlier = {key: now[key] for key in ("identity", "versions")}
        assert training._refuse_another(earlier, now, run, silent) == 8


@pytest.mark.parametrize("request_", REQUESTS)
def test_the_same_command_goes_on(workspace: Workspace, request_: TrainRequest, tmp_path: Path) -> None:
    wanted = identity(resolve_run(request_, workspace), {"patch": 1})
    refuse_changes(json.loads(json.dumps(wanted)), wanted, tmp_path)


# --- the device -----------------------------------------------------------------------------------------------


def machine(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool) -> None:
    """A torch that sees these devices; the real one takes seconds to import."""
    stub = SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: cuda),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
        device=lambda name: SimpleNamespace(type=name),
    )
    monkeypatch.setitem(sys.modules, "torch", stub)


@pytest.mark.parametrize("wanted", ["cuda", "mps", "gpu", ""])
def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    machine(monkeypatch, cuda=False, mps=False)
    with refused(UsageError, "device.missing") as refusal:
        choose_device(wanted)
    assert refusal.problem.expected == "cpu"


@pytest.mark.parametrize(
    ("cuda", "mps", "wanted", "taken"),
    [
        (False, False, "auto", "cpu"),
        (True, False, "auto", "cuda"),
        (False, True, "auto", "mps"),
        (True, True, "auto", "cuda"),
        (True, True, "cpu", "cpu"),
        (True, True, "mps", "mps"),
    ],
)
def test_the_device_that_is_taken(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, wanted: str, taken: str
) -> None:
    machine(monkeypatch, cuda=cuda, mps=mps)
    assert choose_device(wanted).type == taken


@pytest.mark.parametrize(
    ("workers", "deterministic", "device", "taken"),
    [
        (None, False, "cuda", None),
        (None, False, "cpu", 0),
        (3, False, "cpu", 3),
        (3, False, "cuda", 3),
        (3, True, "cuda", 0),
    ],
)
def test_workers_that_augment(workers: int | None, deterministic: bool, device: str, taken: int | None) -> None:
    request = TrainRequest(workers=workers, deterministic=deterministic)
    assert training.workers_of(request, SimpleNamespace(type=device)) == taken


def test_a_restart_keeps_what_somebody_corrected(tmp_path: Path) -> None:
    fold = tmp_path / "model" / "fold_all"
    for name in ("plans.json", "fold_all/checkpoint_final.pth", "fold_all/pseudo_labels/round_1/ledger.csv"):
        write_text(tmp_path / "model" / name, "of the run")
    (fold / "unreachable").symlink_to(tmp_path)
    write_text(fold / "review/corrected/a.nii.gz", "an hour of work")
    write_text(fold / "reviews.json", "where it lies")
    start_anew(tmp_path / "model")
    left = {path.relative_to(fold).as_posix() for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert left == {"review/corrected/a.nii.gz", "reviews.json"}
    bare = tmp_path / "bare"
    write_text(bare / "fold_all/checkpoint_final.pth", "of the run")
    start_anew(bare)
    assert not any(bare.iterdir())


def test_configurations_of_runs_that_start_at_once_are_all_in_their_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_settings(_plans: Any, _name: str, configuration: str, _settings: Any) -> dict[str, Any]:
        return {"configurations": {configuration: {}}}

    monkeypatch.setattr(training, "with_settings", with_settings)
    data, names = DatasetFolder(tmp_path / "Dataset005_Toy"), [f"3d_{number}" for number in range(8)]
    runs: list[Any] = [
        SimpleNamespace(data=data, plans_name="plans", configuration=name, settings=None) for name in names
    ]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda run: training._write_plans(run, {}), runs))
    assert sorted(json.loads(data.plans_file("plans").read_text())["configurations"]) == names
