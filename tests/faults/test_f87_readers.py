"""F87: scans are turned as the reader that a model's plans name turns them, or the model is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from refusal import refused
from stock import stock_mask
from tiny_model import PLANS, make_model

from pcl_auto.errors import DataError, StateError
from pcl_auto.inference.predict import predict, predict_array
from pcl_auto.nnunet import trusted_plans
from pcl_auto.nnunet.data.orientation import Turn, turn_for
from pcl_auto.nnunet.inference import memory_demand
from pcl_auto.nnunet.inference.predictor import ModelPredictor
from pcl_auto.nnunet.pretrained.strict_start import refuse_other_model
from pcl_auto.workspace.files import read_json

READERS = ["NibabelIO", "NibabelIOWithReorient", "SimpleITKIO", "SimpleITKIOWithReorient"]
STORED = ["RAS", "LPS", "PIR", "ASL"]
OBLIQUE = np.array([[0.94, -0.34, 0, 0], [0.34, 0.94, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def model_with(folder: Path, reader: str, **plans: Any) -> Path:
    """A model whose network tells directions apart, and has more classes than one value."""
    torch.manual_seed(0)
    model = make_model(folder)
    (model / "plans.json").write_text(json.dumps({**PLANS, "image_reader_writer": reader, **plans}))
    return model


def scan_as(axes: str, file: Path, *, oblique: bool = False) -> Path:
    """One scan that is the same in no two directions, stored with its axes along ``axes``."""
    voxels = np.random.default_rng(3).normal(100, 20, (10, 9, 12)).astype(np.float32)
    voxels[:4] += 60
    voxels[0], voxels[:, :2] = 0, 0  # nnU-Net crops it
    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    affine[:3, 3] = 5, -7, 11
    scan: Any = nibabel.Nifti1Image(voxels, (OBLIQUE @ affine) if oblique else affine)
    scan = scan.as_reoriented(ornt_transform(io_orientation(scan.affine), axcodes2ornt(tuple(axes))))
    scan.header.set_qform(scan.affine, 1)
    scan.header.set_sform(scan.affine, 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(scan, file)
    return file


def mask_of(scan: Path, model: Path, out: Path) -> Path:
    (result,) = predict([scan], out, model, device="cpu", mirroring=False, listener=lambda *_: None)
    assert result.output is not None, result.error
    return Path(result.output)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("oblique", [False, True])
def test_f87_masks_are_those_of_stock_nnunet_for_every_reader(tmp_path: Path, reader: str, oblique: bool) -> None:
    model = model_with(tmp_path / "model", reader, transpose_forward=[1, 0, 2], transpose_backward=[1, 0, 2])
    for axes in STORED:
        scan = scan_as(axes, tmp_path / f"{axes}.nii.gz", oblique=oblique)
        ours = mask_of(scan, model, tmp_path / "out")
        theirs = stock_mask(model, [scan], tmp_path / "stock" / axes)
        found, expected = (SimpleITK.ReadImage(str(file)) for file in (ours, theirs))
        voxels = SimpleITK.GetArrayFromImage(found)
        np.testing.assert_array_equal(voxels, SimpleITK.GetArrayFromImage(expected))
        assert 0 < voxels.mean() < 1
        on_scan = SimpleITK.ReadImage(str(scan))
        for geometry in ("GetSpacing", "GetOrigin", "GetDirection"):
            here, there = (getattr(image, geometry)() for image in (found, on_scan))
            np.testing.assert_allclose(here, there, atol=1e-5)


def test_f87_masks_of_one_scan_are_the_same_however_it_is_stored_where_the_reader_turns_it(tmp_path: Path) -> None:
    in_ras = {}
    for reader in ("NibabelIO", "NibabelIOWithReorient"):
        model = model_with(tmp_path / reader, reader)
        masks: list[Any] = [
            nibabel.as_closest_canonical(
                nibabel.load(mask_of(scan_as(axes, tmp_path / f"{axes}.nii.gz"), model, tmp_path / f"{reader}_{axes}"))
            )
            for axes in STORED
        ]
        in_ras[reader] = [np.asarray(mask.dataobj) for mask in masks]
    turned = in_ras["NibabelIOWithReorient"]
    assert all((mask == turned[0]).all() for mask in turned)
    # And a network that is not the same in all directions tells the others apart.
    as_stored = in_ras["NibabelIO"]
    assert not all((mask == as_stored[0]).all() for mask in as_stored)


def test_f87_other_formats_slabs_and_arrays_are_turned_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_with(tmp_path / "model", "NibabelIOWithReorient")
    scan = scan_as("PIR", tmp_path / "a.nii.gz")
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(mask_of(scan, model, tmp_path / "out"))))
    image = SimpleITK.ReadImage(str(scan))
    SimpleITK.WriteImage(image, str(tmp_path / "b.nrrd"))
    other = SimpleITK.ReadImage(str(mask_of(tmp_path / "b.nrrd", model, tmp_path / "out_b")))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(other), expected)
    affine = nibabel.load(scan).affine
    array, spacing = SimpleITK.GetArrayFromImage(image), image.GetSpacing()[::-1]
    mask = predict_array(array, spacing, model, affine=affine, device="cpu", mirroring=False)
    np.testing.assert_array_equal(mask, expected)
    with refused(DataError, "data.no-orientation"):
        predict_array(array, spacing, model, device="cpu", mirroring=False)
    predictor = ModelPredictor(model, torch.device("cpu"), mirroring=False)
    whole = predictor.segment([scan])
    np.testing.assert_array_equal(whole.mask, expected)
    # In a slab a network sees less around the cut; that the axes are right shows in how little that changes.
    monkeypatch.setattr(memory_demand.InferenceDemand, "slabs_that_fit", lambda *_: 2)
    cut = predictor.segment([scan])
    assert (cut.mask.shape, cut.slabs) == (expected.shape, 2)
    assert (cut.mask == expected).mean() > 0.8


@pytest.mark.parametrize("reader", ["NibabelIO", "NibabelIOWithReorient"])
def test_f87_a_file_that_nibabel_and_itk_read_in_two_ways_is_refused(tmp_path: Path, reader: str) -> None:
    model = model_with(tmp_path / "model", reader)
    scan: Any = nibabel.load(scan_as("RAS", tmp_path / "a.nii.gz"))
    scan.header.set_sform(
        np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.affine, 2
    )  # the qform says something else, which ITK takes
    nibabel.save(nibabel.Nifti1Image(np.asarray(scan.dataobj), None, scan.header), tmp_path / "b.nii.gz")
    (result,) = predict(
        [tmp_path / "b.nii.gz"], tmp_path / "out", model, device="cpu", mirroring=False, listener=lambda *_: None
    )
    assert (result.status, result.exit_code) == ("failed", 3)
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_f87_two_readings_are_both_named(tmp_path: Path) -> None:
    predictor = ModelPredictor(model_with(tmp_path / "model", "NibabelIO"), torch.device("cpu"))
    scan = scan_as("RAS", tmp_path / "a.nii.gz")
    image, properties = _read(scan)
    properties["sitk_stuff"] = {**properties["sitk_stuff"], "spacing": (1.0, 1.5, 2.5)}
    from pcl_auto.nnunet.data.orientation import require_nibabels_view

    require_nibabels_view("SimpleITKIO", [scan], image.shape[1:], properties)
    with refused(DataError, "data.two-readings") as refusal:
        require_nibabels_view("NibabelIO", [scan], image.shape[1:], properties)
    assert refusal.problem.where == str(scan)
    assert predictor.channels == 1


def _read(scan: Path) -> tuple[np.ndarray, dict[str, Any]]:
    from pcl_auto.nnunet.data.images import read_image

    return read_image([scan])


@pytest.mark.parametrize("reader", ["Tiff3DIO", "NaturalImage2DIO"])
def test_f87_a_model_of_pictures_is_refused(tmp_path: Path, reader: str) -> None:
    with refused(StateError, "model.reader") as refusal:
        ModelPredictor(model_with(tmp_path / "model", reader), torch.device("cpu"))
    assert refusal.problem.found == reader


def test_f87_a_training_does_not_start_from_a_model_of_scans_that_are_turned(tmp_path: Path) -> None:
    model = model_with(tmp_path / "model", "NibabelIOWithReorient")
    checkpoint, description = model / "fold_all" / "checkpoint_final.pth", read_json(model / "dataset.json")
    with refused(StateError, "model.start-differs") as refusal:
        refuse_other_model(checkpoint, PLANS, "3d_fullres", description)
    assert (refusal.problem.expected, refusal.problem.found) == ("as stored", "to RAS")
    refuse_other_model(
        checkpoint, {**PLANS, "image_reader_writer": "SimpleITKIOWithReorient"}, "3d_fullres", description
    )


def test_f87_every_reader_of_nnunet_is_known() -> None:
    from nnunetv2.imageio import reader_writer_registry, simpleitk_reader_writer  # noqa: F401
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

    def below(kind: type) -> set[str]:
        subclasses: list[type] = kind.__subclasses__()
        return {name for subclass in subclasses for name in (subclass.__name__, *below(subclass))}

    theirs = {name for name in below(BaseReaderWriter) if "IO" in name}
    assert theirs == trusted_plans.READERS
    assert theirs > trusted_plans.READERS_AS_STORED | trusted_plans.READERS_TO_RAS == set(READERS)


def test_f87_a_turn_is_nibabels_and_goes_back() -> None:
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)  # x, y, z
    for axes in ["RAS", "LPS", "PIR", "ASL", "SRA", "IPL"]:
        image = nibabel.Nifti1Image(array.astype(np.int16), np.eye(4))
        stored: Any = image.as_reoriented(ornt_transform(io_orientation(np.eye(4)), axcodes2ornt(tuple(axes))))
        to_lps = np.diag([-1, -1, 1]) @ stored.affine[:3, :3]
        voxels = np.asarray(stored.dataobj).transpose()
        for reader in trusted_plans.READERS_TO_RAS:
            turn = turn_for(reader, {"sitk_stuff": {"direction": tuple(to_lps.flatten())}}, "a")
            np.testing.assert_array_equal(turn.forth(voxels), array.transpose())
            np.testing.assert_array_equal(turn.forth(voxels[None])[0], array.transpose())
            np.testing.assert_array_equal(turn.back(turn.forth(voxels)), voxels)
            assert turn.of_lengths(voxels.shape) == [4, 3, 2]
        assert turn_for("SimpleITKIO", {}, "a") == Turn()
