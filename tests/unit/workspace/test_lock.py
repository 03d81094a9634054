"""One writer at a time, and a lock that a dead process does not keep."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from refusal import refused

from pcl_auto.errors import LockedError
from pcl_auto.workspace.lock import sole_writer

HOLD = """
import sys, time
from pathlib import Path
from pcl_auto.workspace.lock import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_writer_is_told_who_the_first_is_until_that_one_is_gone(tmp_path: Path) -> None:
    run = tmp_path / "results" / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, run], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with refused(LockedError, "lock.held") as refusal, sole_writer(run):
            pass
        assert refusal.problem.found.startswith(f"process {first.pid} on")
        first.kill()
    with sole_writer(run):
        assert f"process {os.getpid()} " in next(run.parent.glob("*.holder")).read_text()


def test_lock_is_let_go_of_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), sole_writer(tmp_path / "run"):
        raise ValueError("inside")
    with sole_writer(tmp_path / "run"):
        pass
