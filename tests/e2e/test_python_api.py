"""The Python API from a data set to scores: the example of docs/python-api.md, run as it stands."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from shared import TINY_RECIPE, copy_of

import pcl_auto

PAGE = Path(__file__).parents[2] / "docs" / "python-api.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_page_runs_as_it_stands(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("nnUNet_")]:
        monkeypatch.delenv(name)
    copy_of(task, tmp_path / "Task05_Prostate")
    new_scan = min((task / "imagesTs").iterdir())
    (tmp_path / "new_scan.nii.gz").write_bytes(new_scan.read_bytes())
    (tmp_path / "quick.toml").write_text(TINY_RECIPE)
    said: list[str] = []
    names: dict[str, Any] = {"print": lambda *values: said.append(" ".join(map(str, values)))}
    for block in BLOCKS:
        # Only the length of the training is another one.
        exec(compile(block.replace('recipe="quick"', 'recipe="quick.toml"'), str(PAGE), "exec"), names)
    assert capfd.readouterr() == ("", "")

    planned, trained, predictions, scores = (names[name] for name in ("planned", "trained", "predictions", "scores"))
    assert planned.dataset == trained.dataset == "Dataset005_Prostate"
    assert trained.finished
    assert trained.report == trained.model / "fold_all" / "report.html"
    assert trained.report.is_file()
    assert trained.folders == (trained.model / "fold_all",)
    assert trained.split.labeled == planned.labeled
    assert [prediction.status for prediction in predictions] == ["done", "done"]
    assert {case.id for case in scores.cases} == {prediction.id for prediction in predictions}
    # The training was finished when it was asked for again: the listener heard nothing to tell.
    assert not any(line.startswith("epoch") for line in said)
    assert any(line.startswith("split.too-few-labeled") for line in said)
    for prediction in predictions:
        scan = nibabel.load(tmp_path / "Task05_Prostate" / "imagesTs" / f"{prediction.id}.nii.gz")
        mask = nibabel.load(prediction.output)
        assert mask.shape == scan.shape[:3]
        assert np.allclose(mask.affine, scan.affine, atol=1e-4)

    written = nibabel.load(tmp_path / "out" / new_scan.name)
    assert np.array_equal(names["mask"], np.asanyarray(written.dataobj).transpose())

    again = pcl_auto.predict([tmp_path / "Task05_Prostate" / "imagesTs"], tmp_path / "out")
    assert [prediction.status for prediction in again] == ["kept", "kept"]


@pytest.mark.slow
def test_the_lines_of_the_readme_run(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("nnUNet_")]:
        monkeypatch.delenv(name)
    copy_of(task, tmp_path / "Task04_Hippocampus")
    copy_of(task / "imagesTs", tmp_path / "new")
    copy_of(task / "labelsTs", tmp_path / "new_masks")
    (tmp_path / "quick.toml").write_text(TINY_RECIPE)
    readme = (PAGE.parents[1] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    said: list[float] = []
    # Only the length of the training is another one.
    short = block.replace("train(labeled=2)", 'train(labeled=2, recipe="quick.toml")')
    assert short != block
    exec(compile(short, "README.md", "exec"), {"print": said.append})
    assert 0 <= said[0] <= 1
