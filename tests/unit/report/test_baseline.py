from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from report_files import RECIPE, write_run, write_scores

from pcl_auto.report.baseline import BaselineComparison, compare_to_baseline
from pcl_auto.report.find_baseline import find_baseline, find_refused, steps_of
from pcl_auto.training.request import SUPERVISED_TRAINER
from pcl_auto.training.run_facts import read_run
from pcl_auto.workspace.folders import Workspace

WORKSPACE = Workspace.find(Path("/anywhere"), {})
CASES = [f"t{index}" for index in range(12)]


def test_without_a_baseline_the_page_says_so_and_how_to_get_one(tmp_path: Path) -> None:
    found = compare_to_baseline(read_run(write_run(tmp_path) / "fold_all"), WORKSPACE)
    assert found.baseline_scores is None
    assert found.missing
    assert "pclauto train --labeled 2 --supervised-only" in found.commands


@pytest.mark.parametrize("masks", [["--initial-pseudo-labels", "masks"], ["--initial-pseudo-labels=masks"]])
def test_a_baseline_begins_with_no_masks(tmp_path: Path, masks: list[str]) -> None:
    model = write_run(tmp_path)
    record = json.loads((model / "fold_all/run.json").read_text())
    record["command"] = ["pclauto", "train", *masks, "--labeled", "2"]
    (model / "fold_all/run.json").write_text(json.dumps(record))
    found = compare_to_baseline(read_run(model / "fold_all"), WORKSPACE)
    assert "pclauto train --labeled 2 --supervised-only" in found.commands


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"seed": 1}, "seed 1, not 0"),
        ({"input": "another"}, "images or labels were changed in between"),
        ({"input_content": "another"}, "images or labels were changed in between"),
        ({"start": "0" * 64}, "begun with another model"),
        ({"fold": "0"}, "trained on fold 0, not all labeled cases"),
        (
            {"recipe_values": {**RECIPE, "schedule": {**RECIPE["schedule"], "steps_per_epoch": 3}}},
            "9 steps, not 6",
        ),
        (
            {"recipe_values": {**RECIPE, "batch": {**RECIPE["batch"], "patches": 8}}},
            "8 patches a step, not the planned number",
        ),
    ],
)
def test_a_run_on_other_terms_is_no_baseline_and_the_terms_are_named(
    tmp_path: Path, other: dict[str, Any], reason: str
) -> None:
    run = read_run(write_run(tmp_path, input_content="one") / "fold_all")
    baseline = write_run(tmp_path, trainer=SUPERVISED_TRAINER, **{"input_content": "one", **other})
    assert find_baseline(run) is None
    refused = find_refused(run)
    assert refused is not None
    assert (refused.model, refused.reasons) == (baseline.name, (reason,))
    assert compare_to_baseline(run, WORKSPACE).refused == f"{baseline.name}: {reason}"


def test_of_several_unfair_runs_the_nearest_is_named(tmp_path: Path) -> None:
    split = {**read_run(write_run(tmp_path) / "fold_all").split.as_dict(), "labeled": ["a", "z"]}
    run = read_run(tmp_path / "Dataset001_X" / "nnUNetTrainerPCL__nnUNetPlans_tiny__3d_fullres" / "fold_all")
    far = write_run(tmp_path, trainer=SUPERVISED_TRAINER, seed=1, split=split)
    far.rename(far.with_name(f"{far.name}_far"))
    near = write_run(tmp_path, trainer=SUPERVISED_TRAINER, split=split)
    refused = find_refused(run)
    assert refused is not None
    assert (refused.model, refused.reasons) == (near.name, ("other labeled cases",))


def test_a_baseline_that_mirrors_as_no_user_would_is_refused(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path) / "fold_all")
    baseline = write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    plans = json.loads((baseline / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["pclauto"] |= {"recipe_mirroring": True, "mirror_axes": [0]}
    (baseline / "plans.json").write_text(json.dumps(plans))
    refused = find_refused(run)
    assert refused is not None
    assert refused.reasons == ("mirrors its patches in another way",)


def test_a_baseline_of_version_02_does_not_know_the_content_of_its_input(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, input_content="one") / "fold_all")
    baseline = write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    assert find_baseline(run) == baseline


def test_a_baseline_may_divide_the_same_steps_in_another_way(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path) / "fold_all")
    schedule = {"steps_per_epoch": 6, "supervised_epochs": 1, "rounds": 0, "epochs_per_round": 1}
    baseline = write_run(tmp_path, trainer=SUPERVISED_TRAINER, recipe_values={**RECIPE, "schedule": schedule})
    assert find_baseline(run) == baseline


