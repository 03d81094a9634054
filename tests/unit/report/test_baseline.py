from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from report_files import RECIPE, write_run, write_scores

from pcl_auto.report.baseline import compare_to_baseline, find_baseline, steps_of
from pcl_auto.training.request import SUPERVISED_TRAINER
from pcl_auto.training.run_facts import read_run
from pcl_auto.workspace.folders import Workspace

WORKSPACE = Workspace.find(Path("/anywhere"), {})
CASES = [f"t{index}" for index in range(12)]


def test_without_a_baseline_the_page_says_so_and_how_to_get_one(tmp_path: Path) -> None:
    found = compare_to_baseline(read_run(write_run(tmp_path) / "fold_all"), WORKSPACE)
    assert found.baseline_scores is None
    assert "no supervised baseline" in found.sentence
    assert found.command == "pclauto train --labeled 2 --supervised-only"


@pytest.mark.parametrize("masks", [["--initial-pseudo-labels", "masks"], ["--initial-pseudo-labels=masks"]])
def test_a_baseline_begins_with_no_masks(tmp_path: Path, masks: list[str]) -> None:
    model = write_run(tmp_path)
    record = json.loads((model / "fold_all/run.json").read_text())
    record["command"] = ["pclauto", "train", *masks, "--labeled", "2"]
    (model / "fold_all/run.json").write_text(json.dumps(record))
    found = compare_to_baseline(read_run(model / "fold_all"), WORKSPACE)
    assert found.command == "pclauto train --labeled 2 --supervised-only"


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"input": "another"},
        {"input_content": "another"},
        {"configuration": "2d"},
        {"recipe_values": {**RECIPE, "schedule": {**RECIPE["schedule"], "steps_per_epoch": 3}}},
        {"recipe_values": {**RECIPE, "batch": {**RECIPE["batch"], "patches": 8}}},
    ],
)
def test_a_run_on_other_terms_is_no_baseline(tmp_path: Path, other: dict[str, Any]) -> None:
    run = read_run(write_run(tmp_path, input_content="one") / "fold_all")
    write_run(tmp_path, trainer=SUPERVISED_TRAINER, **{"input_content": "one", **other})
    assert find_baseline(run) is None


def test_a_baseline_of_version_02_does_not_know_the_content_of_its_input(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, input_content="one") / "fold_all")
    baseline = write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    assert find_baseline(run) == baseline


def test_a_baseline_may_divide_the_same_steps_in_another_way(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path) / "fold_all")
    schedule = {"steps_per_epoch": 6, "supervised_epochs": 1, "rounds": 0, "epochs_per_round": 1}
    baseline = write_run(tmp_path, trainer=SUPERVISED_TRAINER, recipe_values={**RECIPE, "schedule": schedule})
    assert find_baseline(run) == baseline


@pytest.mark.parametrize("gain", [0.1, -0.1, 0.0])
def test_a_run_is_set_beside_its_baseline_without_a_verdict(tmp_path: Path, gain: float) -> None:
    model, baseline = write_run(tmp_path), write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    # A case that one of both lacks counts in neither mean.
    write_scores(baseline, {case: 0.5 + index / 100 for index, case in enumerate(CASES)} | {"only here": 0.0})
    write_scores(model, {case: 0.5 + index / 100 + gain for index, case in enumerate(CASES)} | {"only there": 1.0})
    found = compare_to_baseline(read_run(model / "fold_all"), WORKSPACE)
    assert f"Dice {0.555 + gain:.3f} here against 0.555 of nnU-Net alone" in found.sentence
    assert "12 test cases" in found.sentence
    assert "one draw of labeled cases, no verdict" in found.sentence
    assert "helped" not in found.sentence
    assert found.baseline == baseline
    # The means of the table would be of different cases.
    assert found.baseline_scores is None


def test_the_table_has_the_baseline_beside_it_where_both_are_of_the_same_cases(tmp_path: Path) -> None:
    model, baseline = write_run(tmp_path), write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    write_scores(baseline, {"a": 0.5, "b": 0.4})
    write_scores(model, {"a": 0.6, "b": 0.7})
    found = compare_to_baseline(read_run(model / "fold_all"), WORKSPACE)
    assert (found.baseline_scores is not None, found.command) == (True, None)


def scored(case: str, label: str, scan: str | None = "scan") -> dict[str, dict[str, str | None]]:
    return {case: {"mask": "m", "label": label, "scan": scan}}


@pytest.mark.parametrize("now", [scored("b", "new"), scored("b", "old", "another scan")])
def test_f73_cases_whose_label_or_scan_was_another_one_are_not_compared(tmp_path: Path, now: dict[str, Any]) -> None:
    model, baseline = write_run(tmp_path), write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    write_scores(model, {"a": 0.6, "b": 0.1}, scored={**scored("a", "x"), **scored("b", "old")})
    write_scores(baseline, {"a": 0.5, "b": 0.9}, time="2026-01-02", scored={**scored("a", "x"), **now})
    found = compare_to_baseline(read_run(model / "fold_all"), WORKSPACE)
    assert "Dice 0.600 here against 0.500 of nnU-Net alone on the same labels (1 test case)" in found.sentence
    assert "Not compared: b" in found.sentence
    assert "the older one, of this run," in found.sentence
    assert f"--model {model}" in str(found.command)  # its masks are gone
    assert found.baseline_scores is None


