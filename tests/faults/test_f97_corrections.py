"""F97, F98: masks of a person: whose they are, which are taken, and that none is lost or passed over."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import toys
from refusal import codes, refused
from report_files import write_run
from toy_plans import toy_plan

from pcl_auto.annotation.review import export_review
from pcl_auto.data.checks.check_files import image_stats
from pcl_auto.errors import DataError, StateError
from pcl_auto.nnunet.data import images, pseudo_label_files
from pcl_auto.nnunet.inference import export
from pcl_auto.planning.plan import write_plan
from pcl_auto.training.continuation import Continuation, continuation
from pcl_auto.training.corrected_masks import keep_mask, mask_digest
from pcl_auto.training.request import TrainRequest
from pcl_auto.workspace import atomic
from pcl_auto.workspace.files import file_digest, read_json, write_json
from pcl_auto.workspace.folders import DatasetFolder, Workspace

NAME = "Dataset001_X"


def save(file: Path, values: Any) -> Path:
    """A volume of 6 x 7 x 8 voxels: ``values`` in its middle, the first of them in most of it."""
    voxels = np.zeros((6, 7, 8), np.float32 if np.asarray(values).dtype.kind == "f" else np.uint8)
    voxels[2:4, 2:4, 2 : 2 + np.size(values)] = values
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), file)
    return file


class Trained:
    """A finished run on two labeled cases, a and b, and three others: c, whose label is hidden, d and e."""

    def __init__(self, root: Path, labels: dict[str, int]) -> None:
        self.data = root / "Task01_X"
        self.workspace = Workspace.at(root / "work", "test")
        cases = {}
        for number, case in enumerate("abcde", start=1):
            image = save(self.data / "imagesTr" / f"{case}.nii.gz", 100 + number)
            label = save(self.data / "labelsTr" / f"{case}.nii.gz", [1, number % 2 + 1]) if case in "abc" else None
            cases[case] = {
                "image": f"imagesTr/{image.name}", "label": label and f"labelsTr/{label.name}", "source": "training",
                "shape": [6, 7, 8], **image_stats(image), "digest": file_digest(image),
            }  # fmt: skip
        plan = toy_plan(self.data, NAME, cases, {"channel_names": {"0": "T2"}, "labels": labels})
        write_plan(DatasetFolder(self.workspace.preprocessed / NAME), plan)
        self.model = write_run(self.workspace.results)
        self.run = self.model / "fold_all"
        (self.run / "checkpoint_final.pth").touch()
        record = read_json(self.run / "run.json")
        record["identity"]["split"]["hidden"] = ["c"]
        write_json(self.run / "run.json", record)

    def image(self, case: str) -> Path:
        return self.data / "imagesTr" / f"{case}.nii.gz"

    def label(self, case: str) -> Path:
        return self.data / "labelsTr" / f"{case}.nii.gz"

    def review(self, folder: Path, *cases: str) -> Path:
        """Export pseudo-labels of cases; return the folder for corrected masks."""
        export_review(self.model, self.workspace, folder, cases=cases)
        return folder / "corrected"

    def go_on(self, corrected: Path | None = None) -> Continuation:
        return continuation(self.model, self.workspace, TrainRequest(), corrected=corrected, write=False)


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    return Trained(tmp_path, {"background": 0, "core": 1, "shell": 2})


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Pseudo-labels of no network: a value for each case, which a test may change."""
    values = {"c": 1, "d": 2, "e": 1}
    monkeypatch.setattr(export, "pseudo_label", lambda _model, _name, _stored, case: (case, {}))
    monkeypatch.setattr(images, "write_mask", lambda case, file, _: save(file, [values[case], ord(case) % 2 + 1, 1]))
    monkeypatch.setattr(pseudo_label_files, "refuse_damaged", lambda *_: None)
    return values


def exported(corrected: Path, case: str) -> Path:
    return corrected.parent / "pseudo_labels" / f"{case}.nii.gz"


# --- F97: whose masks they are


