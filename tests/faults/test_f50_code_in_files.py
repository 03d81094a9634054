"""F50: no checkpoint, pickle or array file that we read runs code."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from refusal import refused
from tiny_model import Canary, make_model, make_scan

from pcl_auto.errors import StateError
from pcl_auto.inference.predict import predict
from pcl_auto.nnunet.checkpoint_files import read_checkpoint
from pcl_auto.nnunet.data.cases import StoredCases, read_properties
from pcl_auto.nnunet.data.store import save_label
from pcl_auto.nnunet.data.store_records import case_files
from pcl_auto.nnunet.inference.predictor import ModelPredictor
from pcl_auto.nnunet.pretrained.strict_start import refuse_other_model
from pcl_auto.nnunet.training import save_and_resume
from pcl_auto.nnunet.training.round_guard import RoundGuard
from pcl_auto.recipe.settings import Recipe, Schedule
from pcl_auto.workspace.files import read_json, write_json

SHAPE = (4, 4, 4)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def poison(file: Path, canary: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"network_weights": {}, "init_args": {"configuration": "3d_fullres"}, "x": Canary(canary)}, file)
    return file


def test_f50_the_canary_would_sing(tmp_path: Path, canary: Path) -> None:
    torch.load(poison(tmp_path / "bad.pth", canary), weights_only=False)
    assert canary.exists()


def test_f50_prediction(tmp_path: Path, canary: Path) -> None:
    model, scan = make_model(tmp_path / "model"), make_scan(tmp_path / "a.nii.gz")
    poison(model / "fold_all" / "checkpoint_final.pth", canary)
    with refused(StateError, "checkpoint.unreadable") as refusal:
        predict([scan], tmp_path / "out", model, device="cpu", listener=lambda _event, _values: None)
    assert refusal.problem.where.endswith("checkpoint_final.pth")
    assert not canary.exists()
    assert not (tmp_path / "out").exists()


def test_f50_pickles_beside_a_model_are_not_opened(tmp_path: Path, canary: Path) -> None:
    model, scan = make_model(tmp_path / "model"), make_scan(tmp_path / "a.nii.gz")
    bad = pickle.dumps(Canary(canary))
    for name in ("postprocessing.pkl", "dataset_fingerprint.pkl", "fold_all/a.pkl", "fold_all/postprocessing.pkl"):
        (model / name).write_bytes(bad)
    np.savez(model / "fold_all" / "a.npz", probabilities=np.array([Canary(canary)], dtype=object))
    (result,) = predict([scan], tmp_path / "out", model, device="cpu", listener=lambda _event, _values: None)
    assert result.status == "done"
    assert not canary.exists()


@pytest.mark.parametrize("name", ["checkpoint_latest.pth", "checkpoint_previous.pth", "checkpoint_final.pth"])
def test_f50_resuming(tmp_path: Path, canary: Path, name: str) -> None:
    trainer: Any = SimpleNamespace(was_initialized=True, device=torch.device("cpu"))
    with refused(StateError, "checkpoint.unreadable") as refusal:
        save_and_resume.load_training_state(trainer, poison(tmp_path / name, canary))
    assert refusal.problem.where == str(tmp_path / name)
    assert not canary.exists()


def test_f50_a_shared_start(tmp_path: Path, canary: Path) -> None:
    trainer: Any = SimpleNamespace(device=torch.device("cpu"))
    with refused(StateError, "checkpoint.unreadable") as refusal:
        save_and_resume.load_supervised_start(trainer, poison(tmp_path / "start.pth", canary))
    assert refusal.problem.where == str(tmp_path / "start.pth")
    assert not canary.exists()


def test_f50_the_start_of_a_round(tmp_path: Path, canary: Path) -> None:
    guard = RoundGuard(tmp_path, Recipe("toy", schedule=Schedule(supervised_epochs=1, rounds=1, epochs_per_round=1)))
    poison(guard.start_file(1), canary)
    with refused(StateError, "checkpoint.unreadable") as refusal:
        guard.roll_back(1, {}, torch.device("cpu"))
    assert refusal.problem.where == str(guard.start_file(1))
    assert not canary.exists()


def test_f50_a_model_to_start_from(tmp_path: Path, canary: Path) -> None:
    model = make_model(tmp_path / "model")
    plans, description = (read_json(model / name) for name in ("plans.json", "dataset.json"))
    checkpoint = model / "fold_all" / "checkpoint_final.pth"
    refuse_other_model(checkpoint, plans, "3d_fullres", description)
    with refused(StateError, "model.start-differs") as refusal:
        refuse_other_model(checkpoint, plans, "3d_fullres", {**description, "labels": {"background": 0, "other": 1}})
    assert refusal.problem.what.endswith("other labels")
    poison(checkpoint, canary)
    with refused(StateError, "checkpoint.unreadable") as refusal:
        refuse_other_model(checkpoint, plans, "3d_fullres", description)
    assert refusal.problem.where.endswith("checkpoint_final.pth")
    network = plans["configurations"]["3d_fullres"]["architecture"]
    network["network_class_name"] = "os.system"
    write_json(model / "plans.json", plans)
    with refused(StateError, "model.untrusted") as refusal:
        refuse_other_model(checkpoint, plans, "3d_fullres", description)
    assert "os.system" in refusal.problem.found
    assert not canary.exists()


def test_f50_a_pickle_that_is_called_a_checkpoint(tmp_path: Path, canary: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Canary(canary)))
    with refused(StateError, "checkpoint.unreadable"):
        read_checkpoint(tmp_path / "bad.pth")
    assert not canary.exists()


def test_f50_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    file = model / "fold_all" / "checkpoint_final.pth"
    torch.save({**torch.load(file, weights_only=True), "init_args": {"configuration": "2d"}}, file)
    with refused(StateError, "checkpoint.other-configuration"):
        ModelPredictor(model, torch.device("cpu"))


def test_f50_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    file = model / "fold_all" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=True)
    torch.save({**content, "network_weights": dict(list(content["network_weights"].items())[1:])}, file)
    with refused(StateError, "checkpoint.other-network") as refusal:
        ModelPredictor(model, torch.device("cpu"))
    assert refusal.problem.where == str(file)


# --- the case store -------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of one case."""
    folder = tmp_path / "store"
    folder.mkdir()
    blosc2.asarray(np.ones((1, *SHAPE), dtype=np.float32), urlpath=str(case_files(folder, "a")[0]))
    save_label(folder, "a", np.zeros((1, *SHAPE), dtype=np.int16), {"class_locations": {1: []}}, SHAPE)
    return folder


