from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from kept_times import keeping_times
from refusal import codes, refused

from pcl_auto.cli.commands import evaluate as command
from pcl_auto.errors import StateError
from pcl_auto.evaluation import scores
from pcl_auto.evaluation.metrics import evaluate
from pcl_auto.evaluation.scores import (
    SCORES,
    differ_in_input,
    evaluate_on_record,
    is_as_scored,
    labels_on_record,
    masks_of_others,
)
from pcl_auto.inference.mask_record import RECORD, settings_digest
from pcl_auto.report.scans import evaluated_panels
from pcl_auto.workspace.files import file_digest


@pytest.fixture
def predicted(tmp_path: Path) -> Path:
    """Masks with the record of the model that made them, beside their labels."""
    checkpoint = tmp_path / "model" / "fold_all" / "checkpoint_final.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    for name in ("plans.json", "dataset.json", "fold_all/run.json"):
        (tmp_path / "model" / name).write_text("{}")
    for folder in ("out", "labels"):
        (tmp_path / folder).mkdir()
        mask = np.zeros((4, 4, 4), np.uint8)
        mask[1:3] = 1
        nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / folder / "a.nii.gz")
    state = [checkpoint.stat().st_size, checkpoint.stat().st_mtime_ns]
    record = {"model": str(tmp_path / "model"), "mirroring": True}
    record["checkpoints"] = {"fold_all/checkpoint_final.pth": state}
    digest = file_digest(tmp_path / "out" / "a.nii.gz")
    record["scans"] = {"a": {"mask": "a.nii.gz", "sha256": digest, "files": [[["/scans/a.nii.gz", 1, 2]]]}}
    (tmp_path / "out" / RECORD).write_text(json.dumps(record))
    return tmp_path


def test_scores_lie_with_the_model_and_later_ones_replace_them(predicted: Path) -> None:
    evaluate_on_record(predicted / "out", predicted / "labels")
    evaluation, kept = evaluate_on_record(predicted / "out", predicted / "labels")
    assert [kept] == list((predicted / "model" / SCORES).iterdir())
    content = json.loads(Path(str(kept)).read_text())
    assert content["mean"] == evaluation.as_dict()["mean"] == {"dice": 1.0, "hd95_mm": 0.0}
    assert content["labels"] == str(predicted / "labels")


def test_f102_masks_in_the_place_of_labels_are_worth_a_look(predicted: Path) -> None:
    shutil.copytree(predicted / "out", predicted / "other")
    for pair, code in ((("labels", "out"), "score.labels-are-masks"), (("other", "out"), "score.labels-are-masks")):
        evaluation, kept = evaluate_on_record(predicted / pair[0], predicted / pair[1])
        assert (code in codes(evaluation.warnings), kept) == (True, None)


@pytest.mark.parametrize("changed", ["out/a.nii.gz", "labels/a.nii.gz", f"out/{RECORD}"])
def test_f73_what_is_changed_while_it_is_scored_is_not_put_on_record(
    predicted: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    def score(*args: Any, **named: Any) -> Any:
        evaluation = evaluate(*args, **named)
        file = predicted / changed
        if file.name == RECORD:
            file.write_text(file.read_text().replace('"mirroring": true', '"mirroring": false'))
        else:
            mask = np.ones((4, 4, 4), np.uint8)
            nib.save(nib.Nifti1Image(mask, np.eye(4)), file)
            if file.parent.name == "out":  # as a prediction would that came to its end meanwhile
                record = json.loads((predicted / "out" / RECORD).read_text())
                record["scans"]["a"]["sha256"] = file_digest(file)
                (predicted / "out" / RECORD).write_text(json.dumps(record))
        return evaluation

    monkeypatch.setattr(scores, "evaluate", score)
    evaluation, kept = evaluate_on_record(predicted / "out", predicted / "labels")
    assert kept is None
    assert not (predicted / "model" / SCORES).exists()
    (warning,) = [problem for problem in evaluation.warnings if problem.code == "score.changed-meanwhile"]
    assert warning.found == Path(changed).name


def test_scores_that_cannot_be_kept_are_said_to_be_lost(predicted: Path) -> None:
    (predicted / "model" / SCORES).write_text("no folder")
    evaluation, kept = evaluate_on_record(predicted / "out", predicted / "labels")
    assert kept is None
    assert "score.not-kept" in codes(evaluation.warnings)


def test_masks_of_a_model_that_was_trained_again_are_not_its_own(predicted: Path) -> None:
    (predicted / "model" / "fold_all" / "checkpoint_final.pth").write_bytes(b"other weights")
    assert evaluate_on_record(predicted / "out", predicted / "labels")[1] is None
    assert not (predicted / "model" / SCORES).exists()


def test_masks_from_elsewhere_leave_no_record(predicted: Path) -> None:
    (predicted / "out" / RECORD).unlink()
    assert evaluate_on_record(predicted / "out", predicted / "labels")[1] is None


def test_f73_masks_that_changed_are_scored_but_are_not_the_models(
    predicted: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scores = evaluate_on_record(predicted / "out", predicted / "labels")[1]
    content = json.loads(Path(str(scores)).read_text())
    mask, drawn = predicted / "out" / "a.nii.gz", predicted / "labels" / "a.nii.gz"
    assert is_as_scored(content, "a", mask, drawn)
    keeping_times(mask, lambda file: nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), file))
    assert not is_as_scored(content, "a", mask, drawn)
    assert is_as_scored({}, "a", mask, drawn)  # of version 0.2
    Path(str(scores)).unlink()
    evaluation, kept = evaluate_on_record(predicted / "out", predicted / "labels")
    assert (evaluation.as_dict()["mean"]["dice"] < 1, kept) == (True, None)
    assert not list((predicted / "model" / SCORES).iterdir())
    command.evaluate(predicted / "out", predicted / "labels")
    assert "which did not make these masks as they are now: a" in capfd.readouterr().err


