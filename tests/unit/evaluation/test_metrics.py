import itertools
import json
import math
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK
from pairs import in_pairs
from refusal import codes, refused

from pcl_auto.errors import DataError, UsageError
from pcl_auto.evaluation.metrics import evaluate, hd95_mm
from pcl_auto.method.label_maps import Values, dice

SPACING_MM = (3.0, 1.0, 0.5)  # per array axis (z, y, x)

Folders = tuple[Path, Path]  # predictions, labels
Mask = npt.NDArray[np.bool_]
Voxel = tuple[int, ...]


def write(
    path: Path,
    voxels: np.ndarray,
    spacing_mm: Sequence[float] = SPACING_MM,
    origin_mm: Sequence[float] = (0.0, 0.0, 0.0),
) -> Path:
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(spacing_mm[::-1])
    image.SetOrigin(origin_mm)
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))
    return path


def cube(
    start: int = 2,
    size: int = 3,
    value: float = 1,
    shape: tuple[int, ...] = (8, 8, 8),
    dtype: npt.DTypeLike = np.uint8,
) -> np.ndarray:
    voxels = np.zeros(shape, dtype)
    voxels[(slice(start, start + size),) * len(shape)] = value
    return voxels


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Two cases: `a` predicted exactly, `b` shifted by one voxel along every axis."""
    for case, start in (("a", 2), ("b", 3)):
        write(tmp_path / "labels" / f"{case}.nii.gz", cube())
        write(tmp_path / "predictions" / f"{case}.nii.gz", cube(start))
    return tmp_path / "predictions", tmp_path / "labels"


# Refusals.


def test_path_that_does_not_exist(folders: Folders) -> None:
    with refused(UsageError, "data.no-such-path") as refusal:
        evaluate(folders[0] / "nowhere", folders[1])
    assert refusal.problem.where == str(folders[0] / "nowhere")


def test_no_case_at_all(tmp_path: Path) -> None:
    with refused(DataError, "score.no-case"):
        evaluate(tmp_path, tmp_path)


def test_every_problem_is_listed(folders: Folders) -> None:
    predictions, labels = folders
    write(predictions / "extra.nii.gz", cube())
    write(labels / "missing.nii.gz", cube())
    for case in ("size", "moved", "fraction", "broken", "channels"):
        write(labels / f"{case}.nii.gz", cube())
    write(predictions / "size.nii.gz", cube(shape=(8, 8, 9)))
    write(predictions / "moved.nii.gz", cube(), origin_mm=(0.0, 0.2, 0.0))
    write(predictions / "fraction.nii.gz", cube(value=0.5, dtype=np.float32))
    (predictions / "broken.nii.gz").write_bytes(b"not gzip")
    write(predictions / "channels.nii.gz", np.zeros((2, 8, 8, 8), np.uint8), (1.0, *SPACING_MM))
    with pytest.raises(DataError) as caught:
        evaluate(predictions, labels)
    found = {problem.where.rsplit("/")[-1].split(".")[0]: problem.code for problem in caught.value.problems}
    assert found == {
        "extra": "score.no-label",
        "missing": "score.no-prediction",
        "size": "score.other-size",
        "moved": "score.other-position",
        "fraction": "score.not-whole",
        "broken": "nifti.not-nifti",
        "channels": "nifti.too-many-dimensions",
    }
    assert all(problem.fix for problem in caught.value.problems)


def test_several_values_per_voxel_are_no_label_map(folders: Folders) -> None:
    image = nib.Nifti1Image(np.ones((8, 8, 8, 2), np.uint8), np.eye(4))
    nib.save(image, folders[0] / "a.nii.gz")
    nib.save(image, folders[1] / "a.nii.gz")
    with refused(DataError, "score.not-a-label-map", "score.not-a-label-map"):
        evaluate(*folders)


def test_a_slice_is_scored_as_a_volume_of_one(folders: Folders) -> None:
    voxels = np.zeros((8, 9), np.uint8)
    voxels[2:5, 3:7] = 1
    for folder in folders:
        for file in folder.iterdir():
            file.unlink()
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / "a.nii.gz")
    assert evaluate(*folders).mean == {"dice": 1.0, "hd95_mm": 0.0}


def test_a_cut_label_is_not_scored(folders: Folders) -> None:
    for folder in folders:
        write(folder / "a.nii.gz", cube())
    label = folders[1] / "a.nii.gz"
    label.write_bytes(label.read_bytes()[:-30])
    with refused(DataError, "data.truncated"):
        evaluate(*folders)


def test_two_files_of_one_case(folders: Folders) -> None:
    write(folders[0] / "a.nii", cube())
    with refused(DataError, "score.case-twice"):
        evaluate(*folders)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_label_that_is_not_finite(folders: Folders, value: float) -> None:
    write(folders[1] / "a.nii.gz", cube(value=value, dtype=np.float32))
    with refused(DataError, "score.not-whole"):
        evaluate(*folders)


def test_masks_of_different_shape_or_spacing() -> None:
    mask = np.ones((2, 3), bool)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        dice(mask, mask.T)
    with pytest.raises(ValueError, match="3 spacings for 2 axes"):
        hd95_mm(mask, mask, SPACING_MM)


# Numbers.


def reference_hd95_mm(prediction: Mask, label: Mask, spacing_mm: Sequence[float]) -> float:
    """All pairs of surface voxels, each found by looking at its neighbors one by one."""

    def surface(mask: Mask) -> list[Voxel]:
        inside = {tuple(int(i) for i in index) for index in np.argwhere(mask)}
        axes = [axis for axis in range(mask.ndim) if mask.shape[axis] > 1]
        steps = [tuple(sign * (axis == other) for other in range(mask.ndim)) for axis in axes for sign in (-1, 1)]
        return [
            index
            for index in inside
            if any(tuple(i + s for i, s in zip(index, step, strict=True)) not in inside for step in steps)
        ]

    def distance(first: Voxel, second: Voxel) -> float:
        return math.sqrt(sum(((i - j) * mm) ** 2 for i, j, mm in zip(first, second, spacing_mm, strict=True)))

    def directed(source: list[Voxel], target: list[Voxel]) -> float:
        ordered = sorted(min(distance(here, there) for there in target) for here in source)
        place = 0.95 * (len(ordered) - 1)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        return low + (place - math.floor(place)) * (high - low)

    first, second = surface(prediction), surface(label)
    return max(directed(first, second), directed(second, first))


@in_pairs(shape=[(9, 8), (5, 6, 7), (1, 6, 7), (4, 4, 4)], density=[0.02, 0.3, 0.9], seed=range(3))
def test_hd95_equals_the_slow_reference(shape: tuple[int, ...], density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction, label = rng.random((2, *shape)) < density
    prediction.flat[0] = label.flat[-1] = True
    spacing_mm = tuple(rng.uniform(0.3, 4, len(shape)))
    assert hd95_mm(prediction, label, spacing_mm) == pytest.approx(reference_hd95_mm(prediction, label, spacing_mm))


def test_hd95_of_single_voxels_is_their_distance() -> None:
    first, second = np.zeros((2, 10, 10, 10), bool)
    first[1, 1, 1] = second[2, 5, 1] = True
    assert hd95_mm(first, second, SPACING_MM) == 5.0  # 1 voxel of 3 mm, 4 of 1 mm


@pytest.mark.parametrize(("axis", "expected_mm"), [(0, 6.0), (1, 2.0), (2, 1.0)])
def test_hd95_of_a_slab_moved_by_two_voxels(axis: int, expected_mm: float) -> None:
    # A slab of one voxel over the whole image: every voxel is surface and has the same distance.
    first, second = np.zeros((2, 8, 8, 8), bool)
    np.moveaxis(first, axis, 0)[2] = True
    np.moveaxis(second, axis, 0)[4] = True
    assert hd95_mm(first, second, SPACING_MM) == expected_mm


def test_hd95_is_symmetric_and_zero_for_equal_masks() -> None:
    first, second = cube(1, 4).astype(bool), cube(3, 2).astype(bool)
    assert hd95_mm(first, second, SPACING_MM) == hd95_mm(second, first, SPACING_MM) > 0
    assert hd95_mm(first, first, SPACING_MM) == 0
    assert hd95_mm(np.ones((1, 1), bool), np.ones((1, 1), bool), (1, 1)) == 0


def test_hd95_does_not_depend_on_what_surrounds_the_masks() -> None:
    first, second = cube(1, 4).astype(bool), cube(3, 2).astype(bool)
    assert hd95_mm(np.pad(first, 5), np.pad(second, 5), SPACING_MM) == hd95_mm(first, second, SPACING_MM)


def test_dice_of_known_overlaps() -> None:
    mask = np.array([1, 1, 1, 0], bool)
    assert dice(mask, mask) == 1
    assert dice(mask, ~mask) == 0
    assert dice(mask, np.array([0, 1, 1, 1], bool)) == pytest.approx(2 / 3)


@pytest.mark.parametrize(("in_prediction", "in_label"), [*itertools.product([False, True], repeat=2)])
def test_empty_masks(in_prediction: bool, in_label: bool) -> None:
    prediction, label = cube().astype(bool) & in_prediction, cube().astype(bool) & in_label
    expected = {0: math.nan, 1: 0.0, 2: 1.0}[in_prediction + in_label]
    assert dice(prediction, label) == pytest.approx(expected, nan_ok=True)
    assert math.isnan(hd95_mm(prediction, label, SPACING_MM)) != (in_prediction and in_label)


# Folders.


def test_scores_per_case_and_class(folders: Folders) -> None:
    result = evaluate(*folders)
    assert [case.id for case in result.cases] == ["a", "b"]
    shifted = 2 * 8 / 54  # two cubes of 27 voxels share one of 8
    assert [case.dice["1"] for case in result.cases] == [1, pytest.approx(shifted)]
    assert result.cases[0].hd95_mm == {"1": 0}
    assert result.mean["dice"] == pytest.approx((1 + shifted) / 2)
    assert result.per_class["1"]["dice"] == {
        "mean": pytest.approx((1 + shifted) / 2),
        "std": pytest.approx((1 - shifted) / 2),
        "n": 2,
        "undefined": 0,
    }
    assert result.cases[0].volume_ml == {"1": {"prediction": pytest.approx(0.0405), "label": pytest.approx(0.0405)}}


def test_spacing_follows_the_array_axes(folders: Folders) -> None:
    predictions, labels = folders
    moved = np.roll(cube(size=1), 1, axis=0)  # one voxel along z, 3 mm
    write(labels / "a.nii.gz", cube(size=1))
    write(predictions / "a.nii.gz", moved)
    assert evaluate(*folders).cases[0].hd95_mm["1"] == pytest.approx(3)


def test_structures_that_are_missing(folders: Folders) -> None:
    predictions, labels = folders
    # Class 1 is missed and class 2 invented in a, and 3, which is in no label; 2 is right in b, which has no class 1.
    write(labels / "a.nii.gz", cube(value=1))
    write(predictions / "a.nii.gz", np.maximum(cube(value=2), cube(6, 1, 3)))
    write(labels / "b.nii.gz", cube(value=2))
    write(predictions / "b.nii.gz", cube(value=2))
    result = evaluate(*folders)
    first, second = result.cases
    assert first.dice == {"1": 0, "2": 0, "3": 0}
    assert all(math.isnan(value) for value in first.hd95_mm.values())
    assert math.isnan(second.dice["1"])
    assert second.dice["2"] == 1
    assert second.volume_ml["1"] == {"prediction": 0, "label": 0}
    assert result.mean == {"dice": 0.5, "hd95_mm": 0}
    assert result.undefined == {"dice": 2, "hd95_mm": 5}
    assert result.per_class["1"]["dice"]["undefined"] == 1
    assert result.unscored_values == []


def test_named_classes_are_the_ones_scored(folders: Folders) -> None:
    predictions, labels = folders
    write(labels / "a.nii.gz", np.maximum(cube(), cube(6, 1, 7)))
    result = evaluate(predictions, labels, classes={"background": 0, "core": 1, "absent": 4})
    assert list(result.per_class) == ["core", "absent"]
    assert result.unscored_values == [7]
    assert result.per_class["absent"]["dice"]["n"] == 0
    assert math.isnan(result.per_class["absent"]["dice"]["mean"])


@pytest.mark.parametrize("suffix", [".nii", ".mha", ".MHA", ".nrrd", ".mhd", ".nhdr"])
@pytest.mark.parametrize("which", [0, 1, None], ids=["predictions", "labels", "both"])
def test_f66_cases_in_every_format_are_scored(folders: Folders, suffix: str, which: int | None) -> None:
    expected = evaluate(*folders).as_dict()
    for folder in folders if which is None else [folders[which]]:
        image = SimpleITK.ReadImage(str(folder / "b.nii.gz"))
        SimpleITK.WriteImage(image, str(folder / f"b{suffix.lower()}"))
        (folder / f"b{suffix.lower()}").rename(folder / f"b{suffix}")
        (folder / "b.nii.gz").unlink()
    assert evaluate(*folders).as_dict() == expected


def test_f66_cases_in_formats_that_are_not_read_are_named(folders: Folders) -> None:
    for name in ("c.mgz", "b.dcm", ".d.mgz", "picture.png", "notes.json"):
        (folders[0] / name).write_bytes(b"x")
    with refused(DataError, "score.format") as refusal:
        evaluate(*folders)
    assert refusal.problem.where == str(folders[0] / "c.mgz")
    result = evaluate(*folders, allow_missing=True)
    assert result.skipped == [{"id": "c", "code": "score.format", "reason": "volume in a format that is not scored"}]


@pytest.mark.parametrize("link", [None, os.link, os.symlink])
def test_f102_masks_are_not_scored_against_themselves(folders: Folders, link: Any) -> None:
    masks, labels = folders
    if link:
        (masks / "b.nii.gz").unlink()
        link(labels / "b.nii.gz", masks / "b.nii.gz")
    with refused(DataError, *["score.same-file"] * (1 if link else 2)):
        evaluate(masks if link else labels, labels)


@pytest.mark.parametrize("which", [0, 1])
def test_a_link_to_nowhere(folders: Folders, which: int) -> None:
    link = folders[which] / "b.nii.gz"
    link.unlink()
    link.symlink_to("nowhere.nii.gz")
    with pytest.raises(DataError) as refusal:
        evaluate(*folders)
    assert [problem.where for problem in refusal.value.problems] == [str(link)]


def test_f102_masks_that_all_equal_their_labels_are_worth_a_look(folders: Folders) -> None:
    masks, labels = folders
    for case in "ab":
        shutil.copy(labels / f"{case}.nii.gz", masks / f"{case}.nii.gz")
    assert codes(evaluate(masks, labels).warnings) == ["score.all-alike"]
    write(masks / "b.nii.gz", cube(3))
    assert evaluate(masks, labels).warnings == []


def test_a_scan_is_no_label_map(folders: Folders) -> None:
    write(folders[1] / "a.nii.gz", np.arange(2000, dtype=np.int16).reshape(8, 10, 25))
    write(folders[0] / "a.nii.gz", np.zeros((8, 10, 25), np.uint8))
    with refused(DataError, "score.not-a-label-map") as refusal:
        evaluate(*folders)
    assert refusal.problem.found == "1999 values"


def test_whole_numbers_that_no_integer_holds(folders: Folders) -> None:
    for folder, value in zip(folders, (1e30, 2e30), strict=True):
        write(folder / "a.nii.gz", cube(value=value, dtype=np.float64))
    with refused(DataError, "score.not-whole", "score.not-whole"):
        evaluate(*folders)


def test_missing_cases_on_request(folders: Folders) -> None:
    (folders[0] / "b.nii.gz").unlink()
    result = evaluate(*folders, allow_missing=True)
    assert [case.id for case in result.cases] == ["a"]
    assert result.skipped == [{"id": "b", "code": "score.no-prediction", "reason": "label without a prediction"}]


def test_json_has_no_nan(folders: Folders) -> None:
    write(folders[0] / "a.nii.gz", cube(value=0))
    result = evaluate(*folders).as_dict()
    text = json.dumps(result, allow_nan=False)
    assert {"mean", "per_class", "cases"} <= result.keys()
    assert json.loads(text)["cases"][0] == {
        "id": "a",
        "dice": {"1": 0},
        "hd95_mm": {"1": None},
        "volume_ml": {"1": {"prediction": 0, "label": pytest.approx(0.0405)}},
    }


def test_other_files_are_ignored_and_suffixes_may_differ(folders: Folders) -> None:
    predictions, labels = folders
    (predictions / "._a.nii.gz").write_bytes(b"AppleDouble")
    (predictions / "plans.json").write_text("{}")
    (predictions / "b.nii.gz").unlink()
    write(predictions / "b.nii", cube().astype(np.float32))
    assert [case.dice["1"] for case in evaluate(predictions, labels).cases] == [1, 1]


def test_two_single_files_of_any_names(tmp_path: Path) -> None:
    prediction, label = write(tmp_path / "p" / "x.nii", cube()), write(tmp_path / "y.nii.gz", cube())
    assert evaluate(prediction, label).cases[0].id == "y"


def test_rounding_of_headers_is_no_other_grid(folders: Folders) -> None:
    write(folders[0] / "a.nii.gz", cube(), tuple(mm * (1 + 1e-6) for mm in SPACING_MM), (1e-4, 0.0, -1e-4))
    assert evaluate(*folders).mean["dice"] > 0


def test_threads_change_nothing(folders: Folders) -> None:
    assert evaluate(*folders, threads=1) == evaluate(*folders, threads=8)


def test_inputs_stay_as_they_are(folders: Folders) -> None:
    before = {path: path.read_bytes() for path in folders[0].parent.rglob("*.*")}
    evaluate(*folders)
    assert before == {path: path.read_bytes() for path in folders[0].parent.rglob("*.*")}


def slow_scores(
    prediction: np.ndarray, label: np.ndarray, values: Collection[int], ignored: int | None
) -> tuple[float, dict[str, float]]:
    """Dice and volumes of a region, voxel by voxel, over the voxels that somebody has looked at."""
    both = predicted = true = 0
    for p, t in zip(prediction.flat, label.flat, strict=True):
        if t != ignored:
            predicted += p in values
            true += t in values
            both += p in values and t in values
    voxel_ml = math.prod(SPACING_MM) / 1000
    return 2 * both / (predicted + true), {"prediction": predicted * voxel_ml, "label": true * voxel_ml}


def test_a_label_that_nobody_has_looked_at_is_worth_a_look(tmp_path: Path) -> None:
    for name, value in (("seen", 0), ("unseen", 4)):
        label = np.full((5, 6, 7), 4, np.uint8)
        label[0, 0, :3] = value
        write(tmp_path / "labels" / f"{name}.nii.gz", label)
        write(tmp_path / "masks" / f"{name}.nii.gz", np.ones((5, 6, 7), np.uint8))
    found = evaluate(tmp_path / "masks", tmp_path / "labels", ignored=4).warnings
    assert [(problem.code, problem.found) for problem in found] == [("score.all-ignored", "unseen")]


@pytest.mark.parametrize("ignored", [None, 4])
def test_regions_and_ignored_voxels(tmp_path: Path, ignored: int | None) -> None:
    rng = np.random.default_rng(0)
    label, prediction = (rng.integers(0, top, (5, 6, 7), dtype=np.uint8) for top in (5 if ignored else 4, 4))
    files = [write(tmp_path / f"{name}.nii.gz", mask) for name, mask in (("p", prediction), ("l", label))]
    regions: dict[str, Values] = {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "enhancing": 3, "none": (7, 8)}
    found = evaluate(*files, classes=regions, ignored=ignored)
    (case,) = found.cases
    for name, values in {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}.items():
        expected_dice, expected_ml = slow_scores(prediction, label, values, ignored)
        assert case.dice[name] == pytest.approx(expected_dice)
        assert case.volume_ml[name] == pytest.approx(expected_ml)
    known = np.full(label.shape, True) if ignored is None else label != ignored
    assert case.hd95_mm["core"] == hd95_mm((prediction >= 2) & known, (label >= 2) & known, SPACING_MM)
    assert math.isnan(case.dice["none"])
    assert found.unscored_values == []
    assert evaluate(*files, classes={"enhancing": 3}, ignored=ignored).unscored_values == [1, 2]
    assert list(evaluate(*files, ignored=ignored).per_class) == ["1", "2", "3"]
