"""A run with a manifest has all of its files; one that lost some says which."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from kept_times import exchange, keeping_times
from refusal import refused
from tiny_model import make_model, make_scan

from pcl_auto.errors import StateError
from pcl_auto.inference.predict import predict
from pcl_auto.workspace.files import read_json, write_json, write_text
from pcl_auto.workspace.run_record import RECORD, check_manifest, has_manifest, refuse_other_model, write_manifest


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "model" / "fold_all"
    write_json(folder / RECORD, {"identity": {"seed": 0}})
    write_text(folder / "checkpoint_final.pth", "weights")
    for name in ("plans.json", "dataset.json", "dataset_fingerprint.json"):
        write_json(folder.parent / name, {})
    for number in (1, 2):
        write_text(folder / "pseudo_labels" / f"round_{number}" / "ledger.csv", f"round {number}")
    return folder


def test_the_manifest_names_every_file_and_keeps_the_record(run: Path) -> None:
    assert not has_manifest(run)
    write_manifest(run)
    assert has_manifest(run)
    record = read_json(run / RECORD)
    assert record["identity"] == {"seed": 0}
    assert record["outputs"]["checkpoint_final.pth"] == {
        "bytes": 7,
        "sha256": hashlib.sha256(b"weights").hexdigest(),
    }
    assert {"../plans.json", "pseudo_labels/round_2/ledger.csv"} < record["outputs"].keys()
    check_manifest(run)


def test_files_that_are_gone_or_cut_are_all_named(run: Path) -> None:
    write_manifest(run)
    (run / "checkpoint_final.pth").write_text("weig")
    (run.parent / "plans.json").unlink()
    with refused(StateError, "run.file-changed") as refusal:
        check_manifest(run)
    found = {Path(problem.where).name: problem.found for problem in refusal.problems}
    assert found == {"checkpoint_final.pth": "4 bytes", "plans.json": "no file"}


def test_f70_other_bytes_of_the_same_size(run: Path) -> None:
    write_manifest(run)
    keeping_times(run / "checkpoint_final.pth", lambda file: file.write_text("Weights"))
    with refused(StateError, "run.file-changed") as refusal:
        check_manifest(run)
    assert refusal.problem.found == "other bytes"


@pytest.mark.parametrize("name", ["checkpoint_final.pth", "../plans.json", "../dataset.json"])
def test_f73_a_network_that_the_run_did_not_leave(tmp_path: Path, run: Path, name: str) -> None:
    refuse_other_model(run)  # no manifest yet
    refuse_other_model(tmp_path / "of stock nnU-Net")
    write_manifest(run)
    (run / "pseudo_labels" / "round_1" / "ledger.csv").unlink()  # no part of the network
    refuse_other_model(run)
    (run / name).write_text("of another run")
    with refused(StateError, "run.file-changed") as refusal:
        refuse_other_model(run)
    assert refusal.problem.where == str(run / name)


def test_f73_checkpoints_that_two_models_have_exchanged(tmp_path: Path) -> None:
    models = [make_model(tmp_path / name, weight=weight) for name, weight in (("one", 0.1), ("other", 0.2))]
    scan = make_scan(tmp_path / "a.nii.gz")
    for model in models:
        write_json(model / "dataset_fingerprint.json", {})
        (run,) = model.glob("fold_*")
        write_json(run / RECORD, {})
        write_manifest(run)
    assert [result.status for result in predict([scan], tmp_path / "out", models[0], listener=lambda *_: None)] == [
        "done"
    ]
    exchange(*(file for model in models for file in model.glob("fold_*/checkpoint_final.pth")))
    for model in models:
        with refused(StateError, "run.file-changed"):
            predict([scan], tmp_path / f"of {model.name}", model, listener=lambda *_: None)
        assert not (tmp_path / f"of {model.name}").exists()


def test_there_is_no_manifest_of_a_run_that_lacks_a_file(run: Path) -> None:
    (run / "checkpoint_final.pth").unlink()
    with pytest.raises(FileNotFoundError):
        write_manifest(run)
    assert not has_manifest(run)
