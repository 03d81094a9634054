"""A dry run tells of each scan what the prediction then makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from refusal import codes
from tiny_model import make_model, make_scan

from pcl_auto.inference.estimate import estimate_prediction, mask_commands
from pcl_auto.inference.predict import Outputs, Prediction, predict
from pcl_auto.nnunet.inference import memory_demand as inference_demand


def told(scan: Prediction) -> tuple[Any, ...]:
    return scan.id, scan.output, scan.status, scan.exit_code, codes(scan.problems), scan.error, scan.slabs


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.mark.parametrize("free_mb", [10**6, 0])
def test_an_estimate_decides_as_the_prediction_does(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, free_mb: int
) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    make_scan(scans / "kept.nii.gz")
    make_scan(scans / "other.nii.gz")
    how: dict[str, Any] = {"device": "cpu", "mirroring": False}
    predict([scans], out, model, listener=lambda *_: None, **how)
    make_scan(scans / "other.nii.gz", seed=1)  # its mask is of the scan as it was
    make_scan(scans / "new.nii.gz")
    (scans / "cut.nii.gz").write_bytes((scans / "new.nii.gz").read_bytes()[:40])
    monkeypatch.setattr(inference_demand, "available_memory_mb", lambda: free_mb)
    before = sorted(out.iterdir())
    found = estimate_prediction([scans], out, model, Outputs(), **how)
    assert sorted(out.iterdir()) == before
    assert [told(entry.scan) for entry in found] == [
        told(result) for result in predict([scans], out, model, listener=lambda *_: None, **how)
    ]
    new = "done" if free_mb else "failed"
    assert [entry.scan.status for entry in found] == ["failed", "kept", new, "failed"]
    assert [entry.memory_mb is not None for entry in found] == [False, False, new == "done", False]


def test_what_a_mask_takes(tmp_path: Path, model: Path) -> None:
    scan = make_scan(tmp_path / "a.nii.gz")
    (found,) = estimate_prediction([scan], tmp_path / "out", model, Outputs(), device="cpu")
    values = found.as_dict()
    assert values["memory_mb"] > 0
    assert values["wall_s"] is not None
    assert (values["id"], values["status"]) == ("a", "done")
    assert not (tmp_path / "out").exists()
    (command,) = mask_commands(model, tmp_path / "out", device="cpu", mirroring=False)
    assert command.endswith(f"-m {model} -f all -device cpu --disable_tta")