def test_f73_masks_under_the_names_of_other_scans_are_refused(predicted: Path) -> None:
    out = predicted / "out"
    other = np.zeros((4, 4, 4), np.uint8)
    other[0] = 1
    for folder in (out, predicted / "labels"):
        nib.save(nib.Nifti1Image(other, np.eye(4)), folder / "b.nii.gz")
    record = json.loads((out / RECORD).read_text())
    entry = {"mask": "b.nii.gz", "sha256": file_digest(out / "b.nii.gz"), "files": [[["/scans/b.nii.gz", 1, 2]]]}
    record["scans"]["b"] = entry
    (out / RECORD).write_text(json.dumps(record))
    assert evaluate_on_record(out, predicted / "labels")[1] is not None
    kept = (out / "a.nii.gz").read_bytes()
    (out / "a.nii.gz").write_bytes((out / "b.nii.gz").read_bytes())
    with refused(StateError, "score.masks-exchanged") as refusal:
        evaluate_on_record(out, predicted / "labels")
    assert refusal.problem.found == "a.nii.gz holds b.nii.gz"
    (out / "b.nii.gz").write_bytes(kept)
    with refused(StateError, "score.masks-exchanged"):
        evaluate_on_record(out, predicted / "labels")


def test_f73_the_report_shows_what_was_scored_or_says_that_it_is_gone(predicted: Path) -> None:
    scan = predicted / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4)), scan)
    record = json.loads((predicted / "out" / RECORD).read_text())
    record["scans"]["a"]["files"] = [[[str(scan), scan.stat().st_size, scan.stat().st_mtime_ns]]]
    (predicted / "out" / RECORD).write_text(json.dumps(record))
    scores = json.loads(Path(str(evaluate_on_record(predicted / "out", predicted / "labels")[1])).read_text())
    run: Any = SimpleNamespace(split=SimpleNamespace(hidden=()), classes={"organ": 1})

    def problem() -> str:
        return evaluated_panels(run, scores, 3)[0].problem

    assert problem() == ""
    os.utime(scan, ns=(1, 1))
    assert problem().endswith("the scan is no longer the one that was segmented")
    keeping_times(predicted / "labels" / "a.nii.gz", lambda file: file.write_bytes(file.read_bytes() + b"\0"))
    assert problem().endswith("mask or label is no longer the one that was scored")


def test_f73_a_mask_that_somebody_added_is_not_the_models(predicted: Path) -> None:
    for folder in ("out", "labels"):
        (predicted / folder / "b.nii.gz").write_bytes((predicted / folder / "a.nii.gz").read_bytes())
    assert masks_of_others(predicted / "out", ["a", "b"]) == ["b"]
    assert evaluate_on_record(predicted / "out", predicted / "labels")[1] is None


