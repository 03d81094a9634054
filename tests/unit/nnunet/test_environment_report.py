"""Report the machine and the workspace."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pcl_auto.nnunet import environment_report
from pcl_auto.nnunet.environment_report import describe, export_line, variables
from pcl_auto.workspace.folders import Workspace


def test_the_export_line_sets_what_stock_nnunet_reads(tmp_path: Path) -> None:
    place = Workspace.at(tmp_path / "with space; and more", "test")
    shown = [f'echo "${name}"' for name in variables(place)]
    done = subprocess.run(["sh", "-c", "\n".join([export_line(place), *shown])], capture_output=True, text=True)
    assert done.stdout.splitlines() == list(variables(place).values())
    assert list(Path(variables(place)["nnUNet_extTrainer"]).glob("*.py"))


def test_the_description_is_of_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_report, "PACKAGES", ("numpy", "no-such-package"))
    facts = describe(Workspace.at(tmp_path / "work", "--workspace work"))
    assert facts["packages"]["numpy"]
    assert facts["packages"]["no-such-package"] is None
    assert facts["devices"][-1]["device"] == "cpu"
    assert facts["workspace"]["chosen_by"] == "--workspace work"
    assert facts["workspace"]["planned"] == []
    assert facts["workspace"]["free_mb"] > 0
    assert not (tmp_path / "work").exists()
