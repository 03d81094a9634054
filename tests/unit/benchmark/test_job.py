"""A run in a process of its own: its events, result, errors and end; its scores by case and what it cost."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from refusal import refused
from shared import SUPPORT

from pcl_auto.benchmark.job import Job, case_entry, cost, do_job, run_in_subprocess
from pcl_auto.benchmark.test_cases import HeldOut
from pcl_auto.errors import DataError, Problem, ResourceError
from pcl_auto.evaluation.metrics import CaseScore
from pcl_auto.inference.predict import Prediction
from pcl_auto.training.request import TrainRequest
from pcl_auto.workspace.events import Listener
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
    monkeypatch.setattr("pcl_auto.benchmark.job.train", lambda *_arguments: trained)
    monkeypatch.setattr("pcl_auto.benchmark.job.predict", lambda *_arguments, **_options: results)
    held_out = HeldOut((), tmp_path)
    job = Job(TrainRequest(), Workspace.at(tmp_path, "test"), held_out, {}, mirroring=False, masks=tmp_path / "masks")
    with refused(DataError, "benchmark.test-scan-failed") as refusal:
        do_job(job, lambda _event, _values: None)
    assert (refusal.problem.where, refusal.problem.found) == ("y", "truncated file in y")


def double(job: int, listener: Listener) -> dict[str, int]:
    for step in range(job):
        listener("step", {"step": step})
    return {"doubled": 2 * job, "process": os.getpid()}


def refuse(job: str, _listener: Listener) -> None:
    raise DataError([Problem(f"test.{job}", job, "here", "none"), Problem("test.second", "second", "there", "none")])


def fault(job: str, _listener: Listener) -> None:
    raise ValueError(job)


def vanish(job: int, _listener: Listener) -> None:
    os._exit(job)


def outlive(place: str, _listener: Listener) -> None:
    (Path(place) / "child").write_text(str(os.getpid()))
    try:
        time.sleep(60)
    finally:
        (Path(place) / "ended").touch()


def wait_for(file: Path) -> Path:
    for _ in range(600):
        if file.is_file():
            return file
        time.sleep(0.05)
    raise AssertionError(f"{file.name} did not come")


def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path[:0] = {[str(Path(__file__).parent), str(SUPPORT)]!r}
import test_job
if __name__ == "__main__":
    test_job.run_in_subprocess(test_job.outlive, {str(tmp_path)!r}, lambda event, values: None)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, str(script)])
    wait_for(tmp_path / "child")
    parent.kill()
    parent.wait()
    wait_for(tmp_path / "ended")


def test_events_and_result_come_back_from_another_process() -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    found = run_in_subprocess(double, 3, lambda event, values: heard.append((event, values)))
    assert found["doubled"] == 6
    assert found["process"] != os.getpid()
    assert heard == [("step", {"step": step}) for step in range(3)]


def test_errors_of_ours_come_back_as_they_are() -> None:
    with refused(DataError, "test.first", "test.second") as refusal:
        run_in_subprocess(refuse, "first", lambda _event, _values: None)
    assert [problem.code for problem in refusal.problems] == ["test.first", "test.second"]


def test_a_fault_comes_back_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="ValueError: what"):
        run_in_subprocess(fault, "what", lambda _event, _values: None)


def test_a_process_that_is_gone() -> None:
    with refused(ResourceError, "run.process-gone") as refusal:
        run_in_subprocess(vanish, 3, lambda _event, _values: None)
    assert refusal.problem.found == "exit code 3"


def test_whoever_interrupts_ends_the_process() -> None:
    def interrupt(_event: str, _values: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_subprocess(double, 1, interrupt)
