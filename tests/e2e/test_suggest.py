"""Suggest cases to label next, of a run that was trained."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from PIL import Image
from refusal import refused
from shared import model_of
from shell import Shell

from pcl_auto.annotation.suggest import Suggestion, suggest_cases
from pcl_auto.data.formats.volume import Source, read_volume
from pcl_auto.errors import NumericalError, StateError
from pcl_auto.nnunet.data import images
from pcl_auto.nnunet.data.cases import StoredCases
from pcl_auto.nnunet.inference import case_features
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.output import visible

pytestmark = pytest.mark.slow


@pytest.fixture
def run(own_trained: Path) -> Path:
    return model_of(own_trained) / "fold_all"


def suggested(own_trained: Path, run: Path, output: Path | None = None, number: int = 3) -> list[Suggestion]:
    found = suggest_cases(
        run.parent, Workspace.at(own_trained, "a test"), output, number=number, listener=lambda *_: None
    )
    return found[1]


def no_network(*_: Any, **__: Any) -> None:
    raise AssertionError("computed anew")


def test_cases_come_with_reasons_and_pictures(shell: Shell, own_trained: Path, run: Path, model: Path) -> None:
    ours = ("suggest", "--workspace", own_trained, "--model", model.name)
    told = json.loads(shell.pclauto(*ours, "-n", "3", "--json").stdout)
    folder, entries = Path(told["folder"]), told["suggestions"]
    rows = list(csv.DictReader((run / "pseudo_labels" / "round_2" / "ledger.csv").open()))
    cases = [entry["case"] for entry in entries]
    assert folder == run / "suggest"
    assert len(set(cases)) == 3
    assert set(cases) < {row["case"] for row in rows}
    for entry in entries:
        assert entry["reasons"]
        assert entry["distance"] > 0
        with Image.open(entry["picture"]) as picture:
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    assert json.loads((folder / "suggestions.json").read_text())["suggestions"] == entries
    assert [row["case"] for row in csv.DictReader((folder / "suggestions.csv").open())] == cases

    shown = shell.pclauto(*ours, "-n", "1")
    assert cases[0] in shown.stdout
    assert f"pclauto review --cases {cases[0]}" in shown.stderr
    assert {file.name for file in folder.glob("*.png")} == {f"{cases[0]}.png"}


def test_nothing_is_computed_twice(own_trained: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = suggested(own_trained, run, number=100)
    (kept,) = (run / "suggest_features").iterdir()
    files = sorted(kept.iterdir())
    assert {file.stem for file in files} > {entry.case for entry in first}
    before = files[0].read_text()
    files[0].write_text("{")  # cut off: made again
    assert suggested(own_trained, run, number=100) == first
    assert files[0].read_text() == before
    with monkeypatch.context() as patch:
        patch.setattr(case_features, "ModelPredictor", no_network)
        assert suggested(own_trained, run, number=100) == first


def test_f70_features_are_of_the_image_that_is_stored(own_trained: Path, run: Path) -> None:
    first = suggested(own_trained, run, number=100)
    (kept,) = (run / "suggest_features").iterdir()
    file = min(kept.iterdir())
    before = json.loads(file.read_text())
    for image in ("another", None):  # None: of version 0.2, which did not say
        changed = {**before, "image": image, "expected_dice": 0.0}
        file.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))
        assert suggested(own_trained, run, number=100) == first
        assert json.loads(file.read_text()) == before


def test_a_run_that_is_not_finished(own_trained: Path, run: Path) -> None:
    (run / "checkpoint_final.pth").rename(run / "checkpoint_latest.pth")
    shutil.rmtree(run / "pseudo_labels" / "round_2")
    assert len(suggested(own_trained, run)) == 3


def test_no_label_is_read(own_trained: Path, run: Path, task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    folders: list[Path] = []
    volume, opened = read_volume, StoredCases._open

    def volume_on_record(source: Source) -> Any:
        assert isinstance(source, Path)
        read.append(source)
        return volume(source)

    def open_on_record(cases: StoredCases, file: Path) -> Any:
        folders.append(file)
        return opened(cases, file)

    monkeypatch.setattr(images, "read_volume", volume_on_record)
    monkeypatch.setattr(StoredCases, "_open", open_on_record)
    suggested(own_trained, run)
    assert {file.parent for file in read} == {task / "imagesTr"}
    assert folders
    assert all({"store", "pseudo_labels"} & set(file.parts) for file in folders)


def test_what_is_no_number_is_refused_by_name(own_trained: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = nnUNetPredictor.predict_sliding_window_return_logits
    monkeypatch.setattr(
        nnUNetPredictor,
        "predict_sliding_window_return_logits",
        lambda self, image: original(self, image) * float("nan"),
    )
    with refused(NumericalError, "number.output-not-finite"):
        suggested(own_trained, run)
    assert visible(run / "suggest") == []


def test_refusals(own_trained: Path, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("one")
    with refused(StateError, "review.folder-taken"):
        suggested(own_trained, run, other)
    assert [file.name for file in other.iterdir()] == ["chapter.txt"]
    (run / "checkpoint_final.pth").unlink()
    (run / "checkpoint_latest.pth").unlink(missing_ok=True)
    with refused(StateError, "checkpoint.missing"):
        suggested(own_trained, run)
    shutil.rmtree(run / "pseudo_labels")  # as of a baseline
    with refused(StateError, "review.no-round"):
        suggested(own_trained, run)
