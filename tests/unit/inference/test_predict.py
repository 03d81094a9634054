"""Predict with a stub of a network: which model, which scans, and what becomes of each."""

from __future__ import annotations

import errno
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest
from refusal import codes, refused
from typer.testing import CliRunner

from pcl_auto.cli.main import app
from pcl_auto.data.formats.scans import list_scans
from pcl_auto.data.formats.volume import read_volume
from pcl_auto.errors import Problem, ResourceError, StateError, UsageError
from pcl_auto.inference import predict as module
from pcl_auto.inference.mask_record import RECORD
from pcl_auto.inference.predict import Outputs, Prediction, predict
from pcl_auto.method.confidence import Reference
from pcl_auto.training import find_model  # noqa: F401 (needs what is stubbed below, whichever test comes first)
from pcl_auto.workspace.files import read_json
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.output import visible


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "work", "test")


# The smallest file that is sound.
NRRD = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 1 1 1\nencoding: raw\n\n\x07"


def files(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(NRRD if name.endswith(".nrrd") else b"voxels")
    return [folder / name for name in names]


# --- what becomes of them -------------------------------------------------------------------------------------


class StubPredictor:
    """Segments every scan but those called bad."""

    def __init__(self, model: Path, device: Any, *, mirroring: bool) -> None:
        self.channels = 1
        self.classes = {"tumor": (1,)}
        self.reference = Reference(tuple(np.linspace(0.8, 0.98, 20)), {"tumor": (0.01, 0.1)})

    def segment(
        self, files: Sequence[Path], *, confidence: bool
    ) -> tuple[np.ndarray, dict[str, Any], float | None, int, tuple[str, ...]]:
        if "bad" in files[0].name:
            raise RuntimeError("cannot read this")
        if "damaged" in files[0].name:
            read_volume(files[0])
        if "large" in files[0].name:
            raise ResourceError(Problem("memory.too-small", "too large", files[0].name, "more memory"))
        slabs = 3 if "tall" in files[0].name else 1
        sure = (0.5 if "odd" in files[0].name else 0.9) if confidence and slabs == 1 else None
        properties = {"sitk_stuff": {"spacing": (1, 2, 5)}, "of": f"mask of {files[0].name}"}
        remarks = ("channels 0 and 1 are the same",) if "twin" in files[0].name else ()
        return np.ones((2, 2, 2), np.uint8), properties, sure, slabs, remarks


def write_stub_mask(mask: np.ndarray, file: Path, properties: dict[str, Any]) -> None:
    """Write a small mask that says what it is in its header."""
    image = nibabel.Nifti1Image(mask, np.eye(4))
    image.header["descrip"] = properties["of"]
    nibabel.save(image, file)


def read_stub_mask(file: Path) -> str:
    return str(nibabel.load(file).header["descrip"].item().decode())


@pytest.fixture(autouse=True)
def stub_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the modules that import torch and nnunetv2."""
    stubs: dict[str, dict[str, Any]] = {
        "inference.predictor": {"ModelPredictor": StubPredictor},
        "data.images": dict.fromkeys(("read_image", "read_label")) | {"write_mask": write_stub_mask},
    }
    for name, content in stubs.items():
        stub = ModuleType(f"pcl_auto.nnunet.{name}")
        vars(stub).update(content)
        monkeypatch.setitem(sys.modules, stub.__name__, stub)
    monkeypatch.setattr(module, "choose_device", str)
    monkeypatch.setattr(module, "prepare_environment", lambda: None)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (checkpoint,) = files(tmp_path / "model" / "fold_all", "checkpoint_final.pth")
    return checkpoint.parent.parent


def segment(inputs: list[Path], output: Path, model: Path, **options: Any) -> dict[str, str]:
    results = predict(inputs, output, model, listener=lambda _event, _values: None, **options)
    return {result.id: result.status for result in results}


def test_scans_are_never_written_over(tmp_path: Path, model: Path) -> None:
    given = files(tmp_path / "scans", "a.nii.gz", "b_0000.nrrd")
    (tmp_path / "link").symlink_to(tmp_path / "scans")
    for output in (tmp_path / "scans", tmp_path / "link"):
        for overwrite in (False, True):
            with refused(UsageError, "predict.masks-among-scans"):
                segment([tmp_path / "scans"], output, model, overwrite=overwrite)
    assert sorted((tmp_path / "scans").iterdir()) == given
    assert [path.read_bytes() for path in given] == [b"voxels", NRRD]


def test_a_scan_that_a_link_leads_to_is_not_written_over(tmp_path: Path, model: Path) -> None:
    (scan,) = files(tmp_path / "out", "a.nrrd")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "b.nrrd").symlink_to(scan)
    with refused(UsageError, "predict.masks-among-scans"):
        segment([tmp_path / "scans"], tmp_path / "out", model, overwrite=True)
    assert scan.read_bytes() == NRRD


def test_masks_in_a_folder_among_the_scans_are_no_scans(tmp_path: Path, model: Path) -> None:
    files(tmp_path / "scans", "a.nrrd")
    for status in ("done", "kept"):
        # As in `predict . -o out`.
        assert segment([tmp_path / "scans"], tmp_path / "scans" / "out", model) == {"a": status}
        files(tmp_path / "scans" / "out", "_0000.nrrd")  # would be a channel of a scan
    with refused(UsageError, "predict.masks-among-scans"):
        segment(files(tmp_path / "scans" / "out", "z.nrrd"), tmp_path / "scans" / "out", model)


@pytest.mark.parametrize("folder", ["Task01_A/labelsTs", "Task01_A", "model/masks"])
def test_inputs_of_others_are_no_output(tmp_path: Path, model: Path, folder: str) -> None:
    for file in ("Task01_A/dataset.json", "model/dataset.json", "model/plans.json"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    (label,) = files(tmp_path / "Task01_A" / "labelsTs", "a.nii.gz")
    given = files(tmp_path / "Task01_A" / "imagesTs", "a.nrrd")
    for overwrite in (False, True):
        with refused(UsageError, "output.input-folder"):
            segment(given, tmp_path / folder, model, overwrite=overwrite)
    assert label.read_bytes() == b"voxels"


def test_masks_of_another_model_are_not_mixed_with(tmp_path: Path, model: Path) -> None:
    given, output = files(tmp_path / "scans", "a.nrrd"), tmp_path / "out"
    segment(given, output, model)
    (other,) = files(tmp_path / "other" / "fold_all", "checkpoint_final.pth")
    with refused(StateError, "predict.masks-of-another-model") as refusal:
        segment(given, output, other.parent.parent)
    problem = refusal.problem
    assert problem.expected == f"{other.parent.parent}, fold_all"
    assert problem.found == f"1 (a.nii.gz, …) of {model}"
    assert segment(given, output, other.parent.parent, overwrite=True) == {"a": "done"}
    assert read_json(output / RECORD)["model"] == str(other.parent.parent)


def test_f73_a_model_that_is_exchanged_as_it_is_loaded_makes_no_masks(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, output = files(tmp_path / "scans", "a.nrrd"), tmp_path / "out"

    class SlowPredictor(StubPredictor):
        def __init__(self, model: Path, device: Any, *, mirroring: bool) -> None:
            super().__init__(model, device, mirroring=mirroring)
            (model / "fold_all" / "checkpoint_final.pth").write_bytes(b"others")

    monkeypatch.setattr(sys.modules["pcl_auto.nnunet.inference.predictor"], "ModelPredictor", SlowPredictor)
    with refused(StateError, "model.changed-meanwhile"):
        segment(given, output, model)
    assert not output.exists()
    segment(given, output, model)  # which has changed before, not meanwhile


def test_f73_a_model_that_is_exchanged_after_it_was_loaded_is_not_the_one_on_record(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, output = files(tmp_path / "scans", "a.nrrd"), tmp_path / "out"
    found = list_scans

    def train_meanwhile(*args: Any) -> Any:
        (model / "fold_all" / "checkpoint_final.pth").write_bytes(b"others")
        return found(*args)

    monkeypatch.setattr(module, "list_scans", train_meanwhile)
    segment(given, output, model)
    (recorded,) = read_json(output / RECORD)["checkpoints"].values()
    assert recorded[-1] == hashlib.sha256(b"voxels").hexdigest()
    with refused(StateError, "predict.masks-of-older-model"):
        segment(given, output, model)


def test_replacing_some_masks_leaves_none_of_another_model(tmp_path: Path, model: Path) -> None:
    given, output = files(tmp_path / "scans", "a.nrrd", "b.nrrd"), tmp_path / "out"
    segment(given, output, model)
    (other,) = files(tmp_path / "other" / "fold_all", "checkpoint_final.pth")
    with refused(StateError, "predict.masks-of-another-model") as refusal:
        segment(given[:1], output, other.parent.parent, overwrite=True)
    assert refusal.problem.found.startswith("1 (b.nii.gz")
    assert read_json(output / RECORD)["model"] == str(model)


def test_masks_that_nobody_signed_are_not_mixed_with(tmp_path: Path, model: Path) -> None:
    files(tmp_path / "out", "a.nii.gz")
    with refused(StateError, "predict.masks-of-another-model") as refusal:
        segment(files(tmp_path / "scans", "b.nrrd"), tmp_path / "out", model)
    assert refusal.problem.found.endswith("of an unknown one")
    assert [path.name for path in visible(tmp_path / "out")] == ["a.nii.gz"]


@pytest.mark.parametrize("change", ["trained again", "without mirroring"])
def test_masks_of_the_same_folder_made_otherwise(tmp_path: Path, model: Path, change: str) -> None:
    given = files(tmp_path / "scans", "a.nrrd")
    segment(given, tmp_path / "out", model)
    if change == "trained again":
        (model / "fold_all" / "checkpoint_final.pth").write_bytes(b"others")
    told = {
        "trained again": "predict.masks-of-older-model",
        "without mirroring": "predict.masks-mirrored-otherwise",
    }
    with refused(StateError, told[change]):
        segment(given, tmp_path / "out", model, mirroring=change != "without mirroring")


def test_nothing_is_written_where_there_is_nothing_to_segment(tmp_path: Path, model: Path) -> None:
    with refused(UsageError, "data.no-such-path"):
        segment([tmp_path / "none.nii.gz"], tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


def test_a_bad_scan_does_not_stop_the_others(tmp_path: Path, model: Path) -> None:
    given, output = files(tmp_path / "scans", "a.nrrd", "bad.nrrd", "c.nrrd"), tmp_path / "out"
    heard: list[dict[str, Any]] = []
    results = predict(given, output, model, listener=lambda _event, values: heard.append(values))
    assert [result.status for result in results] == ["done", "failed", "done"]
    # A fault of the program is no problem of the user's.
    assert results[1] == Prediction("bad", None, "failed", "cannot read this", exit_code=1, problems=())
    assert read_stub_mask(output / "a.nii.gz") == "mask of a.nrrd"
    assert sorted(path.name for path in visible(output)) == ["a.nii.gz", "c.nii.gz", RECORD]
    assert heard[0].keys() == {"device"}
    assert heard[1:] == [{"done": done, "total": 3} for done in (1, 2, 3)]


def test_a_scan_too_large_for_the_memory_does_not_stop_the_others(tmp_path: Path, model: Path) -> None:
    given = files(tmp_path / "scans", "a.nrrd", "large.nrrd", "z.nrrd")
    results = predict(given, tmp_path / "out", model, listener=lambda _event, _values: None)
    assert [(result.status, result.exit_code) for result in results] == [("done", 0), ("failed", 5), ("done", 0)]
    assert [codes(result.problems) for result in results] == [[], ["memory.too-small"], []]


def test_a_failed_scan_comes_with_its_problems(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = [*files(tmp_path / "scans", "a_damaged.nii.gz"), *files(tmp_path / "scans", "bad.nrrd", "c.nrrd")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pcl_auto.nnunet.environment.choose_device", str)
    command = ["predict", *map(str, given), "-o", "out", "--model", str(model), "--json"]
    (model / "plans.json").touch()
    assert CliRunner().invoke(app, command).exit_code == 1
    told = json.loads(capfd.readouterr().out)
    assert [[problem["code"] for problem in case["problems"]] for case in told["cases"]] == [
        ["nifti.not-nifti"], [], [],
    ]  # fmt: skip
    damaged = told["cases"][0]
    assert damaged["error"] == str(Problem(**damaged["problems"][0]))
    assert told["cases"][1]["error"] == "cannot read this"


def test_what_the_system_refuses_for_one_scan_is_told_as_that(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "a.nrrd")

    monkeypatch.setattr(StubPredictor, "segment", refuse)
    (result,) = predict(
        files(tmp_path / "scans", "a.nrrd"), tmp_path / "out", model, listener=lambda _event, _values: None
    )
    assert (result.status, result.exit_code, codes(result.problems)) == ("failed", 5, ["disk.not-permitted"])


def test_a_mask_of_another_scan_stays(tmp_path: Path, model: Path) -> None:
    first, second = (files(tmp_path / name, "a.nrrd") for name in ("one", "two"))
    assert segment(first, tmp_path / "out", model) == {"a": "done"}
    (result,) = predict(second, tmp_path / "out", model, listener=lambda _event, _values: None)
    assert (result.status, codes(result.problems)) == ("failed", ["predict.mask-of-other-scan"])
    assert segment(second, tmp_path / "out", model, overwrite=True) == {"a": "done"}


def test_volumes_are_told_and_remembered(tmp_path: Path, model: Path) -> None:
    given, output = files(tmp_path / "scans", "a.nrrd"), tmp_path / "out"
    for status in ("done", "kept"):
        (result,) = predict(given, output, model, listener=lambda _event, _values: None)
        # 8 voxels of 10 cubic millimeters
        assert (result.status, result.volumes_ml) == (status, {"tumor": 0.08})
    assert read_json(output / RECORD)["scans"]["a"]["volumes_ml"] == {"tumor": 0.08}


def test_quality_is_told_and_remembered(tmp_path: Path, model: Path) -> None:
    given, output = files(tmp_path / "scans", "a.nrrd", "odd.nrrd"), tmp_path / "out"
    for _ in range(2):  # made, and kept
        sure, odd = (result.quality for result in predict(given, output, model, listener=lambda _event, _values: None))
        assert sure is not None
        assert odd is not None
        assert (sure["confidence"], sure["review"], sure["reasons"]) == (0.9, False, [])
        assert (odd["confidence"], odd["review"], odd["percentile"]) == (0.5, True, 0)
    (left_out, _) = predict(
        given, tmp_path / "fast", model, outputs=Outputs(quality=False), listener=lambda _event, _values: None
    )
    assert left_out.quality is None


def test_f102_what_is_odd_about_a_scan_is_worth_a_look(tmp_path: Path, model: Path) -> None:
    given, output = files(tmp_path / "scans", "twin.nrrd"), tmp_path / "out"
    (result,) = predict(given, output, model, listener=lambda _event, _values: None)
    assert result.quality is not None
    assert (result.quality["review"], result.quality["reasons"]) == (True, ["channels 0 and 1 are the same"])


def test_a_scan_in_slabs_is_judged_by_its_volumes_alone(tmp_path: Path, model: Path) -> None:
    given, output = files(tmp_path / "scans", "tall.nrrd"), tmp_path / "out"
    for status in ("done", "kept"):
        (result,) = predict(given, output, model, listener=lambda _event, _values: None)
        assert (result.status, result.slabs) == (status, 3)
        assert result.quality is not None
        assert (result.quality["confidence"], result.quality["certainty"]) == (None, None)
        assert (result.quality["review"], result.quality["reasons"]) == (False, [])


def test_masks_of_the_same_model_are_kept(tmp_path: Path, model: Path) -> None:
    given, output = files(tmp_path / "scans", "a.nrrd", "b.nrrd"), tmp_path / "out"
    assert segment(given[:1], output, model) == {"a": "done"}
    write_stub_mask(np.ones((2, 2, 2), np.uint8), output / "a.nii.gz", {"of": "corrected by hand"})
    assert segment(given, output, model) == {"a": "kept", "b": "done"}
    assert read_stub_mask(output / "a.nii.gz") == "corrected by hand"


def test_a_mask_that_was_corrected_by_hand_is_not_replaced_and_told(tmp_path: Path, model: Path) -> None:
    given, output = files(tmp_path / "scans", "a.nrrd", "b.nrrd"), tmp_path / "out"
    segment(given, output, model)
    write_stub_mask(np.ones((2, 2, 2), np.uint8), output / "a.nii.gz", {"of": "corrected by hand"})
    for overwrite, statuses, exit_code in ((False, ["kept", "kept"], 0), (True, ["failed", "done"], 4)):
        results = predict(given, output, model, overwrite=overwrite, listener=lambda _event, _values: None)
        assert [result.status for result in results] == statuses
        assert (codes(results[0].problems), results[0].exit_code) == (["predict.mask-edited"], exit_code)
        # What was known of the mask before is not known of this one.
        assert (results[0].volumes_ml, results[0].quality) == (None, None)
        assert read_stub_mask(output / "a.nii.gz") == "corrected by hand"


@pytest.mark.parametrize("left", [0, 30])
def test_f40_a_mask_that_was_cut_is_made_again(tmp_path: Path, model: Path, left: int) -> None:
    given, output = files(tmp_path / "scans", "a.nrrd", "b.nrrd"), tmp_path / "out"
    segment(given, output, model)
    cut = output / "a.nii.gz"
    cut.write_bytes(cut.read_bytes()[:left])
    assert segment(given, output, model) == {"a": "done", "b": "kept"}
    assert read_stub_mask(cut) == "mask of a.nrrd"


def test_a_full_disk_ends_a_prediction(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = files(tmp_path / "scans", "a.nrrd", "b.nrrd")

    def full(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(sys.modules["pcl_auto.nnunet.data.images"], "write_mask", full)
    with refused(ResourceError, "disk.full") as refusal:
        segment(given, tmp_path / "out", model)
    assert refusal.problem.where.endswith("a.nii.gz")
    assert [path.name for path in visible(tmp_path / "out")] == [RECORD]
