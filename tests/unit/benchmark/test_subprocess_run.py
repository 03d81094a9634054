"""Check work in a process of its own: its events, result, errors and end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from refusal import refused
from shared import SUPPORT

from pcl_auto.benchmark.subprocess_run import Work, run_in_subprocess
from pcl_auto.errors import DataError, Problem, ResourceError
from pcl_auto.workspace.events import Listener


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


def outlive(folder: str, _listener: Listener) -> None:
    (Path(folder) / "child").write_text(str(os.getpid()))
    try:
        time.sleep(60)
    finally:
        (Path(folder) / "ended").touch()


def wait(_job: int, listener: Listener) -> None:
    listener("begun", {"process": os.getpid()})
    time.sleep(60)


def wait_for(file: Path) -> Path:
    for _ in range(600):
        if file.is_file():
            return file
        time.sleep(0.05)
    raise AssertionError(f"{file.name} did not come")


def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path[:0] = {[str(Path(__file__).parent), str(SUPPORT)]!r}
import test_subprocess_run
if __name__ == "__main__":
    test_subprocess_run.run_in_subprocess(test_subprocess_run.outlive, {str(tmp_path)!r}, lambda event, values: None)
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


@pytest.mark.parametrize("work", [refuse, fault])
def test_an_error_that_comes_back_prints_no_traceback_of_the_process(
    work: Work, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((DataError, RuntimeError)):
        run_in_subprocess(work, "what", lambda _event, _values: None)
    assert capfd.readouterr().err == ""


def test_an_interruption_that_comes_twice_prints_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    def interrupt(_event: str, values: dict[str, Any]) -> None:
        os.kill(values["process"], signal.SIGINT)  # as a terminal interrupts both processes
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_subprocess(wait, 0, interrupt)
    assert capfd.readouterr().err == ""