def test_cases_that_one_of_both_lacks_count_in_neither_mean(tmp_path: Path) -> None:
    model, baseline = write_run(tmp_path), write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    write_scores(baseline, {case: 0.5 + index / 100 for index, case in enumerate(CASES)} | {"only here": 0.0})
    write_scores(model, {case: 0.6 + index / 100 for index, case in enumerate(CASES)} | {"only there": 1.0})
    found = compare_to_baseline(read_run(model / "fold_all"), WORKSPACE)
    assert found.means == pytest.approx((0.655, 0.555))
    assert sorted(found.dice) == sorted(CASES)
    assert (found.baseline, found.missing, found.commands) == (baseline, "", ())
    # The means of the table would be of different cases.
    assert found.baseline_scores is None


def test_the_table_has_the_baseline_beside_it_where_both_are_of_the_same_cases(tmp_path: Path) -> None:
    model, baseline = write_run(tmp_path), write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    write_scores(baseline, {"a": 0.5, "b": 0.4})
    write_scores(model, {"a": 0.6, "b": 0.7})
    found = compare_to_baseline(read_run(model / "fold_all"), WORKSPACE)
    assert (found.baseline_scores is not None, found.commands) == (True, ())


def scored(case: str, label: str, scan: str | None = "scan") -> dict[str, dict[str, str | None]]:
    return {case: {"mask": "m", "label": label, "scan": scan}}


@pytest.mark.parametrize("now", [scored("b", "new"), scored("b", "old", "another scan")])
def test_f73_cases_whose_label_or_scan_was_another_one_are_not_compared(tmp_path: Path, now: dict[str, Any]) -> None:
    model, baseline = write_run(tmp_path), write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    write_scores(model, {"a": 0.6, "b": 0.1}, scored={**scored("a", "x"), **scored("b", "old")})
    write_scores(baseline, {"a": 0.5, "b": 0.9}, time="2026-01-02", scored={**scored("a", "x"), **now})
    found = compare_to_baseline(read_run(model / "fold_all"), WORKSPACE)
    assert found.dice == {"a": (0.6, 0.5)}
    assert found.outdated.startswith("Not compared: b.")
    assert "the older one, of this run," in found.outdated
    assert f"--model {model}" in found.commands[0]  # its masks are gone
    assert found.baseline_scores is None


def test_f73_where_every_label_was_another_one_there_is_no_comparison(tmp_path: Path) -> None:
    model, baseline = write_run(tmp_path), write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    masks = tmp_path / "masks of it"
    masks.mkdir()
    write_scores(model, {"a": 0.6}, time="2026-01-03", scored=scored("a", "new"))
    write_scores(baseline, {"a": 0.5}, predictions=str(masks), scored=scored("a", "old"))
    found = compare_to_baseline(read_run(model / "fold_all"), WORKSPACE)
    assert not found.dice
    assert found.missing
    assert "the older one, of the baseline," in found.outdated
    assert found.commands == (f"pclauto evaluate '{masks}' labelsTs",)
    # Scores of version 0.2 do not know, and neither does one whose scan was moved.
    known: list[dict[str, Any]] = [{}, {"scored": scored("a", "new", None)}]
    for unknown in known:
        write_scores(baseline, {"a": 0.5}, **unknown)
        assert compare_to_baseline(read_run(model / "fold_all"), WORKSPACE).baseline_scores is not None


def test_f73_scores_of_other_classes_or_without_ignored_voxels_are_not_compared(tmp_path: Path) -> None:
    model, baseline = write_run(tmp_path), write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    write_scores(model, {"a": 0.6}, scored_as={"classes": None, "ignored": 3})
    write_scores(baseline, {"a": 0.5}, scored_as={"classes": None, "ignored": None})
    assert not compare_to_baseline(read_run(model / "fold_all"), WORKSPACE).dice
    write_scores(baseline, {"a": 0.5}, scored_as={"classes": None, "ignored": 3})
    assert compare_to_baseline(read_run(model / "fold_all"), WORKSPACE).dice


def test_scores_that_are_refused_are_named_with_the_reason_and_a_command_that_knows_the_folders(
    tmp_path: Path,
) -> None:
    model, baseline = write_run(tmp_path), write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    write_scores(model, {"a": 0.5}, labels="one", predictions=str(tmp_path / "masks"))
    write_scores(baseline, {"a": 0.4}, labels="two", mirroring=False)
    write_scores(baseline, {"a": 0.4}, labels="one", mirroring=False)
    found = compare_to_baseline(read_run(model / "fold_all"), WORKSPACE)
    assert found.baseline_scores is None
    # Of several the nearest.
    assert found.refused == f"{baseline.name}: predicted without mirroring, this run with mirroring"
    predict, evaluate, report = found.commands
    assert f"-o {tmp_path}/masks_baseline" in predict
    assert f"--model {baseline}" in predict
    assert evaluate == f"pclauto evaluate {tmp_path}/masks_baseline one"
    assert f"--model {model}" in report


