"""Test that ``--gpus`` starts processes together, and ends with the code of the one that failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcl_auto.cli import gpu_processes as ranks

SCRIPT = """
import sys
from pcl_auto.cli import gpu_processes
from pcl_auto.cli.console.interrupt import end_in_order
end_in_order()
gpu_processes.sys.executable = sys.argv[1]
gpu_processes.start_ranks(2, ["train", "--gpus", "2"])
"""
# In place of Python: what each process does, by its rank.
STAND_IN = """#!/bin/sh
trap 'echo "$RANK ended" >> {log}; exit 143' TERM
echo "$RANK of $WORLD_SIZE: $*" >> {log}
if [ "$RANK" = 1 ] && [ -n "{code}" ]; then
  until grep -q "^0 of" {log}; do sleep 0.05; done
  exit {code}
fi
if [ "$RANK" = 0 ]; then {first}; fi
sleep {seconds} & wait
"""


def start(folder: Path, code: str, seconds: int, first: str = "true") -> tuple[subprocess.Popen[bytes], Path]:
    log, stand_in = folder / "log", folder / "python"
    stand_in.write_text(STAND_IN.format(log=log, code=code, seconds=seconds, first=first))
    stand_in.chmod(0o755)
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(stand_in)]), log


def logged(log: Path) -> set[str]:
    return set(log.read_text().splitlines()) if log.is_file() else set()


@pytest.mark.parametrize("code", ["2", "7"])
def test_the_first_failure_ends_all_and_gives_its_code(tmp_path: Path, code: str) -> None:
    process, log = start(tmp_path, code, 60)
    assert process.wait(timeout=30) == int(code)
    assert logged(log) == {"0 of 2: -m pcl_auto train", "1 of 2: -m pcl_auto train", "0 ended"}


def test_all_well(tmp_path: Path) -> None:
    process, _ = start(tmp_path, "", 0)
    assert process.wait(timeout=30) == 0


def test_termination_is_handed_on(tmp_path: Path) -> None:
    process, log = start(tmp_path, "", 60)
    deadline = time.monotonic() + 20
    while len(logged(log)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert {"0 ended", "1 ended"} <= logged(log)


def test_termination_while_they_are_started(tmp_path: Path) -> None:
    """Before the last has started: the first is not left behind."""
    process, log = start(tmp_path, "", 60, "kill -TERM $PPID")
    assert process.wait(timeout=30) == 143
    assert "0 ended" in logged(log)


def test_the_option_is_not_handed_on() -> None:
    assert ranks._without_gpus(["train", "--gpus", "2", "--seed", "1", "--gpus=3"]) == ["train", "--seed", "1"]
