from __future__ import annotations

import json
from pathlib import Path

import pytest
from refusal import refused
from report_files import write_run

from pcl_auto.errors import StateError
from pcl_auto.report.tables import BY_DICE, default_recipe, first_middle_last, recipe_lines
from pcl_auto.training.run_facts import read_run, run_folder


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with refused(StateError, "run.no-record"):
        run_folder(tmp_path)


def test_a_model_folder_and_a_fold_folder_are_the_same_run(tmp_path: Path) -> None:
    model = write_run(tmp_path)
    assert run_folder(model) == run_folder(model / "fold_all") == model / "fold_all"


def test_what_files_say(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path) / "fold_all")
    assert [event["epoch"] for event in run.epochs] == [1, 2, 3]  # the line that was cut off is left out
    assert run.round_starts() == {1: 2, 2: 3}
    assert [entry.used for entry in run.rounds] == [3, 2]
    assert run.classes == {"core": 1, "shell": 2}
    assert run.split.hidden == ("c", "d", "e")


def test_pseudo_labels_are_ranked_by_what_their_ledger_says(tmp_path: Path) -> None:
    first, second = read_run(write_run(tmp_path) / "fold_all").rounds
    assert (first.judged_by, second.judged_by) == (None, "dice_to_last_round")
    assert [row["case"] for row in second.ranked()] == ["d", "e", "c"]
    assert [row["case"] for row in first.ranked()] == ["c", "d", "e"]


@pytest.mark.parametrize(
    ("cases", "roles"),
    [("", []), ("a", ["best"]), ("ab", ["best", "worst"]), ("abcde", ["best", "median", "worst"])],
)
def test_best_median_and_worst_are_each_shown_once(cases: str, roles: list[str]) -> None:
    chosen = first_middle_last([{"case": case} for case in cases], BY_DICE)
    assert [role for role, _ in chosen] == roles
    assert [row["case"] for _, row in chosen] == sorted({cases[:1], cases[len(cases) // 2 :][:1], cases[-1:]} - {""})


def test_a_recipe_says_where_it_differs_from_the_default() -> None:
    default = default_recipe()
    changed = {**default, "schedule": {**default["schedule"], "rounds": 99}}
    differing = {name: (value, before) for name, value, before in recipe_lines(changed, default) if before is not None}
    assert differing == {"schedule.rounds": (99, default["schedule"]["rounds"])}


def test_a_region_has_the_value_that_it_is_written_with(tmp_path: Path) -> None:
    model = write_run(tmp_path)
    labels = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2, "ignore": 4}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "regions_class_order": [1, 3, 2]}
    (model / "dataset.json").write_text(json.dumps(dataset))
    assert read_run(model / "fold_all").classes == {"kidney": 1, "masses": 3, "tumor": 2}