def test_a_run_that_was_not_evaluated_takes_the_test_scans_of_the_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_run(tmp_path / "work" / "nnUNet_results")
    write_run(tmp_path / "work" / "nnUNet_results", trainer=SUPERVISED_TRAINER)
    workspace = Workspace.at(tmp_path / "work", "")
    run = read_run(model / "fold_all")
    found = compare_to_baseline(run, workspace)
    assert found.missing == "this run has no scores"
    assert found.commands[0].startswith("pclauto predict SCANS -o predictions")
    plan_file = workspace.preprocessed / "Dataset001_X" / "pclauto" / "plan.json"
    plan_file.parent.mkdir(parents=True)
    plan_file.write_text(json.dumps({"task": {"root": str(tmp_path / "data")}}))
    for name in ("imagesTs", "labelsTs"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.nii.gz").touch()
    # No name of a user: from the home folder on.
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    found = compare_to_baseline(run, workspace)
    assert found.commands[0].startswith("pclauto predict ~/data/imagesTs -o predictions --model ")
    assert found.commands[1] == "pclauto evaluate predictions ~/data/labelsTs"
    assert str(tmp_path) not in " ".join(found.commands)


def continued(results: Path, **origin: Any) -> tuple[Path, dict[str, Any]]:
    """Write a run that went on from another after 2 of its 3 epochs; return it and its split with a corrected case."""
    first = write_run(results, **origin).rename(results / "Dataset001_X" / "origin")
    entry = {"case": "c", "mask": "0" * 64, "split": "L2_s0", "model": "origin", "round": 1}
    split = read_run(first / "fold_all").split
    corrected = {**split.as_dict(), "name": "L2_s0_plus1", "labeled": ["a", "b", "c"], "history": [entry]}
    model = write_run(results, split=corrected)
    record = json.loads((model / "fold_all/run.json").read_text())
    record |= {"command": ["pclauto", "continue"], "steps_before": 2 * RECIPE["schedule"]["steps_per_epoch"]}
    (model / "fold_all/run.json").write_text(json.dumps(record))
    return model, corrected


def test_the_baseline_of_a_run_that_goes_on_has_the_steps_of_both(tmp_path: Path) -> None:
    model, corrected = continued(tmp_path)
    run = read_run(model / "fold_all")
    assert steps_of(run) == (2 + 3) * RECIPE["schedule"]["steps_per_epoch"]
    split_file = WORKSPACE.preprocessed / "Dataset001_X" / "splits" / "L2_s0_plus1.json"
    assert (
        f"pclauto train Dataset001_X --split {split_file} --configuration 3d_fullres --seed 0 --epochs 5 "
        "--supervised-only --workspace /anywhere"
    ) in compare_to_baseline(run, WORKSPACE).commands
    assert find_baseline(run) is None
    schedule = {**RECIPE["schedule"], "supervised_epochs": 5, "rounds": 0}
    baseline = write_run(
        tmp_path, trainer=SUPERVISED_TRAINER, split=corrected, recipe_values={**RECIPE, "schedule": schedule}
    )
    assert find_baseline(run) == baseline


@pytest.mark.parametrize("given", [["--set", "batch.patches=6"], ["--set=batch.patches=6"]])
def test_the_baseline_has_the_settings_that_the_first_run_was_given(tmp_path: Path, given: list[str]) -> None:
    model, _ = continued(tmp_path)
    file = model.parent / "origin" / "fold_all" / "run.json"
    command = ["pclauto", "train", "--recipe", "quick", *given, "--set", "network.width=0.25"]
    file.write_text(json.dumps({**json.loads(file.read_text()), "command": command}))
    (training,) = trainings(compare_to_baseline(read_run(model / "fold_all"), WORKSPACE))
    assert "--recipe quick --set batch.patches=6 --set network.width=0.25 --configuration" in training


def trainings(found: BaselineComparison) -> list[str]:
    return [command for command in found.commands if command.startswith("pclauto train")]


def test_where_no_number_of_epochs_is_honest_no_command_is_named(tmp_path: Path) -> None:
    for name, origin in (("budget", {"budget_s": 600}), ("start", {"start": "0" * 64})):
        model, _ = continued(tmp_path / name, **origin)
        assert not trainings(compare_to_baseline(read_run(model / "fold_all"), WORKSPACE))
    model, _ = continued(tmp_path / "gone")
    shutil.rmtree(model.parent / "origin")
    assert not trainings(compare_to_baseline(read_run(model / "fold_all"), WORKSPACE))


def test_a_run_on_a_corrected_split_from_its_beginning_has_its_own_steps(tmp_path: Path) -> None:
    model, corrected = continued(tmp_path)
    (model / "fold_all/run.json").write_text(
        json.dumps({**json.loads((model / "fold_all/run.json").read_text()), "steps_before": 0})
    )
    baseline = write_run(tmp_path, trainer=SUPERVISED_TRAINER, split=corrected)
    assert find_baseline(read_run(model / "fold_all")) == baseline