@pytest.mark.parametrize("moved", [False, True])
def test_f97_masks_of_another_model_are_not_taken(trained: Trained, tmp_path: Path, *, moved: bool) -> None:
    other = Trained(tmp_path / "other", {"background": 0, "core": 1, "shell": 2})
    content = json.loads((other.model / "dataset.json").read_text())
    content["labels"] = {"background": 0, "core": 2, "shell": 1}
    (other.model / "dataset.json").write_text(json.dumps(content))
    plan = DatasetFolder(other.workspace.preprocessed / NAME).plan_file
    plan.write_text(plan.read_text().replace('"core": 1', '"core": 2').replace('"shell": 2', '"shell": 1'))
    ours = trained.review(tmp_path / "to_correct", "d")
    shutil.rmtree(ours.parent)
    save(other.review(tmp_path / "to_correct", "d") / "d.nii.gz", 1)
    if moved:
        shutil.move(other.workspace.results, tmp_path / "elsewhere")
    for given in (None, tmp_path / "to_correct", tmp_path / "to_correct" / "corrected"):
        with refused(StateError, "review.folder-taken"):
            trained.go_on(given)


def test_f97_records_of_earlier_versions_tell_it_by_the_model(trained: Trained, tmp_path: Path) -> None:
    corrected = trained.review(tmp_path / "out", "d")
    save(corrected / "d.nii.gz", 1)
    record = read_json(tmp_path / "out" / "review.json")
    del record["run"], record["images"], record["exporting"]
    write_json(tmp_path / "out" / "review.json", record)
    assert set(trained.go_on().masks) == {"d"}
    other = Trained(tmp_path / "other", {"background": 0, "core": 1, "shell": 2})
    found = read_json(other.run / "run.json")
    write_json(other.run / "run.json", {**found, "identity": {**found["identity"], "seed": 1}})
    write_json(tmp_path / "out" / "review.json", {**record, "model": str(other.model)})
    with refused(StateError, "review.folder-taken"):
        trained.go_on()


def test_f97_a_mask_that_was_drawn_on_another_image(trained: Trained, tmp_path: Path) -> None:
    save(trained.review(tmp_path / "out", "d") / "d.nii.gz", 1)
    record = read_json(tmp_path / "out" / "review.json")
    write_json(tmp_path / "out" / "review.json", {**record, "images": {"d": "0" * 64}})
    with refused(StateError, "review.image-changed"):
        trained.go_on()
    with refused(StateError, "review.image-changed"):
        trained.review(tmp_path / "out", "d")


def test_f97_an_image_that_was_replaced_is_refused_by_a_dry_run(trained: Trained, tmp_path: Path) -> None:
    save(trained.review(tmp_path / "out", "d") / "d.nii.gz", 1)
    save(trained.image("e"), 7)
    with refused(StateError, "plan.image-changed"):
        trained.go_on()


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_f97_one_file_for_two_cases(trained: Trained, tmp_path: Path, link: Any) -> None:
    corrected = trained.review(tmp_path / "out", "d", "e")
    mask = save(corrected / "d.nii.gz", 1)
    link(mask, corrected / "e.nii.gz")
    with refused(DataError, "label.of-two-cases"):
        trained.go_on()
    (corrected / "d.nii.gz").unlink()
    (corrected / "e.nii.gz").unlink()
    link(trained.label("a"), corrected / "d.nii.gz")
    with refused(DataError, "label.of-two-cases"):
        trained.go_on()
    (corrected / "d.nii.gz").unlink()
    link(trained.label("c"), corrected / "c.nii.gz")
    with refused(DataError, "split.label-is-hidden"):
        trained.go_on()


def test_f97_a_copy_of_another_case(trained: Trained, tmp_path: Path) -> None:
    corrected = trained.review(tmp_path / "out", "d", "e")
    shutil.copy(exported(corrected, "e"), corrected / "d.nii.gz")
    with refused(DataError, "label.of-other-case"):
        trained.go_on()
    shutil.copy(exported(corrected, "d"), corrected / "d.nii.gz")  # as it is, it is right
    assert trained.go_on().warnings == []
    for case in "de":
        save(corrected / f"{case}.nii.gz", 2)
    found = trained.go_on()
    assert (set(found.masks), codes(found.warnings)) == ({"d", "e"}, ["label.equal"])