def test_f73_masks_of_version_02_are_known_by_their_time(predicted: Path) -> None:
    record = json.loads((predicted / "out" / RECORD).read_text())
    del record["scans"]["a"]["sha256"]
    (predicted / "out" / RECORD).write_text(json.dumps(record))
    assert evaluate_on_record(predicted / "out", predicted / "labels")[1] is not None
    os.utime(predicted / "out" / "a.nii.gz", ns=(2**62, 2**62))
    assert evaluate_on_record(predicted / "out", predicted / "labels")[1] is None


def test_f73_scores_know_label_and_scan_that_they_are_of(predicted: Path) -> None:
    def scores() -> dict[str, Any]:
        kept = evaluate_on_record(predicted / "out", predicted / "labels")[1]
        return dict(json.loads(Path(str(kept)).read_text()))

    unknown = scores()
    assert unknown["scored"]["a"]["scan"] is None  # it is gone
    assert unknown["scored_as"] == {"classes": None, "ignored": None}
    scan, found = predicted / "scan.nii.gz", []
    for content in (b"one", b"two"):
        scan.write_bytes(content)
        record = json.loads((predicted / "out" / RECORD).read_text())
        record["scans"]["a"]["files"] = [[[str(scan), scan.stat().st_size, scan.stat().st_mtime_ns]]]
        (predicted / "out" / RECORD).write_text(json.dumps(record))
        found.append(scores())
    keeping_times(predicted / "labels" / "a.nii.gz", lambda file: file.write_bytes(file.read_bytes() + b"\0"))
    found.append(scores())
    assert differ_in_input(found[0], found[1], "a") == ["scan"]
    assert differ_in_input(found[1], found[2], "a") == ["label"]
    assert differ_in_input(found[0], found[0], "a") == differ_in_input(found[0], {}, "a") == []
    assert differ_in_input(unknown, found[0], "a") == []


@pytest.mark.parametrize("lacking", ["plans.json", "dataset.json", "fold_all/run.json"])
def test_scores_go_into_no_folder_that_no_training_left(predicted: Path, lacking: str) -> None:
    (predicted / "model" / lacking).unlink()
    assert evaluate_on_record(predicted / "out", predicted / "labels")[1] is None
    assert not (predicted / "model" / SCORES).exists()


def test_scores_are_not_written_through_a_link(predicted: Path) -> None:
    (predicted / "elsewhere").mkdir()
    (predicted / "model" / SCORES).symlink_to(predicted / "elsewhere")
    assert evaluate_on_record(predicted / "out", predicted / "labels")[1] is None
    assert list((predicted / "elsewhere").iterdir()) == []


def test_masks_of_two_models_are_not_scored_as_those_of_one(predicted: Path) -> None:
    record = json.loads((predicted / "out" / RECORD).read_text())
    files = [[["/scans/a.nii.gz", 1, 2]]]
    record["old"] = {"a": {"mask": "a.nii.gz", "files": files, "model": "/other", "checkpoints": {}}}
    (predicted / "out" / RECORD).write_text(json.dumps(record))
    with refused(StateError, "score.masks-of-two-models") as refusal:
        evaluate_on_record(predicted / "out", predicted / "labels")
    assert refusal.problem.found == "a.nii.gz"
    (predicted / "out" / "a.nii.gz").rename(predicted / "out" / "b.nii.gz")
    (predicted / "labels" / "a.nii.gz").rename(predicted / "labels" / "b.nii.gz")
    evaluate_on_record(predicted / "out", predicted / "labels")


