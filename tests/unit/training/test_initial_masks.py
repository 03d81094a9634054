"""Masks of another tool that a training is to begin with: which are taken, refused, or named in a warning."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from refusal import codes, refused
from toy_plans import toy_plan
from toys import SHAPE, label_map, ramp, save

from pcl_auto.data.checks import check_files
from pcl_auto.data.checks.check_files import image_stats
from pcl_auto.data.formats.nifti import probe_channels
from pcl_auto.data.split import Split
from pcl_auto.errors import DataError, StateError, UsageError
from pcl_auto.planning.plan import read_plan, write_plan
from pcl_auto.recipe.load import from_dict, load_recipe
from pcl_auto.training.initial_masks import InitialMasks, find_initial_masks, refuse_unused_masks
from pcl_auto.training.request import Run, TrainRequest, resolve_run
from pcl_auto.training.run_identity import identity
from pcl_auto.workspace.folders import DatasetFolder, Workspace

NAME = "Dataset005_Toy"
LABELS: dict[str, Any] = {"background": 0, "core": 1, "shell": 2}


def make_plan(root: Path, labels: dict[str, Any]) -> Workspace:
    """Plan a task of one labeled case a, of h and i, whose labels are hidden where one label is asked for, and u, v."""
    task, place = root / "Task05_Toy", Workspace.at(root / "work", "test")
    cases = {}
    for number, case in enumerate("ahiuv"):
        image = save(task / "imagesTr" / f"{case}.nii.gz", ramp() + number)
        label = save(task / "labelsTr" / f"{case}.nii.gz", label_map()) if case in "ahi" else None
        cases[case] = {
            "image": f"imagesTr/{image.name}", "label": label and f"labelsTr/{label.name}", "source": "training",
            "shape": list(SHAPE), **image_stats(image),
        }  # fmt: skip
    content = toy_plan(task, NAME, cases, {"channel_names": {"0": "MR"}, "labels": labels}, ("2d", "3d_fullres"))
    write_plan(DatasetFolder(place.preprocessed / NAME), content)
    return place


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_plan(tmp_path, LABELS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of sound masks of h and u."""
    save(tmp_path / "masks" / "h.nii.gz", label_map())
    save(tmp_path / "masks" / "u.nii.gz", label_map()[::-1])
    return tmp_path / "masks"


def resolve(workspace: Workspace, folder: Path, **options: Any) -> Run:
    request = {"labeled_cases": ("a",), "initial_pseudo_labels": folder, **options}
    return resolve_run(TrainRequest(**request), workspace)


def label_of(workspace: Workspace, case: str) -> Path:
    label = read_plan(workspace.dataset(None)).cases[case].label
    assert label is not None
    return label


def find(workspace: Workspace, folder: Path) -> InitialMasks:
    return resolve(workspace, folder).initial


def never_read(file: Path) -> None:
    """Make a label that every reader would refuse."""
    file.write_bytes(b"nobody may look at this")


# --- what is taken --------------------------------------------------------------------------------------------


def test_masks_of_unlabeled_cases_are_taken(workspace: Workspace, folder: Path) -> None:
    for case in "hi":
        never_read(label_of(workspace, case))
    run = resolve(workspace, folder)
    assert run.initial.files == {case: folder / f"{case}.nii.gz" for case in "hu"}
    assert run.warnings == ()
    assert identity(run, {})["initial_pseudo_labels"] == dict(run.initial.digests)
    assert run.plans_name.endswith(f"_default_masks{run.initial.digest}")
    run.initial.require_unchanged()


def test_a_run_without_masks_is_what_it_was(workspace: Workspace) -> None:
    run = resolve_run(TrainRequest(labeled_cases=("a",)), workspace)
    assert run.initial == InitialMasks()
    assert "initial_pseudo_labels" not in identity(run, {})
    assert "masks" not in run.plans_name


def test_other_masks_are_another_model(workspace: Workspace, folder: Path) -> None:
    before = resolve(workspace, folder)
    assert resolve(workspace, Path(shutil.copytree(folder, folder.with_name("copy")))).model == before.model
    save(folder / "u.nii.gz", label_map()[:, ::-1])
    changed = resolve(workspace, folder)
    (folder / "u.nii.gz").unlink()
    fewer = resolve(workspace, folder)
    without = resolve_run(TrainRequest(labeled_cases=("a",)), workspace)
    assert len({run.model for run in (before, changed, fewer, without)}) == 4


