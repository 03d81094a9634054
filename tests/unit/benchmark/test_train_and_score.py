"""Check the result of a run: scores by case, and its cost."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from refusal import refused
from tiny_labels import write_label

from pcl_auto.benchmark.test_cases import HeldOut
from pcl_auto.benchmark.train_and_score import Job, case_entry, cost, do_job
from pcl_auto.data.formats.scans import Scan
from pcl_auto.errors import DataError
from pcl_auto.evaluation.metrics import CaseScore
from pcl_auto.inference.predict import Prediction
from pcl_auto.training.request import TrainRequest
from pcl_auto.workspace.folders import Workspace


def test_a_case_is_the_mean_over_the_classes_that_it_has() -> None:
    nan = math.nan
    case = CaseScore("x", {"a": 0.5, "b": 0.0, "c": nan}, {"a": 2.0, "b": nan, "c": nan}, {})
    found = case_entry(case)
    assert found["dice"] == pytest.approx(0.25)
    assert found["hd95_mm"] == pytest.approx(2.0)
    assert found["per_class"]["a"] == {"dice": 0.5, "hd95_mm": 2.0}


def test_the_cost_is_that_of_the_last_training(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    assert all(math.isnan(value) for value in cost(events).values())
    events.write_text('{"event": "started"}\n')
    assert all(math.isnan(value) for value in cost(events).values())
    events.write_text(
        '{"event": "trained", "seconds": 1, "memory_mb": 1}\n{"event": "trained", "seconds": 9.5, "memory_mb": 12}\n'
        '{"event": "later"}\n'
    )
    assert cost(events) == {"seconds": 9.5, "memory_mb": 12}


def test_a_test_scan_that_cannot_be_segmented_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = SimpleNamespace(model=tmp_path)
    results = [Prediction("x", "x.nii.gz", "done"), Prediction("y", None, "failed", "truncated file in y", 3)]
    monkeypatch.setattr("pcl_auto.benchmark.train_and_score.train", lambda *_arguments: trained)
    monkeypatch.setattr("pcl_auto.benchmark.train_and_score.predict", lambda *_arguments, **_options: results)
    held_out = HeldOut((), tmp_path)
    job = Job(TrainRequest(), Workspace.at(tmp_path, "test"), held_out, {}, mirroring=False, masks=tmp_path / "masks")
    with refused(DataError, "benchmark.test-scan-failed") as refusal:
        do_job(job, lambda _event, _values: None)
    assert (refusal.problem.where, refusal.problem.found) == ("y", "truncated file in y")


def test_f99_scores_that_leave_something_out_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = SimpleNamespace(model=tmp_path)
    monkeypatch.setattr("pcl_auto.benchmark.train_and_score.train", lambda *_arguments: trained)
    monkeypatch.setattr("pcl_auto.benchmark.train_and_score.predict", lambda *_arguments, **_options: [])
    write_label(tmp_path / "masks" / "x.nii.gz", 1)
    write_label(tmp_path / "labels" / "x.nii.gz", 3)
    scans = tuple(Scan(case, ()) for case in "xy")
    held_out = HeldOut(scans, tmp_path / "labels")
    job = Job(
        TrainRequest(),
        Workspace.at(tmp_path, "test"),
        held_out,
        {"organ": 1},
        mirroring=False,
        masks=tmp_path / "masks",
    )
    with refused(DataError, "score.undeclared-values", "benchmark.test-label-gone") as refusal:
        do_job(job, lambda _event, _values: None)
    assert [problem.found for problem in refusal.problems] == ["3", "y"]