def test_f97_a_copy_of_another_case_that_was_saved_anew(trained: Trained, tmp_path: Path) -> None:
    corrected = trained.review(tmp_path / "out", "d", "e")
    for source, warnings in (("e", ["label.of-other-case"]), ("d", [])):
        pseudo_label = nibabel.load(exported(corrected, source))
        voxels = np.asarray(pseudo_label.dataobj).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, pseudo_label.affine), corrected / "d.nii.gz")
        found = trained.go_on()
        assert (set(found.masks), codes(found.warnings)) == ({"d"}, warnings)


# --- F98: nothing that a person has drawn is lost or passed over


@pytest.mark.parametrize("state", ["moved", "file", "empty", "no corrected"])
def test_f98_a_folder_on_record_that_is_gone(trained: Trained, tmp_path: Path, state: str) -> None:
    one, two = (trained.review(tmp_path / name, "d") for name in ("one", "two"))
    save(two / "d.nii.gz", 1)
    (one if state == "no corrected" else one.parent).rename(tmp_path / "elsewhere")
    if state == "file":
        (tmp_path / "one").touch()
    if state == "empty":
        (tmp_path / "one").mkdir()
    with refused(StateError, "review.folder-gone"):
        trained.go_on()
    assert set(trained.go_on(tmp_path / "two").masks) == {"d"}
    # The run's own folder too.
    own = trained.run / "review"
    trained.review(own, "e")
    shutil.rmtree(own)
    with refused(StateError, "review.folder-gone") as refusal:
        trained.go_on()
    places = [problem.where for problem in refusal.problems]
    assert str(own) in places or state == "no corrected"


def test_f98_an_edit_in_place_is_not_passed_over(trained: Trained, tmp_path: Path) -> None:
    corrected = trained.review(tmp_path / "out", "d", "e")
    save(corrected / "e.nii.gz", 2)
    edit = save(exported(corrected, "d"), 1)
    with refused(StateError, "review.edited-in-place") as refusal:
        trained.go_on()
    assert refusal.problem.where == str(edit)
    mask = corrected / "d.nii.gz"
    shutil.copy(edit, mask)  # the same mask in both places
    assert (set(trained.go_on().masks), trained.go_on().warnings) == ({"d", "e"}, [])
    save(mask, 2)
    os.utime(mask, (2e9, 2e9))  # saved later
    assert codes(trained.go_on().warnings) == ["review.edited-in-place", "label.equal"]
    os.utime(mask, (1e9, 1e9))
    with refused(StateError, "review.edited-in-place"):
        trained.go_on()
    edit.unlink()
    save(corrected.parent / "pseudo_labels" / "d-edited.nii.gz", 1)
    with refused(StateError, "review.edited-in-place"):
        trained.go_on()


def test_f98_two_masks_of_one_case_in_two_folders(trained: Trained, tmp_path: Path) -> None:
    one, two = (trained.review(tmp_path / name, "d") for name in ("one", "two"))
    save(one / "d.nii.gz", 1)
    save(two / "d.nii.gz", 1)
    assert set(trained.go_on().masks) == {"d"}  # alike
    save(two / "d.nii.gz", 2)
    with refused(DataError, "review.mask-twice"):
        trained.go_on()
    assert trained.go_on(tmp_path / "one").masks == {"d": one / "d.nii.gz"}