@pytest.mark.parametrize("name", ["u.nii", "u.NII.GZ", "u.Nii"])
def test_every_ending_of_nifti(workspace: Workspace, folder: Path, name: str) -> None:
    plain = save(folder / "plain.nii", label_map())
    (folder / "u.nii.gz").unlink()
    if name.lower().endswith(".gz"):
        save(folder / "h.nii.gz", label_map()).rename(folder / name)
        plain.unlink()
    else:
        plain.rename(folder / name)
    assert find(workspace, folder).files["u"] == folder / name


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, np.float64])
def test_whole_numbers_of_every_type(workspace: Workspace, folder: Path, dtype: Any) -> None:
    image = nibabel.Nifti1Image(label_map().astype(dtype), np.diag([1.0, 1.0, 2.0, 1.0]), dtype=dtype)
    nibabel.save(image, folder / "u.nii.gz")
    assert "u" in find(workspace, folder).files


def test_links_to_the_folder_and_to_masks(workspace: Workspace, folder: Path, tmp_path: Path) -> None:
    before = find(workspace, folder)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "links").mkdir()
    for file in folder.iterdir():
        (tmp_path / "links" / file.name).symlink_to(file)
    assert find(workspace, tmp_path / "link").digests == find(workspace, tmp_path / "links").digests == before.digests


# --- what is passed over --------------------------------------------------------------------------------------


def test_the_folder_that_nnunet_predicts_into(workspace: Workspace, folder: Path) -> None:
    for name in ("dataset.json", "plans.json", "predict_from_raw_data_args.json", "u.npz", "u.pkl"):
        (folder / name).write_text("{}")
    found = find(workspace, folder)
    assert (set(found.files), codes(found.warnings)) == ({"h", "u"}, ["data.passed-over"])
    assert found.warnings[0].fix == "nothing, if these are no masks"


def test_masks_of_other_cases_are_named_and_not_read(workspace: Workspace, folder: Path) -> None:
    for name in ("a", "scan_of_somebody", "U", "u_0000"):
        never_read(folder / f"{name}.nii.gz")
    found = find(workspace, folder)
    assert set(found.files) == {"h", "u"}
    (warning,) = found.warnings
    assert (warning.code, warning.found) == ("mask.of-other-case", "U, a, scan_of_somebody, u_0000")


def test_masks_of_validation_cases_are_no_pseudo_labels(workspace: Workspace, folder: Path) -> None:
    run = resolve(workspace, folder, labeled_cases=("a", "i"), validation=1)
    assert run.split.validation == ("h",)
    assert set(run.initial.files) == {"u"}
    assert codes(run.initial.warnings) == ["mask.of-other-case"]


def test_equal_masks_are_warned_of(workspace: Workspace, folder: Path) -> None:
    save(folder / "u.nii.gz", label_map())
    found = find(workspace, folder)
    assert (set(found.files), codes(found.warnings)) == ({"h", "u"}, ["label.equal"])
    for case in "hu":  # which may be so
        save(folder / f"{case}.nii.gz", label_map() * 0)
    assert "label.equal" not in codes(find(workspace, folder).warnings)


def test_a_class_that_no_mask_shows_is_named(workspace: Workspace, folder: Path) -> None:
    save(folder / "h.nii.gz", label_map() * (label_map() == 1))
    assert codes(find(workspace, folder).warnings) == []
    save(folder / "u.nii.gz", (label_map() * (label_map() == 1))[::-1])
    (warning,) = resolve(workspace, folder).warnings
    assert (warning.code, warning.where, "2 (shell)" in warning.what) == ("mask.class-absent", str(folder), True)


def test_masks_that_changed_since_an_unfinished_training_began_are_named(workspace: Workspace, folder: Path) -> None:
    first = resolve(workspace, folder)
    (first.model / "fold_all").mkdir(parents=True)
    (first.model / "fold_all" / "run.json").touch()
    assert codes(resolve(workspace, folder).warnings) == []
    save(folder / "u.nii.gz", label_map()[:, ::-1])
    second = resolve(workspace, folder)
    assert second.model != first.model
    (warning,) = second.warnings
    assert (warning.code, warning.found) == ("mask.others-before", first.model.name)
    (first.model / "fold_all" / "checkpoint_final.pth").touch()
    assert resolve(workspace, folder).warnings == ()


