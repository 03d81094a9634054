"""F46: a worker that dies or fails ends the training within seconds, says so, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from refusal import refused
from sessions import command, processes_of_session
from shell import Shell

from pcl_auto.errors import ResourceError
from pcl_auto.nnunet.data import patch_streams

SECONDS = 60
# batchgenerators' own thread ends by an exception once a worker is gone.
SEES_IT_TOO = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

DRIVER = """
import sys
from pcl_auto.nnunet.data.cases import StoredCases
def load_case(self, identifier):
    raise OSError("this disk is tired")
StoredCases.load_case = load_case
sys.argv = ["pclauto", *sys.argv[1:]]
from pcl_auto.cli.main import run
run()
"""


@pytest.mark.slow
def test_f46_a_killed_worker_ends_the_training(shell: Shell, planned: Path, tmp_path: Path) -> None:
    workspace = planned
    # Steps enough that no stream ends, and what was drawn ahead does not last, until the workers are missed.
    recipe = tmp_path / "longer.toml"
    recipe.write_text((shell.folder / "tiny.toml").read_text().replace("steps_per_epoch = 2", "steps_per_epoch = 30"))
    command = [
        "train", "--workspace", str(workspace), "--recipe", str(recipe), "--device", "cpu", "--workers", "1",
        "--supervised-only",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "pcl_auto", *command],
        cwd=shell.folder, env=shell.environment(), stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert any(line.startswith("epoch 2/") for line in process.stderr)
    workers = [int(pid) for pid in processes_of_session(process.pid) if int(pid) != process.pid]
    parents = {pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in workers}
    for pid in (pid for pid, parent in parents.items() if parent == process.pid):
        os.kill(pid, signal.SIGKILL)
    begun = time.monotonic()
    _, said = process.communicate(timeout=SECONDS)
    assert time.monotonic() - begun < SECONDS
    assert process.returncode == 5, said
    assert "a worker that augments data is gone" in said
    assert "--workers 0" in said
    for _ in range(100):
        if not processes_of_session(process.pid):
            break
        time.sleep(0.1)
    assert processes_of_session(process.pid) == []
    (run,) = (workspace / "nnUNet_results").rglob("fold_all")
    assert (run / "checkpoint_latest.pth").is_file()
    assert not (run / "checkpoint_final.pth").exists()


@pytest.mark.slow
def test_f46_an_error_in_a_worker_is_in_the_log(shell: Shell, planned: Path) -> None:
    workspace = planned
    begun = time.monotonic()
    # With --workers 0 the same error would be the command's own.
    done = shell.python("-c", DRIVER, *command(workspace), "--supervised-only", pictures=False)
    assert time.monotonic() - begun < SECONDS
    assert done.returncode == 5, done.stderr
    assert "--workers 0" in done.stderr
    (log,) = (workspace / "nnUNet_results").rglob("fold_all/log.txt")
    assert "OSError: this disk is tired" in log.read_text()
    assert "load_case" in log.read_text()


class NoRoom:
    """Cannot be handed over, as a tensor where /dev/shm is full."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")


class Loader:
    """Counts, and fails or ends its process where it is told to."""

    # The stored cases that it reads from: none.
    _data = SimpleNamespace(refuse_damaged=lambda: None)

    def __init__(self, last: int, how: str) -> None:
        self.last, self.how, self.count = last, how, 0

    def set_thread_id(self, _number: int) -> None: ...

    def __next__(self) -> dict[str, Any]:
        self.count += 1
        if self.count > self.last:
            if self.how == "no room":
                return {"data": NoRoom(), "keys": ["a"]}
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError("this disk is tired")
        return {"data": self.count, "keys": ["a"]}


def stream(last: int, how: str) -> NonDetMultiThreadedAugmenter:
    return NonDetMultiThreadedAugmenter(Loader(last, how), None, 1, num_cached=2, wait_time=0.002)


def draw_until(drawn: NonDetMultiThreadedAugmenter, batches: int) -> None:
    for number in range(batches):
        assert patch_streams.next_batch(drawn)["data"] > number


@SEES_IT_TOO
@pytest.mark.parametrize(("how", "code"), [("killed", -9), ("raises", 0), ("no room", 74)])
def test_f46_what_was_drawn_is_used_then_the_worker_is_missed(how: str, code: int) -> None:
    drawn = stream(5, how)
    with refused(ResourceError, "run.worker-gone") as refusal:
        draw_until(drawn, 10)
    assert refusal.problem.found.endswith(f"ended with exit code {code}")
    assert drawn._processes == []


@SEES_IT_TOO
def test_f46_a_worker_that_dies_with_the_shared_lock_is_missed_too() -> None:
    drawn = stream(10**9, "raises")
    patch_streams.next_batch(drawn)
    (worker,) = drawn._processes
    lock = drawn.abort_event._cond
    lock.acquire()  # as if the worker had died with it: from now on asking for it would never return
    os.kill(worker.pid, signal.SIGKILL)
    begun = time.monotonic()
    with refused(ResourceError, "run.worker-gone") as refusal:
        draw_until(drawn, 10**9)
    assert refusal.problem.found.endswith("exit code -9")
    lock.release()
    assert time.monotonic() - begun < SECONDS / 4


def test_f46_a_worker_that_fails_at_the_start() -> None:
    with refused(ResourceError, "run.worker-gone") as refusal, patch_streams.starting():
        next(stream(0, "raises"))
    assert "--workers 0" in refusal.problem.fix
    with pytest.raises(RuntimeError, match="something else"), patch_streams.starting():
        raise RuntimeError("something else")
