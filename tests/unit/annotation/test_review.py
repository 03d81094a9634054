"""Rank pseudo-labels for review, and plan what follows a correction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from refusal import refused

from pcl_auto.annotation.review import RECORD, _refuse_edited, output_folder, worst_first
from pcl_auto.annotation.suggest import _suggested
from pcl_auto.errors import DataError, StateError, UsageError
from pcl_auto.recipe.settings import Recipe, Schedule
from pcl_auto.training.continuation import remaining
from pcl_auto.training.mask_folder import masks_in
from pcl_auto.training.review_record import earlier_record
from pcl_auto.workspace.files import file_digest
from pcl_auto.workspace.output import sole_writer_in

RECIPE = Recipe(name="mine", schedule=Schedule(steps_per_epoch=10, supervised_epochs=4, rounds=3, epochs_per_round=2))


def row(case: str, used: str, remarks: str, dice: str) -> dict[str, str]:
    return {"case": case, "used": used, "remarks": remarks, "dice_to_last_round": dice}


def test_the_worst_come_first() -> None:
    rows = [
        row("steady", "1", "", "0.99"), row("shaky", "1", "", "0.6"), row("odd", "1", "a is absent", "0.98"),
        row("dropped", "0", "transforms disagree", "0.9"), row("worst", "0", "a is absent", "0.2"),
    ]  # fmt: skip
    assert worst_first(rows) == ["worst", "dropped", "odd", "shaky", "steady"]
    first_round = [{"case": case, "used": "1", "remarks": ""} for case in ("b", "a")]
    assert worst_first(first_round) == ["a", "b"]
    assert worst_first(first_round, {"b": 0.9}) == ["b", "a"]
    assert worst_first(rows[:2], {"steady": 0.1}) == ["shaky", "steady"]


@pytest.mark.parametrize(
    ("done", "left"),
    # In step one and in the first round three are left; after the last one they begin again.
    [(2, 3), (5, 3), (6, 2), (7, 2), (8, 1), (9, 1), (10, 3)],
)
def test_the_rounds_that_are_left(done: int, left: int) -> None:
    found = remaining(RECIPE, done, None)
    assert found.schedule == replace(RECIPE.schedule, supervised_epochs=0, rounds=left)
    assert (found.name, found.contrast.restart_head) == ("mine", False)


@pytest.mark.parametrize(("epochs", "rounds", "each"), [(12, 3, 4), (2, 2, 1)])
def test_as_long_as_asked_for(epochs: int, rounds: int, each: int) -> None:
    found = remaining(RECIPE, 10, epochs)
    assert (found.schedule.rounds, found.schedule.epochs_per_round, found.name) == (rounds, each, f"mine_e{epochs}")


def test_a_folder_of_others_is_no_place_for_a_review(tmp_path: Path) -> None:
    model = tmp_path / "model"
    with sole_writer_in(tmp_path / "new"):  # leaves hidden files there
        assert earlier_record(tmp_path / "new", RECORD, model) == {}
    (tmp_path / "taken").mkdir()
    for content in ('{"model": "/another"}', "[]"):
        (tmp_path / "taken" / RECORD).write_text(content)
        with pytest.raises(StateError):
            earlier_record(tmp_path / "taken", RECORD, model)
    default = tmp_path / "run" / "review"
    assert output_folder(None, default) == output_folder(default, default) == default
    (tmp_path / "review" / "corrected").mkdir(parents=True)
    (tmp_path / "review" / RECORD).touch()
    assert output_folder(tmp_path / "review", default, review=True) == tmp_path / "review"
    for folder in (tmp_path / "review", tmp_path / "review" / "corrected"):
        with refused(UsageError, "output.input-folder"):
            output_folder(folder, default)


def test_pictures_that_no_suggestion_named_stay() -> None:
    assert _suggested({"suggestions": [{"case": "a"}, {"case": 7}, "b", {}]}) == {"a"}
    assert _suggested({}) == _suggested({"suggestions": 7}) == set()


def test_an_edit_where_it_was_exported_is_not_written_over(tmp_path: Path) -> None:
    mask = tmp_path / "pseudo_labels" / "a.nii.gz"
    mask.parent.mkdir()
    mask.write_bytes(b"as exported")
    exported = {"exported": {"a": file_digest(mask), "b": "of a file that is gone"}}
    _refuse_edited(tmp_path, ["a", "b", "c"], exported)
    mask.write_bytes(b"an hour of work")
    _refuse_edited(tmp_path, ["b"], exported)  # it stays as it is
    with refused(StateError, "review.edited-in-place") as refusal:
        _refuse_edited(tmp_path, ["a", "b"], exported)
    assert str(tmp_path / "corrected") in str(refusal.error)


def testmasks_in_an_editor_s_own_format_are_named(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii", ".DS_Store"):
        (tmp_path / name).touch()
    assert masks_in(tmp_path) == ({"a": tmp_path / "a.nii.gz", "b": tmp_path / "b.nii"}, [])
    assert masks_in(tmp_path / "nowhere") == ({}, [])
    for name in ("c.seg.nrrd", "d.mha"):
        (tmp_path / name).touch()
    with refused(DataError, "review.mask-not-nifti") as refusal:
        masks_in(tmp_path)
    assert [Path(problem.where).name for problem in refusal.problems] == ["c.seg.nrrd", "d.mha"]


def test_two_masks_of_one_case_are_refused(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.NII.GZ", "b.NII"):
        (tmp_path / name).touch()
    with refused(DataError, "review.mask-twice"):
        masks_in(tmp_path)
    (tmp_path / "a.nii.gz").unlink()
    assert sorted(masks_in(tmp_path)[0]) == ["a", "b"]
