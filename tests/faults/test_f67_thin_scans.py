"""F67: a scan so thin that resampling would leave nothing of it is kept with one voxel, and stops no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import blosc2
import nibabel
import numpy as np
import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from refusals import image, rewrite, small_task
from tiny_model import PLANS, make_model

from pcl_auto.inference.estimate import estimate_prediction
from pcl_auto.inference.predict import Outputs, Prediction, predict
from pcl_auto.nnunet.data.thin_scans import spacing_to_keep
from pcl_auto.planning.make_plan import plan_task
from pcl_auto.planning.plan import PlanSettings
from pcl_auto.workspace.folders import Workspace


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("f67") / "model")


def scan(file: Path, shape: tuple[int, ...], spacing_mm: tuple[float, ...], inside: Any = ...) -> Path:
    """Write noise, zeros but for what is ``inside``; axes x, y, z."""
    file.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.zeros(shape, np.float32)
    voxels[inside] = np.random.default_rng(0).normal(100, 20, shape)[inside]
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*spacing_mm, 1.0])), file)
    return file


def segment(inputs: Path, output: Path, model: Path) -> dict[str, Prediction]:
    results = predict([inputs], output, model, device="cpu", mirroring=False, listener=lambda _event, _values: None)
    return {result.id: result for result in results}


# The network's voxels are of 1 mm.
THIN: dict[str, tuple[tuple[int, ...], tuple[float, ...], Any]] = {
    "a slice": ((9, 10, 1), (1, 1, 0.3), ...),
    "two slices": ((9, 10, 2), (1, 1, 0.2), ...),
    "another axis": ((9, 1, 8), (1, 0.3, 1), ...),
    "two axes": ((1, 1, 20), (0.3, 0.3, 1), ...),
    "every axis": ((2, 2, 2), (0.1, 0.1, 0.1), ...),
    "two voxels": ((2, 1, 1), (0.1, 0.1, 0.1), ...),
    "half a voxel": ((9, 10, 1), (1, 1, 0.5), ...),
    "cropped": ((9, 10, 8), (1, 1, 0.3), (slice(None), slice(None), slice(3, 4))),
}


def test_f67_thin_scans_get_masks_on_their_grids(tmp_path: Path, model: Path) -> None:
    files = {name: scan(tmp_path / "scans" / f"{name}.nii.gz", *what) for name, what in THIN.items()}
    files["usual"] = scan(tmp_path / "scans" / "usual.nii.gz", (9, 10, 8), (1, 1, 1))
    results = segment(tmp_path / "scans", tmp_path / "out", model)
    assert {name: result.error for name, result in results.items()} == dict.fromkeys(files)
    for name, result in results.items():
        mask, of = nibabel.load(str(result.output)), nibabel.load(files[name])
        assert mask.shape == of.shape
        np.testing.assert_allclose(mask.affine, of.affine, atol=1e-6)
    foreseen = estimate_prediction([tmp_path / "scans"], tmp_path / "out2", model, Outputs(), device="cpu")
    assert {entry.scan.status for entry in foreseen} == {"done"}


def test_f67_a_thin_scan_gets_the_mask_of_one_as_thick_as_a_voxel(tmp_path: Path, model: Path) -> None:
    scan(tmp_path / "scans" / "thin.nii.gz", (9, 10, 1), (1, 1, 0.3))
    scan(tmp_path / "scans" / "thick.nii.gz", (9, 10, 1), (1, 1, 1))
    results = segment(tmp_path / "scans", tmp_path / "out", model)
    thin, thick = (np.asarray(nibabel.load(str(results[name].output)).dataobj) for name in ("thin", "thick"))
    np.testing.assert_array_equal(thin, thick)


@pytest.mark.parametrize("configuration", ["auto", "2d"])
@pytest.mark.parametrize("labeled", [True, False])
def test_f67_a_thin_scan_of_a_data_set_is_stored_with_one_slice(
    tmp_path: Path, configuration: str, labeled: bool
) -> None:
    task = small_task(tmp_path, labeled=3, unlabeled=2)
    number = 1 if labeled else 4
    _, _, size, _ = nibabel.load(image(task, number)).shape
    for file in (image(task, number), *([task / "labelsTr" / image(task, number).name] if labeled else [])):
        affine = nibabel.load(file).affine.copy()
        affine[:3, 2] *= 0.1
        rewrite(file, lambda voxels: voxels[:, :, size // 2 : size // 2 + 1], affine=affine)
    workspace = Workspace.at(tmp_path / "work", "test")
    outcome = plan_task(task, workspace, PlanSettings(configuration=configuration))
    stored = {file.name: blosc2.open(str(file)).shape for file in workspace.preprocessed.rglob("phantom_*.b2nd")}
    thin = {shape for name, shape in stored.items() if name.startswith(f"phantom_{number:03d}")}
    assert {shape[1] for shape in thin} == {1}
    assert all(min(shape) > 0 for shape in stored.values())
    assert len(stored) == 2 * len(outcome.plan.cases)


def test_f67_only_what_would_vanish_is_taken_to_be_thicker() -> None:
    plans = PlansManager(PLANS)
    configuration = plans.get_configuration("3d_fullres")
    voxels = np.ones((1, 4, 1, 6), np.float32)
    for spacing_mm, expected in (
        ((1, 1, 1), (1, 1, 1)),
        ((0.2, 0.6, 0.1), (0.2, 0.6, 0.1)),
        ((0.1, 0.5, 0.05), (0.25, 1, 1 / 6)),
    ):
        assert spacing_to_keep(voxels, spacing_mm, plans, configuration) == pytest.approx(expected)
    voxels[:, 1:] = 0
    assert spacing_to_keep(voxels, (0.2, 1, 1), plans, configuration) == pytest.approx((1, 1, 1))
