"""Real decathlon data, where the machine has it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from painted import paint_labels
from shared import PLAN_OPTIONS
from shell import Shell

pytestmark = pytest.mark.slow


def test_hippocampus_is_planned(shell: Shell, real_data: Path, tmp_path: Path) -> None:
    facts = json.loads(
        shell.pclauto("plan", real_data / "Task04_Hippocampus", "--workspace", tmp_path, "--dry-run", "--json").stdout
    )
    chosen = facts["configurations"]["3d_fullres"]
    assert chosen["patch_voxels"] == [40, 56, 40]
    assert chosen["stages"] == 4
    assert "3d_lowres" not in facts["configurations"]
    assert len(facts["labeled"]) == 120


# A case takes seconds to paint and to prepare, and a minute each time it is segmented.
@pytest.mark.parametrize(("cases", "labeled"), [(4, 4), pytest.param(32, 30, marks=pytest.mark.soak)])
def test_prostate_geometry_plans_and_trains(
    shell: Shell, real_data: Path, tmp_path: Path, cases: int, labeled: int
) -> None:
    source = real_data / "Task05_Prostate_geometry"
    description = json.loads((source / "dataset.json").read_text())
    # The most common spacing first.
    training = sorted(description["training"], key=lambda entry: abs(in_plane_mm(source, entry["label"]) - 0.625))
    description["training"] = training[:cases]
    task = paint_labels(source / "labelsTr", description, tmp_path / "Task05_Prostate")
    workspace = tmp_path / "work"
    facts = json.loads(shell.pclauto("plan", task, "--workspace", workspace, *PLAN_OPTIONS, "--json").stdout)
    chosen = facts["configurations"]["3d_fullres"]
    np.testing.assert_allclose(chosen["spacing_mm"], [3.6, 0.625, 0.625], rtol=1e-3)
    assert len(facts["labeled"]) == cases
    recipe = tmp_path / "steps.toml"
    recipe.write_text(
        (shell.folder / "tiny.toml").read_text()
        .replace("steps_per_epoch = 2", "steps_per_epoch = 1")
        .replace("epochs_per_round = 2", "epochs_per_round = 1")
        .replace("supervised_epochs = 2", "supervised_epochs = 1")
        .replace("rounds = 2", "rounds = 1")
    )  # fmt: skip
    done = shell.train("--workspace", workspace, "--labeled", labeled, "--recipe", recipe, "--json")
    trained = json.loads(done.stdout)
    assert trained["finished"]
    assert len(trained["split"]["hidden"]) == cases - labeled


def in_plane_mm(source: Path, label: str) -> float:
    (file,) = (source / "labelsTr").glob(f"{Path(label).name}*")
    return float(nibabel.load(file).header.get_zooms()[0])