def test_f98_a_killed_export_is_no_edit(
    trained: Trained, tmp_path: Path, network: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.review(tmp_path / "out", "d", "e")
    for number in range(1, 24):
        network["d"] = number % 2 + 1
        calls = iter(range(1, 1000))

        def fault(_point: str, calls: Iterator[int] = calls, number: int = number) -> None:
            if next(calls) == number:
                raise KeyboardInterrupt

        # Killed once, and killed again at the same place with another mask.
        for value in (1, 2):
            network["e"] = value
            with monkeypatch.context() as patch:
                patch.setattr(atomic, "_fault", fault)
                _interrupted(lambda: trained.review(tmp_path / "out", "d", "e"))
        trained.review(tmp_path / "out", "d")
        trained.review(tmp_path / "out", "e")


def _interrupted(action: Callable[[], object]) -> bool:
    try:
        action()
    except KeyboardInterrupt:
        return True
    return False


def test_f98_an_edit_after_a_killed_export_stays(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrected = trained.review(tmp_path / "out", "d", "e")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    for case in "de":
        with monkeypatch.context() as patch:
            patch.setattr(images, "write_mask", die)
            assert _interrupted(lambda case=case: trained.review(tmp_path / "out", case))  # type: ignore[misc]
        mask = save(exported(corrected, case), 2)
        edit = mask.read_bytes()
        with refused(StateError, "review.edited-in-place"):
            trained.review(tmp_path / "out", case)
        assert mask.read_bytes() == edit
    # Nor is one written over that no record names.
    record = read_json(tmp_path / "out" / "review.json")
    write_json(tmp_path / "out" / "review.json", {**record, "exported": {}})
    with refused(StateError, "review.edited-in-place"):
        trained.review(tmp_path / "out", "d")


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda file: file.symlink_to("/nonexistent"), "data.missing"),
        (lambda file: file.symlink_to(file.name), "data.missing"),
        (lambda file: file.mkdir(), "data.not-a-file"),
        (lambda file: os.mkfifo(file), "data.not-a-file"),
        (lambda file: save(file, 0.99999), "label.fractional"),
        (lambda file: save(file, np.nan), "data.not-finite"),
        (lambda file: save(file, 0), "review.mask-empty"),
    ],
)
def test_f98_a_mask_that_is_none_is_called_what_it_is(trained: Trained, tmp_path: Path, make: Any, code: str) -> None:
    make(trained.review(tmp_path / "out", "d") / "d.nii.gz")
    with refused(DataError, code):
        trained.go_on()


def test_f98_files_of_file_managers_are_named_and_passed_over(trained: Trained, tmp_path: Path) -> None:
    corrected = trained.review(tmp_path / "out", "d")
    save(corrected / "old" / "d.nii.gz", 2)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._d.nii.gz"):
        (corrected / name).touch()
    with refused(StateError, "review.no-correction", "data.passed-over"):
        trained.go_on()
    save(corrected / "d.nii.gz", 1)
    for given in (None, tmp_path / "out", corrected):
        found = trained.go_on(given)
        assert found.masks == {"d": corrected / "d.nii.gz"}
        (warning,) = found.warnings
        assert (warning.code, warning.found) == ("data.passed-over", "Thumbs.db, desktop.ini, old")


def test_f98_a_folder_of_masks_alone(trained: Trained, tmp_path: Path) -> None:
    mask = save(tmp_path / "sent" / "d.nii.gz", 1)
    assert trained.go_on(mask.parent).masks == {"d": mask}
    # What was exported is no correction, whatever folder of the review is named.
    corrected = trained.review(tmp_path / "out", "d")
    with refused(StateError, "review.no-correction"):
        trained.go_on(exported(corrected, "d").parent)


def test_f98_a_label_that_is_ignored_everywhere_teaches_nothing(tmp_path: Path) -> None:
    trained = Trained(tmp_path, {"background": 0, "core": 1, "shell": 2, "ignore": 3})
    content = json.loads((trained.model / "dataset.json").read_text())
    content["labels"]["ignore"] = 3
    (trained.model / "dataset.json").write_text(json.dumps(content))
    mask = trained.review(tmp_path / "out", "d") / "d.nii.gz"
    voxels = np.full((6, 7, 8), 3, np.uint8)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), mask)
    with refused(DataError, "label.ignored-everywhere"):
        trained.go_on()
    voxels[0] = 0
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), mask)
    trained.go_on()
    # A label of the data set too.
    nibabel.save(nibabel.Nifti1Image(np.full((6, 7, 8), 3, np.uint8), np.eye(4)), trained.label("a"))
    with refused(DataError, "label.ignored-everywhere"):
        trained.go_on()


def test_f97_a_mask_that_is_saved_anew_while_it_is_checked_is_not_taken(tmp_path: Path) -> None:
    for name in ("a.nii", "b.nii.gz"):
        mask = toys.save(tmp_path / name, toys.label_map())
        digest = mask_digest(mask)
        keep_mask(mask, tmp_path / f"kept_{name}", digest)
        toys.save(mask, toys.label_map() * 0)
        with refused(DataError, "review.mask-changed"):
            keep_mask(mask, tmp_path / f"new_{name}", digest)
        assert not (tmp_path / f"new_{name}").exists()