def test_f73_where_every_label_was_another_one_there_is_no_comparison(tmp_path: Path) -> None:
    model, baseline = write_run(tmp_path), write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    masks = tmp_path / "masks of it"
    masks.mkdir()
    write_scores(model, {"a": 0.6}, time="2026-01-03", scored=scored("a", "new"))
    write_scores(baseline, {"a": 0.5}, predictions=str(masks), scored=scored("a", "old"))
    found = compare_to_baseline(read_run(model / "fold_all"), WORKSPACE)
    assert "Dice" not in found.sentence
    assert "the older one, of the baseline," in found.sentence
    assert found.command == f"pclauto evaluate '{masks}' labelsTs"
    # Scores of version 0.2 do not know, and neither does one whose scan was moved.
    known: list[dict[str, Any]] = [{}, {"scored": scored("a", "new", None)}]
    for unknown in known:
        write_scores(baseline, {"a": 0.5}, **unknown)
        assert compare_to_baseline(read_run(model / "fold_all"), WORKSPACE).baseline_scores is not None


def test_f73_scores_of_other_classes_or_without_ignored_voxels_are_not_compared(tmp_path: Path) -> None:
    model, baseline = write_run(tmp_path), write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    write_scores(model, {"a": 0.6}, scored_as={"classes": None, "ignored": 3})
    write_scores(baseline, {"a": 0.5}, scored_as={"classes": None, "ignored": None})
    assert "Dice" not in compare_to_baseline(read_run(model / "fold_all"), WORKSPACE).sentence
    write_scores(baseline, {"a": 0.5}, scored_as={"classes": None, "ignored": 3})
    assert "Dice" in compare_to_baseline(read_run(model / "fold_all"), WORKSPACE).sentence


def test_scores_on_other_labels_or_predicted_otherwise_are_not_compared(tmp_path: Path) -> None:
    model, baseline = write_run(tmp_path), write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    write_scores(model, {"a": 0.5}, labels="one")
    write_scores(baseline, {"a": 0.4}, labels="two")
    write_scores(baseline, {"a": 0.4}, labels="one", mirroring=False)
    found = compare_to_baseline(read_run(model / "fold_all"), WORKSPACE)
    assert found.baseline_scores is None
    assert "the baseline on the same labels" in found.sentence
    assert str(baseline) in str(found.command)


def test_a_run_that_was_not_evaluated_says_which_is_missing(tmp_path: Path) -> None:
    model = write_run(tmp_path)
    write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    found = compare_to_baseline(read_run(model / "fold_all"), WORKSPACE)
    assert "this run has not been evaluated" in found.sentence
    assert str(model) in str(found.command)


def test_a_baseline_is_judged_by_nothing(tmp_path: Path) -> None:
    model = write_run(tmp_path, trainer=SUPERVISED_TRAINER)
    write_scores(model, {"a": 0.5})
    found = compare_to_baseline(read_run(model / "fold_all"), WORKSPACE)
    assert "is a baseline" in found.sentence
    assert found.scores is not None


def continued(results: Path, **origin: Any) -> tuple[Path, dict[str, Any]]:
    """Write a run that went on from another after 2 of its 3 epochs; return it and its split with a corrected case."""
    first = write_run(results, **origin).rename(results / "Dataset001_X" / "origin")
    entry = {"case": "c", "mask": "0" * 64, "split": "L2_s0", "model": "origin", "round": 1}
    split = read_run(first / "fold_all").split
    corrected = {**split.as_dict(), "name": "L2_s0_plus1", "labeled": ["a", "b", "c"], "history": [entry]}
    model = write_run(results, split=corrected)
    record = json.loads((model / "fold_all/run.json").read_text())
    record |= {"command": ["pclauto", "train", "--continue"], "steps_before": 2 * RECIPE["schedule"]["steps_per_epoch"]}
    (model / "fold_all/run.json").write_text(json.dumps(record))
    return model, corrected


def test_the_baseline_of_a_run_that_goes_on_has_the_steps_of_both(tmp_path: Path) -> None:
    model, corrected = continued(tmp_path)
    run = read_run(model / "fold_all")
    assert steps_of(run) == (2 + 3) * RECIPE["schedule"]["steps_per_epoch"]
    split_file = WORKSPACE.preprocessed / "Dataset001_X" / "splits" / "L2_s0_plus1.json"
    assert compare_to_baseline(run, WORKSPACE).command == (
        f"pclauto train Dataset001_X --split {split_file} --configuration 3d_fullres --seed 0 --epochs 5 "
        "--supervised-only --workspace /anywhere"
    )
    assert find_baseline(run) is None
    schedule = {**RECIPE["schedule"], "supervised_epochs": 5, "rounds": 0}
    baseline = write_run(
        tmp_path, trainer=SUPERVISED_TRAINER, split=corrected, recipe_values={**RECIPE, "schedule": schedule}
    )
    assert find_baseline(run) == baseline


def test_where_no_number_of_epochs_is_honest_no_command_is_named(tmp_path: Path) -> None:
    for name, origin in (("budget", {"budget_s": 600}), ("start", {"start": "0" * 64})):
        model, _ = continued(tmp_path / name, **origin)
        assert compare_to_baseline(read_run(model / "fold_all"), WORKSPACE).command is None
    model, _ = continued(tmp_path / "gone")
    shutil.rmtree(model.parent / "origin")
    assert compare_to_baseline(read_run(model / "fold_all"), WORKSPACE).command is None


def test_a_run_on_a_corrected_split_from_its_beginning_has_its_own_steps(tmp_path: Path) -> None:
    model, corrected = continued(tmp_path)
    (model / "fold_all/run.json").write_text(
        json.dumps({**json.loads((model / "fold_all/run.json").read_text()), "steps_before": 0})
    )
    baseline = write_run(tmp_path, trainer=SUPERVISED_TRAINER, split=corrected)
    assert find_baseline(read_run(model / "fold_all")) == baseline