def test_f50_a_stored_case_is_read(store: Path) -> None:
    image, label, previous, properties = StoredCases(str(store), ["a"]).load_case("a")
    assert (image[:] == 1).all()
    assert label.shape == (1, *SHAPE)
    assert (previous, properties) == (None, {"class_locations": {1: []}})


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_f50_what_nnunet_keeps_of_a_case_is_read(tmp_path: Path, protocol: int) -> None:
    properties = {
        "spacing": [1.0, np.float64(2), np.int64(3)],
        "class_locations": {1: np.arange(12).reshape(3, 4), (1, 2): []},
        "sitk_stuff": {"direction": tuple(np.eye(3).flatten())},
        "nibabel_stuff": {"original_affine": np.asfortranarray(np.eye(4, dtype=np.float32))},
        "pclauto_agreement": None,
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(properties, protocol=protocol))
    np.testing.assert_equal(read_properties(tmp_path / "a.pkl"), properties)


@pytest.mark.parametrize("wrapped", [lambda bad: bad, lambda bad: {"a": np.array([bad], dtype=object)}])
def test_f50_a_pickle_of_a_case_runs_nothing(store: Path, canary: Path, wrapped: Any) -> None:
    case_files(store, "a")[2].write_bytes(pickle.dumps(wrapped(Canary(canary))))
    with refused(StateError, "plan.stored-case-unreadable") as refusal:
        StoredCases(str(store), ["a"]).load_case("a")
    assert refusal.problem.where == str(case_files(store, "a")[2])
    assert "names pathlib" in refusal.problem.found
    assert not canary.exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"no pickle", pickle.dumps([1])])
def test_f50_a_damaged_pickle_is_refused(store: Path, content: bytes) -> None:
    case_files(store, "a")[2].write_bytes(content)
    with refused(StateError, "plan.stored-case-unreadable") as refusal:
        StoredCases(str(store), ["a"]).load_case("a")
    assert refusal.problem.where == str(case_files(store, "a")[2])


@pytest.mark.parametrize("which", [0, 1])
def test_f50_an_array_file_that_holds_a_recipe_is_not_opened(
    store: Path, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = case_files(store, "a")[which]
    array = blosc2.open(str(case_files(store, "a")[0]))
    file.unlink() if which else None
    target = file if which else store / "lazy.b2nd"
    blosc2.lazyexpr("x + 1", {"x": array}).save(urlpath=str(target))
    target.replace(file)
    monkeypatch.setattr(blosc2, "open", lambda *_arguments, **_options: pytest.fail("it was opened"))
    with refused(StateError, "plan.stored-case-unreadable"):
        StoredCases(str(store), ["a"])._open(file)


def test_f50_nothing_in_the_package_lets_nnunet_open_a_case() -> None:
    import pcl_auto

    users = [
        (path.name, line.strip())
        for path in Path(pcl_auto.__file__).parent.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "nnUNetDatasetBlosc2(" in line
    ]
    assert users == []
