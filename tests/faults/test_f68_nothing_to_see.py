"""F68: scans of one value, or of values that nnU-Net cannot normalize, are refused by all that reads scans."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from refusal import codes, refused
from refusals import image, refusal, rewrite, small_task
from scanner import write_series
from tiny_model import make_model

from pcl_auto.data.checks.check_dataset import diagnose
from pcl_auto.data.formats.usable_voxels import MAX_INTENSITY, MIN_DEVIATION, Spread, refuse_unusable
from pcl_auto.errors import DataError
from pcl_auto.inference.estimate import estimate_prediction
from pcl_auto.inference.predict import Outputs, predict, predict_array

SHAPE = (6, 12, 10)
LARGEST = float(np.finfo(np.float32).max)
CONSTANT, LARGE, SMALL = "data.constant", "data.intensities-too-large", "data.intensities-too-small"


def noise(scale: float, dtype: type = np.float32) -> np.ndarray:
    return (np.random.default_rng(0).uniform(0.1, 1, SHAPE) * scale).astype(dtype)


SCANS: dict[str, tuple[Callable[[], np.ndarray], str]] = {
    "zeros": (lambda: np.zeros(SHAPE, np.float32), CONSTANT),
    "sevens": (lambda: np.full(SHAPE, 7, np.float32), CONSTANT),
    "the largest number": (lambda: np.full(SHAPE, LARGEST, np.float32), CONSTANT),
    "one in 32 bits": (lambda: 1e9 + noise(1, np.float64), CONSTANT),
    "1e30": (lambda: noise(1e30), LARGE),
    "up to the largest number": (lambda: noise(LARGEST), LARGE),
    "one of -1e30": (lambda: np.where(noise(1) == noise(1).max(), -1e30, noise(1)).astype(np.float32), LARGE),
    "1e-42": (lambda: noise(1e-42), SMALL),
    "1e-12": (lambda: noise(1e-12), SMALL),
    "all but 0 in 32 bits": (lambda: noise(1e-60, np.float64), CONSTANT),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("f68") / "model")


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_f68_such_a_scan_gets_no_mask_and_the_others_do(tmp_path: Path, model: Path, name: str, ending: str) -> None:
    make, code = SCANS[name]
    scans = tmp_path / "scans"
    scans.mkdir()
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(make()), str(scans / f"bad{ending}"))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(noise(100)), str(scans / f"good{ending}"))
    bad, good = predict(
        [scans], tmp_path / "out", model, device="cpu", mirroring=False, listener=lambda _event, _values: None
    )
    assert (bad.status, bad.exit_code, codes(bad.problems)) == ("failed", 3, [code])
    assert str(scans / f"bad{ending}") in bad.problems[0].where
    assert good.status == "done"
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["good.nii.gz"]
    foreseen, _ = estimate_prediction([scans], tmp_path / "out2", model, Outputs(), device="cpu", mirroring=False)
    assert (foreseen.scan.status, codes(foreseen.scan.problems)) == ("failed", [code])
    with refused(DataError, code):
        predict_array(make(), (1, 1, 1), model, device="cpu", mirroring=False)


def test_f68_a_dicom_series_of_one_value(tmp_path: Path, model: Path) -> None:
    write_series(tmp_path / "scan", np.full(SHAPE, 7, np.int16))
    (result,) = predict(
        [tmp_path / "scan"], tmp_path / "out", model, device="cpu", listener=lambda _event, _values: None
    )
    assert (result.exit_code, codes(result.problems)) == (3, [CONSTANT])


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("channel", [0, 1])
def test_f68_every_channel_is_looked_at(tmp_path: Path, name: str, channel: int) -> None:
    make, code = SCANS[name]
    voxels = np.stack([noise(100), noise(50)])
    voxels[channel] = make()
    with refused(DataError, code) as caught:
        refuse_unusable(voxels, "scan")
    assert f"channel {channel}" in caught.problem.found
    task = small_task(tmp_path)
    file = image(task)
    plane = nibabel.load(file)
    volume = np.asanyarray(plane.dataobj).astype(np.float64)
    volume[..., channel] = np.resize(make(), volume.shape[:3])
    rewrite(file, lambda _voxels: volume)
    found = refusal(task)
    assert [(problem.code, problem.where) for problem in found] == [(code, str(file))]


def test_f68_check_names_such_test_scans(tmp_path: Path) -> None:
    task = small_task(tmp_path, labeled=2, unlabeled=1, test=2)
    first, second = sorted((task / "imagesTs").iterdir())
    rewrite(first, np.zeros_like)
    rewrite(second, lambda voxels: voxels * np.float32(1e30), dtype=np.float32)
    warnings = {problem.where: problem.code for problem in diagnose(task, threads=1).warnings}
    assert (warnings[str(first)], warnings[str(second)]) == (CONSTANT, LARGE)


@pytest.mark.parametrize("parts", [1, 3])
def test_f68_the_spread_is_that_of_all_values_together(parts: int) -> None:
    values = np.random.default_rng(1).normal(1e5, 3, 3000).astype(np.float32)
    spread = Spread()
    for part in np.array_split(values, parts):
        spread.add(part)
    assert (spread.low, spread.high) == (values.min(), values.max())
    assert spread.deviation == pytest.approx(values.astype(np.float64).std(), rel=1e-9)


def test_f68_what_nnunet_normalizes_is_accepted() -> None:
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization

    for scale in (MAX_INTENSITY, 1e6, 1, 10 * MIN_DEVIATION):
        voxels = noise(scale)[None]
        refuse_unusable(voxels, "scan")
        normalized = ZScoreNormalization(use_mask_for_norm=False, intensityproperties={}).run(voxels[0])
        assert normalized.std() == pytest.approx(1, rel=1e-3)