def test_the_model_says_what_its_regions_are_and_what_is_ignored(predicted: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    (predicted / "model" / "dataset.json").write_text(json.dumps({"labels": labels}))
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[1], mask[2] = 1, 3
    nib.save(nib.Nifti1Image(mask, np.eye(4)), predicted / "labels" / "a.nii.gz")
    evaluation, _ = evaluate_on_record(predicted / "out", predicted / "labels")
    assert list(evaluation.per_class) == ["whole", "core"]
    assert evaluation.mean["dice"] == 1.0
    (predicted / "out" / RECORD).unlink()
    assert evaluate_on_record(predicted / "out", predicted / "labels")[0].mean["dice"] == pytest.approx(2 / 3 / 2)
    evaluation, _ = evaluate_on_record(predicted / "out", predicted / "labels", ignored=3)
    assert (list(evaluation.per_class), evaluation.mean["dice"]) == (["1"], 1.0)


def test_the_command_passes_on_what_is_ignored(predicted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    label = predicted / "labels" / "a.nii.gz"
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[1], mask[2] = 1, 3
    nib.save(nib.Nifti1Image(mask, np.eye(4)), label)
    found = []
    for ignore in (None, 3):
        command.evaluate(predicted / "out", predicted / "labels", ignore=ignore, json=True)
        found.append(json.loads(capfd.readouterr().out)["per_class"]["1"]["dice"]["mean"])
    assert found == pytest.approx([2 / 3, 1.0])


@pytest.mark.parametrize("given", ["labels/a.nii.gz", "other/a.mha", "other"])
def test_labels_are_a_file_or_in_another_format(predicted: Path, given: str) -> None:
    (predicted / "other").mkdir()
    label = SimpleITK.ReadImage(str(predicted / "labels" / "a.nii.gz"))
    SimpleITK.WriteImage(label, str(predicted / "other" / "a.mha"))
    _, kept = evaluate_on_record(predicted / "out", predicted / given)
    content = json.loads(Path(str(kept)).read_text())
    name = "labels/a.nii.gz" if given.endswith(".gz") else "other/a.mha"
    assert content["scored"]["a"]["label"] == file_digest(predicted / name)


REGIONS = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}


@pytest.fixture
def of_regions(predicted: Path) -> Path:
    """The same with masks of regions: whole and core in the mask, voxels that nobody has looked at in the label."""
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[1:3] = 1
    mask[2] = 2
    nib.save(nib.Nifti1Image(mask, np.eye(4)), predicted / "out" / "a.nii.gz")
    mask[0] = 3
    nib.save(nib.Nifti1Image(mask, np.eye(4)), predicted / "labels" / "a.nii.gz")
    change_record(predicted, labels=REGIONS)
    return predicted


def change_record(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / "out" / RECORD).read_text()) | changes
    record["scans"]["a"]["sha256"] = file_digest(folder / "out" / "a.nii.gz")
    (folder / "out" / RECORD).write_text(json.dumps({key: value for key, value in record.items() if value is not None}))


@pytest.mark.parametrize("name", ["", "a.nii.gz"])
@pytest.mark.parametrize("model", ["moved", "retrained", "stock"])
def test_f73_regions_and_ignored_voxels_are_those_of_the_record(of_regions: Path, name: str, model: str) -> None:
    if model == "moved":
        (of_regions / "model").rename(of_regions / "elsewhere")
    elif model == "retrained":
        (of_regions / "model" / "fold_all" / "checkpoint_final.pth").write_bytes(b"other weights")
    else:
        (of_regions / "model" / "fold_all" / "run.json").unlink()
    evaluation, kept = evaluate_on_record(of_regions / "out" / name, of_regions / "labels" / name)
    assert (list(evaluation.per_class), evaluation.unscored_values, kept) == (["whole", "core"], [], None)
    assert evaluation.mean == {"dice": 1.0, "hd95_mm": 0.0}


def test_f73_of_an_older_record_the_model_says_what_values_mean_or_nothing_is_taken_for_granted(
    of_regions: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (of_regions / "model" / "dataset.json").write_text(json.dumps({"labels": REGIONS}))
    change_record(of_regions, labels=None)
    assert labels_on_record(of_regions / "out") == REGIONS
    change_record(of_regions, settings=settings_digest(of_regions / "model"))
    (of_regions / "model" / "fold_all" / "run.json").unlink()
    assert labels_on_record(of_regions / "out" / "a.nii.gz") == REGIONS
    (of_regions / "model" / "plans.json").write_text("[]")
    assert labels_on_record(of_regions / "out") is None
    command.evaluate(of_regions / "out", of_regions / "labels")
    assert "every value was scored as a class" in capfd.readouterr().err


def test_f73_one_mask_that_is_still_the_old_models_has_its_labels(of_regions: Path) -> None:
    record = json.loads((of_regions / "out" / RECORD).read_text())
    old = {**record["scans"]["a"], **{key: record[key] for key in ("model", "checkpoints", "mirroring", "labels")}}
    change_record(of_regions, labels={"background": 0, "organ": 1}, old={"a": old})
    assert labels_on_record(of_regions / "out") == {"background": 0, "organ": 1}
    assert labels_on_record(of_regions / "out" / "a.nii.gz") == REGIONS


@pytest.mark.parametrize("labels", [[], {"a": "1"}, {"a": [1, None]}])
def test_labels_of_a_record_that_are_none(predicted: Path, labels: Any) -> None:
    change_record(predicted, labels=labels)
    with refused(StateError, "predict.record-damaged"):
        evaluate_on_record(predicted / "out", predicted / "labels")