def test_images_that_the_checks_know_are_not_read_again(
    workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, split = read_plan(workspace.dataset(None)), resolve(workspace, folder).split
    images = {case: check_files._probe(entry.files, None, None).as_dict() for case, entry in plan.cases.items()}
    known = {"schema": check_files._SCHEMA, "images": images}
    read: list[str] = []

    def probe(files: Sequence[Path]) -> Any:
        read.append(files[0].name)
        return probe_channels(files)

    monkeypatch.setattr(check_files, "probe_channels", probe)
    find_initial_masks(folder, plan, split, known)
    assert read == []
    find_initial_masks(folder, plan, split)
    assert sorted(read) == ["h.nii.gz", "u.nii.gz"]
    # Still compared with its image.
    save(folder / "u.nii.gz", label_map((5, 6, 8)))
    with refused(DataError, "label.other-shape"):
        find_initial_masks(folder, plan, split, known)


# --- what is refused ------------------------------------------------------------------------------------------


def test_no_folder(workspace: Workspace, folder: Path) -> None:
    for place in (folder / "none", folder / "u.nii.gz"):
        with refused(UsageError, "mask.no-folder") as refusal:
            find(workspace, place)
        assert refusal.problem.where == str(place)


@pytest.mark.parametrize("names", [(), ("a.nii.gz",), ("U.nii.gz", "u_0000.nii.gz"), ("notes.txt", "u")])
def test_no_mask_of_an_unlabeled_case(workspace: Workspace, tmp_path: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "masks").mkdir()
    for name in names:
        never_read(tmp_path / "masks" / name)
    with refused(DataError, "mask.of-no-case") as refusal:
        find(workspace, tmp_path / "masks")
    assert refusal.problem.expected.startswith("h.nii.gz")
    assert refusal.problem.found == (", ".join(sorted(names)) or "no file")


def test_no_unlabeled_case(workspace: Workspace, folder: Path) -> None:
    plan = read_plan(workspace.dataset(None))
    split = Split("all", 0, labeled=("a", "h", "i"), validation=(), unlabeled=(), hidden=())
    with refused(DataError, "mask.of-no-case") as refusal:
        find_initial_masks(folder, plan, split)
    assert refusal.problem.expected == "a split with unlabeled cases"


def test_two_files_of_one_case(workspace: Workspace, folder: Path) -> None:
    save(folder / "u.nii", label_map())
    with refused(DataError, "review.mask-twice"):
        find(workspace, folder)


@pytest.mark.parametrize("name", ["u.nrrd", "v.mha", "v.seg.nrrd", "v.mgz"])
def test_other_formats(workspace: Workspace, folder: Path, name: str) -> None:
    (folder / name).touch()
    with refused(DataError, "review.mask-not-nifti") as refusal:
        find(workspace, folder)
    assert refusal.problem.where == str(folder / name)


def turned(axis: int) -> np.ndarray:
    """The voxels of the images, stored from the other end of an axis."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[axis, 3] = affine[axis, axis] * (SHAPE[axis] - 1)
    affine[axis, axis] *= -1
    return affine


SHEARED = np.diag([1.0, 1.0, 2.0, 1.0])
SHEARED[0, 1] = 0.3
BAD: list[tuple[Callable[[Path], object], str]] = [
    (lambda file: save(file, label_map((5, 6, 8))), "label.other-shape"),
    (lambda file: save(file, label_map((7, 6, 5))), "label.other-shape"),
    (lambda file: save(file, label_map(), np.diag([1.5, 1.5, 2.0, 1.0])), "label.apart"),
    (lambda file: save(file, label_map(), turned(0)), "label.other-axes"),
    (lambda file: save(file, label_map(), turned(2)), "label.other-axes"),
    (lambda file: nibabel.save(nibabel.Nifti1Image(label_map(), SHEARED), file), "nifti.sheared"),
    (lambda file: save(file, np.stack([label_map()] * 2, axis=-1)), "label.not-3d"),
    (lambda file: save(file, label_map() * 4), "label.undeclared-values"),
    (lambda file: save(file, label_map().astype(np.int16) - 1), "label.undeclared-values"),
    (lambda file: save(file, label_map() * np.float32(0.9)), "label.fractional"),
    (lambda file: save(file, label_map() * np.float32(np.nan)), "data.not-finite"),
    (lambda file: file.write_bytes(file.read_bytes()[:60]), "data.truncated"),
    (lambda file: file.unlink() or file.mkdir(), "data.not-a-file"),  # type: ignore[func-returns-value]
    (lambda file: file.unlink() or os.mkfifo(file), "data.not-a-file"),  # type: ignore[func-returns-value]
    (lambda file: file.unlink() or file.symlink_to("none"), "data.missing"),  # type: ignore[func-returns-value]
]


@pytest.mark.parametrize(("spoil", "code"), BAD)
def test_a_mask_that_cannot_be_a_label_of_its_case(
    workspace: Workspace, folder: Path, spoil: Callable[[Path], object], code: str
) -> None:
    spoil(folder / "u.nii.gz")
    with refused(DataError, code) as refusal:
        find(workspace, folder)
    assert refusal.problem.where.split(" ")[0] == str(folder / "u.nii.gz")


def test_masks_that_cannot_be_read_are_all_named(
    workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.parent == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with refused(DataError, "data.unreadable") as refusal:
        find(workspace, folder)
    assert [Path(problem.where).name for problem in refusal.problems] == ["h.nii.gz", "u.nii.gz"]


def test_all_problems_at_once(workspace: Workspace, folder: Path) -> None:
    save(folder / "h.nii.gz", label_map() * 4)
    save(folder / "u.nii.gz", label_map((5, 6, 8)))
    with refused(DataError, "label.undeclared-values", "label.other-shape"):
        find(workspace, folder)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_to_a_hidden_label_is_refused_unopened(
    workspace: Workspace, folder: Path, link: Callable[[Path, Path], None]
) -> None:
    hidden, mask = label_of(workspace, "i"), folder / "u.nii.gz"
    never_read(hidden)
    mask.unlink()
    link(hidden, mask)
    with refused(DataError, "split.label-is-hidden") as refusal:
        find(workspace, folder)
    assert refusal.problem.where == str(mask)
    mask.unlink()
    link(label_of(workspace, "a"), mask)
    with refused(DataError, "label.of-two-cases"):
        find(workspace, folder)
    mask.unlink()
    link(folder / "h.nii.gz", mask)
    with refused(DataError, "label.of-two-cases"):
        find(workspace, folder)


def test_labels_of_cases_that_the_split_leaves_out_stay_closed(workspace: Workspace, folder: Path) -> None:
    never_read(label_of(workspace, "i"))
    (folder / "u.nii.gz").unlink()
    (folder / "u.nii.gz").symlink_to(label_of(workspace, "i"))
    (few := folder.parent / "split.json").write_text('{"labeled": ["a"], "unlabeled": ["u"]}')
    with refused(DataError, "split.label-is-hidden"):
        resolve(workspace, folder, labeled_cases=(), split_file=few)


@pytest.mark.parametrize("linked", [False, True])
def test_the_folder_of_the_labels_is_refused_unopened(workspace: Workspace, tmp_path: Path, *, linked: bool) -> None:
    folder = label_of(workspace, "i").parent
    for case in "hi":
        never_read(folder / f"{case}.nii.gz")
    if linked:
        (tmp_path / "link").symlink_to(folder)
        folder = tmp_path / "link"
    with refused(DataError, "split.label-is-hidden") as refusal:
        find(workspace, folder)
    assert [Path(problem.where).name for problem in refusal.problems] == ["h.nii.gz", "i.nii.gz"]


def test_masks_that_change_after_they_were_checked(workspace: Workspace, folder: Path) -> None:
    found = find(workspace, folder)
    save(folder / "u.nii.gz", label_map() * 0)
    (folder / "h.nii.gz").unlink()
    with refused(StateError, "mask.changed-meanwhile") as refusal:
        found.require_unchanged()
    assert (refusal.problem.where, refusal.problem.found) == (str(folder), "h, u")


def test_an_ignored_value_and_regions(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    workspace, folder = make_plan(tmp_path, labels), tmp_path / "masks"
    voxels = label_map()
    voxels[0] = 3
    save(folder / "u.nii.gz", voxels)
    assert set(find(workspace, folder).files) == {"u"}
    save(folder / "u.nii.gz", np.full(SHAPE, 3, np.uint8))
    with refused(DataError, "label.ignored-everywhere"):
        find(workspace, folder)


# --- trainings that would not learn from them -----------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"supervised_only": True},
        {"recipe": "mean_teacher"},
        {"recipe": from_dict({"name": "mine", "schedule": {"rounds": 0}})},
    ],
)
def test_a_training_that_would_not_learn_from_them(workspace: Workspace, folder: Path, options: dict[str, Any]) -> None:
    with refused(UsageError, "mask.not-learned-from") as refusal:
        resolve(workspace, folder, **options)
    assert refusal.problem.where == "--initial-pseudo-labels"


def test_all_reasons_at_once() -> None:
    recipe = load_recipe("default")
    refuse_unused_masks(recipe, supervised_only=False, started=False)
    with refused(UsageError, "mask.not-learned-from") as refusal:
        refuse_unused_masks(recipe, supervised_only=True, started=True)
    assert len(refusal.problems) == 2
