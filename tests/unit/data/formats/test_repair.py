"""`pclauto repair`: one reading of a file that readers take differently."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from itertools import permutations, product
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from refusal import codes, refused
from toys import patch, ramp, save
from typer.testing import CliRunner

from pcl_auto.cli.main import app
from pcl_auto.data.formats.grid import Grid
from pcl_auto.data.formats.nifti import compare_grids, probe_image
from pcl_auto.data.formats.repair import repair
from pcl_auto.data.formats.volume import read_volume
from pcl_auto.errors import DataError, StateError

PIXDIM, QFORM_SFORM_CODES, SCL_SLOPE = 76, 252, 112


def test_the_second_version_becomes_the_first(tmp_path: Path) -> None:
    file = save(tmp_path / "a.nii.gz", ramp(), kind=nib.Nifti2Image)
    target = repair(file, tmp_path / "new")
    assert target == tmp_path / "new" / "a.nii.gz"
    image = nib.load(target)
    assert isinstance(image, nib.Nifti1Image)
    np.testing.assert_array_equal(np.asarray(image.dataobj), ramp())
    np.testing.assert_array_equal(image.affine, nib.load(file).affine)
    assert probe_image(target)[1] == []


def test_what_the_first_version_cannot_hold_is_named_in_the_file_that_was_given(tmp_path: Path) -> None:
    long = save(tmp_path / "long.nii.gz", np.ones((32768, 2, 2), np.uint8), kind=nib.Nifti2Image)
    with refused(DataError, "repair.too-long") as refusal:
        repair(long, tmp_path / "new")
    assert refusal.problem.where == str(long)
    steep = save(tmp_path / "steep.nii", ramp(), kind=nib.Nifti2Image)
    patch(steep, 176, "<dd", 1e60, 0)
    with refused(DataError, "repair.scaling-too-large"):
        repair(steep, tmp_path / "new")
    stored = nib.load(repair(steep, tmp_path / "new", values="stored"))
    np.testing.assert_array_equal(np.asarray(stored.dataobj), ramp())
    # What is wrong with the voxels too.
    odd = save(tmp_path / "odd.nii", np.full((4, 4, 4), np.nan), kind=nib.Nifti2Image)
    with refused(DataError, "data.not-finite") as refusal:
        repair(odd, tmp_path / "new")
    assert refusal.problem.where == str(odd)
    assert not (tmp_path / "new" / "odd.nii").exists()


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("intent", [1004, 1005, 1006])
def test_an_intent_that_readers_take_differently_goes(tmp_path: Path, intent: int, dtype: type) -> None:
    file = patch(save(tmp_path / "a.nii", ramp().astype(dtype)), 68, "<h", intent)
    with refused(DataError, "nifti.intent"):
        read_volume(file)
    assert codes(probe_image(file)[1]) == ["nifti.intent"]
    target = repair(file, tmp_path / "new")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(target))).T, ramp())
    np.testing.assert_array_equal(read_volume(target).voxels[0].T, ramp())


@pytest.mark.parametrize(("values", "shift"), [("stored", 0), ("shifted", -24)])
def test_values_that_readers_scale_differently(
    tmp_path: Path, values: Literal["stored", "shifted"], shift: int
) -> None:
    file = patch(save(tmp_path / "a.nii", ramp()), SCL_SLOPE, "<ff", 0, -24)
    with refused(DataError, "nifti.scaling"):
        repair(file, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    target = repair(file, tmp_path / "new", values=values)
    np.testing.assert_array_equal(read_volume(target).voxels[0].T, ramp() + shift)
    np.testing.assert_array_equal(np.asarray(nib.load(target).dataobj), ramp() + shift)


@pytest.mark.parametrize(("geometry", "spacing"), [("sform", 1.0), ("pixdim", 1.5)])
def test_a_spacing_that_contradicts_the_sform(
    tmp_path: Path, geometry: Literal["sform", "pixdim"], spacing: float
) -> None:
    file = patch(save(tmp_path / "a.nii", ramp()), PIXDIM + 4, "<f", 1.5)
    patch(file, QFORM_SFORM_CODES, "<h", 0)
    with refused(DataError, "nifti.spacing-contradicts-affine"):
        repair(file, tmp_path / "new")
    volume = read_volume(repair(file, tmp_path / "new", geometry=geometry))
    assert volume.geometry.spacing_mm == (spacing, 1.0, 2.0)
    assert len(volume.grids) == 1


def test_a_broken_sform_beside_a_qform(tmp_path: Path) -> None:
    file = patch(save(tmp_path / "a.nii", ramp()), 280, "<f", np.nan)
    patch(file, QFORM_SFORM_CODES, "<h", 1)
    with refused(DataError, "nifti.no-orientation"):
        repair(file, tmp_path / "new")
    assert len(read_volume(repair(file, tmp_path / "new", geometry="qform")).grids) == 1


@pytest.mark.parametrize("geometry", ["sform", "qform", "pixdim"])
@pytest.mark.parametrize("broken", [np.nan, np.inf, 1e30])
def test_a_place_that_is_none_cannot_be_chosen(
    tmp_path: Path, geometry: Literal["sform", "qform", "pixdim"], broken: float
) -> None:
    file = patch(save(tmp_path / "a.nii", ramp()), 256, "<6f", *[broken] * 6)
    for row in range(3):
        patch(file, 280 + 16 * row, "<4f", *[broken] * 4)
    with pytest.raises(DataError) as caught:
        repair(file, tmp_path / "new", geometry=geometry)
    assert caught.value.problems[0].where == str(file)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("shear", [0.001, 0.8])
def test_a_shear_is_not_taken_out_without_a_word(tmp_path: Path, shear: float) -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    image = nib.Nifti1Image(ramp(), affine)
    sheared = affine.copy()
    sheared[0, 1] = shear
    image.set_sform(sheared, 1)
    image.set_qform(affine, 0)
    nib.save(image, tmp_path / "a.nii.gz")
    assert codes(probe_image(tmp_path / "a.nii.gz")[1]) == ["nifti.sheared"]
    with refused(DataError, "nifti.sheared"):
        repair(tmp_path / "a.nii.gz", tmp_path / "new", geometry="sform")
    assert not (tmp_path / "new").exists()


def test_a_label_gets_the_place_of_its_scan(tmp_path: Path) -> None:
    scan, label = save(tmp_path / "scan.nii", ramp()), save(tmp_path / "label.nii", ramp(), np.eye(4) * 3)
    target = repair(label, tmp_path / "new", like=scan)
    assert compare_grids(*(probe_image(file)[0] for file in (scan, target))) == []  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.asarray(nib.load(target).dataobj), ramp())
    # Whatever the label's own header says.
    patch(label, 256, "<6f", *[np.nan] * 6)
    assert len(read_volume(repair(label, tmp_path / "again", like=scan)).grids) == 1
    other = save(tmp_path / "other.nii", ramp()[1:])
    with refused(DataError, "repair.other-shape"):
        repair(other, tmp_path / "new", like=scan)


def test_channels_byte_order_and_scaling_stay(tmp_path: Path) -> None:
    values = np.stack([ramp(), ramp() + 1], axis=-1)
    image = nib.Nifti1Image(values, np.diag([1.0, 1, 2, 1]))
    nib.save(nib.Nifti1Image(values, image.affine, image.header.as_byteswapped(">")), tmp_path / "a.nii")
    patch(tmp_path / "a.nii", SCL_SLOPE, ">ff", 2, 3)
    target = repair(tmp_path / "a.nii", tmp_path / "new")
    np.testing.assert_array_equal(np.asarray(nib.load(target).dataobj), values * 2.0 + 3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(target))).T, values * 2.0 + 3)


def test_nothing_is_written_over_and_nothing_damaged_is_repaired(tmp_path: Path) -> None:
    file = save(tmp_path / "a.nii.gz", ramp())
    with refused(StateError, "repair.file-there"):
        repair(file, tmp_path)
    file.write_bytes(file.read_bytes()[:-20])
    with refused(DataError, "data.truncated"):
        repair(file, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[4] / "docs" / "reading-files.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("scan.nii.gz", "label.nii.gz", "labelsTr/case_01.nii.gz"):
        save(tmp_path / name, ramp())
    commands = re.findall(r"^pclauto (repair .*)$", page, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0
        written = Path(command.split()[-1])
        assert [file.name for file in written.iterdir()] == [Path(command.split()[1]).name]
        shutil.rmtree(written)


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    good, bad = save(tmp_path / "good.nii", ramp()), tmp_path / "bad.nii"
    bad.write_bytes(b"no NIfTI")
    files = [str(bad), str(good), str(tmp_path / "missing.nii")]
    result = CliRunner().invoke(app, ["repair", *files, "-o", str(tmp_path / "new")])
    assert isinstance(result.exception, DataError)
    assert codes(result.exception.problems) == ["nifti.not-nifti", "data.missing"]
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["good.nii"]


TURNS = [*product(permutations(range(3)), product((False, True), repeat=3))]


def oblique(shape: tuple[int, ...]) -> Grid:
    """The grid of a scan that lies askew, with three spacings."""
    angles = np.radians((10, -15, 20))
    turns = [np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) for a in angles]
    affine = np.eye(4)
    affine[:3, :3] = turns[0] @ np.roll(turns[1], 1, (0, 1)) @ np.roll(turns[2], 2, (0, 1)) @ np.diag([-0.7, -0.8, 3])
    affine[:3, 3] = 40, 31, -55
    return Grid(shape, tuple(tuple(map(float, row)) for row in affine))


@pytest.mark.parametrize("turn", TURNS)
def test_f96_a_label_along_other_axes_is_turned_onto_its_image(
    tmp_path: Path, turn: tuple[tuple[int, ...], tuple[bool, ...]]
) -> None:
    image, voxels = oblique((4, 5, 6)), np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    scan = save(tmp_path / "scan.nii", voxels, np.array(image.affine))
    axes, reverse = turn
    label = save(
        tmp_path / "label.nii.gz",
        voxels.transpose(axes)[tuple(slice(None, None, -1 if each else 1) for each in reverse)],
        np.array(image.turned(turn).affine),
    )
    # By nibabel: the voxel at a place in space is the same.
    known = {tuple(point.round(3)): value for point, value in points(nib.load(scan))}
    assert {tuple(point.round(3)): value for point, value in points(nib.load(label))} == known
    found = compare_grids(*(probe_image(file)[0] for file in (scan, label)))  # type: ignore[arg-type]
    stored_alike = turn == ((0, 1, 2), (False, False, False))
    assert codes(found) == ([] if stored_alike else ["label.other-axes"])
    assert all(f"pclauto repair {label} --like {scan} -o FOLDER" in problem.fix for problem in found)
    target = repair(label, tmp_path / "new", like=scan)
    assert compare_grids(*(probe_image(file)[0] for file in (scan, target))) == []  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.asarray(nib.load(target).dataobj), voxels)


def points(image: nib.Nifti1Image) -> Iterator[tuple[np.ndarray, int]]:
    """Every voxel of an image, by its place in mm."""
    voxels = np.asarray(image.dataobj)
    for index in np.ndindex(voxels.shape):
        yield nib.affines.apply_affine(image.affine, index), int(voxels[index])


def test_f96_nothing_is_mirrored_onto_another_file(tmp_path: Path) -> None:
    grid = oblique((4, 5, 6))
    voxels = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    scan = save(tmp_path / "scan.nii", voxels, np.array(grid.affine))
    flipped = np.array(grid.turned(((0, 1, 2), (True, True, False))).affine)
    flipped[:3, 3] += 2
    label = save(tmp_path / "label.nii", voxels, flipped)
    (problem,) = compare_grids(*(probe_image(file)[0] for file in (scan, label)))  # type: ignore[arg-type]
    assert problem.code == "label.apart"
    assert "repair" not in problem.fix
    with refused(DataError, "repair.other-axes"):
        repair(label, tmp_path / "new", like=scan)
    assert not (tmp_path / "new").exists()
    # Along the same axes it is the header that is wrong, if the two belong together.
    moved = np.array(grid.affine)
    moved[:3, 3] += 2
    label = save(tmp_path / "label.nii", voxels, moved)
    (problem,) = compare_grids(*(probe_image(file)[0] for file in (scan, label)))  # type: ignore[arg-type]
    assert "pclauto repair" in problem.fix
    np.testing.assert_array_equal(np.asarray(nib.load(repair(label, tmp_path / "moved", like=scan)).dataobj), voxels)


@pytest.mark.parametrize("place", ["no codes", "of numpy", "of SimpleITK"])
def test_f96_a_file_without_a_place_takes_that_of_another(tmp_path: Path, place: str) -> None:
    voxels = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    scan = save(tmp_path / "scan.nii", voxels, np.array(oblique((4, 5, 6)).affine))
    label = tmp_path / "label.nii"
    if place == "of SimpleITK":
        sitk.WriteImage(sitk.GetImageFromArray(voxels.T), str(label))
    else:
        save(label, voxels, np.eye(4) if place == "of numpy" else np.diag([1, 2, 3, 1]))
    if place == "no codes":
        patch(label, QFORM_SFORM_CODES, "<2h", 0, 0)
    (problem,) = compare_grids(*(probe_image(file)[0] for file in (scan, label)))  # type: ignore[arg-type]
    assert "pclauto repair" in problem.fix
    target = repair(label, tmp_path / "new", like=scan)
    np.testing.assert_array_equal(np.asarray(nib.load(target).dataobj), voxels)
    assert compare_grids(*(probe_image(file)[0] for file in (scan, target))) == []  # type: ignore[arg-type]
