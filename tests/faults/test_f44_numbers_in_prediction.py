"""F44: a network whose output is no number writes no mask, and the case says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_model import make_model, make_scan
from typer.testing import CliRunner

from pcl_auto.cli.main import app
from pcl_auto.inference.predict import predict

# A finite weight: where patches overlap, the sum of what it gives is not.
OVERFLOWING = 3e38


@pytest.mark.parametrize("weight", [OVERFLOWING, -OVERFLOWING])
def test_f44_a_case_without_numbers_fails_and_writes_nothing(tmp_path: Path, weight: float) -> None:
    model, scan, out = make_model(tmp_path / "model", weight=weight), make_scan(tmp_path / "a.nii.gz"), tmp_path / "out"
    (result,) = predict([scan], out, model, device="cpu", mirroring=False, listener=lambda _event, _values: None)
    assert (result.status, result.exit_code) == ("failed", 7)
    assert [(problem.code, problem.where) for problem in result.problems] == [("number.output-not-finite", str(scan))]
    assert result.error == str(result.problems[0])
    assert list(out.glob("*.nii.gz")) == []


def test_f44_the_command_ends_with_7(tmp_path: Path) -> None:
    model, scan = make_model(tmp_path / "model", weight=OVERFLOWING), make_scan(tmp_path / "a.nii.gz")
    arguments = ["predict", str(scan), "-o", str(tmp_path / "out"), "--model", str(model), "--device", "cpu"]
    assert CliRunner().invoke(app, arguments).exit_code == 7
    # Of several kinds of failures the lowest code is told.
    (tmp_path / "b.nii.gz").write_bytes(b"no scan")
    assert CliRunner().invoke(app, [*arguments[:1], str(tmp_path / "b.nii.gz"), *arguments[1:]]).exit_code == 3


def test_f44_an_ordinary_network_writes_its_mask(tmp_path: Path) -> None:
    model, scan, out = make_model(tmp_path / "model"), make_scan(tmp_path / "a.nii.gz"), tmp_path / "out"
    (result,) = predict([scan], out, model, device="cpu", mirroring=False, listener=lambda _event, _values: None)
    assert (result.status, result.exit_code) == ("done", 0)
    assert (out / "a.nii.gz").is_file()
