"""A helper process ends with its parent, however the parent went."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcl_auto.workspace import processes as orphans

PARENT = """
import multiprocessing, os, signal, time
from pcl_auto.workspace.processes import end_with_parent

def help_out(ready):
    end_with_parent()
    end_with_parent()
    ready.set()
    time.sleep(600)

if __name__ == "__main__":
    end_with_parent()  # in a process that is nobody's helper nothing happens
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    helper = context.Process(target=help_out, args=(ready,), daemon=True)
    helper.start()
    ready.wait()
    print(helper.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_helper_ends_after_its_parent_was_killed() -> None:
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    helper = int(done.stdout)
    begun = time.monotonic()
    while runs(helper) and time.monotonic() - begun < 10 * orphans.SECONDS_BETWEEN_LOOKS:
        time.sleep(0.1)
    still = runs(helper)
    if still:
        os.kill(helper, signal.SIGKILL)
    assert not still


def test_a_process_that_is_no_helper_is_not_watched() -> None:
    assert not multiprocessing.current_process().daemon
    before = orphans._watch.cache_info().currsize
    orphans.end_with_parent()
    assert orphans._watch.cache_info().currsize == before
