"""Processes beside this one: helpers end with their parent, output goes to a log."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcl_auto.workspace import processes as orphans
from pcl_auto.workspace.processes import output_to, reaching_caller

# In a process of its own, since pytest stands between print and the descriptors here.
SCRIPT = """
import subprocess, sys
from pathlib import Path
from pcl_auto.workspace.processes import output_to
print("before")
with output_to(Path(sys.argv[1])):
    print("inside")
    sys.stderr.write("warning inside\\n")
    sys.stdout.flush()
    subprocess.run(["echo", "child inside"])
print("after")
"""


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_an_exception_gives_the_terminal_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), output_to(tmp_path / "log.txt"):
        os.write(1 // 0, b"never written")
    os.write(1, b"out\n")
    os.write(2, b"err\n")
    assert capfd.readouterr() == ("out\n", "err\n")
    assert (tmp_path / "log.txt").read_text() == ""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are counted in /proc")
def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = open_descriptors()
    with pytest.raises(IsADirectoryError), output_to(tmp_path):
        pass
    with output_to(tmp_path / "log.txt"):
        pass
    assert open_descriptors() == before


def test_prints_and_children_go_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log.txt"
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(log)], capture_output=True, text=True, check=True)
    assert done.stdout == "before\nafter\n"
    assert done.stderr == ""
    assert sorted(log.read_text().splitlines()) == ["child inside", "inside", "warning inside"]


def test_a_log_is_appended_to(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        with output_to(tmp_path / "log.txt"):
            os.write(2, text)
    assert (tmp_path / "log.txt").read_text() == "one\ntwo\n"


def test_one_inside_the_other(tmp_path: Path) -> None:
    with output_to(tmp_path / "outer.txt"):
        with output_to(tmp_path / "inner.txt"):
            os.write(1, b"inner\n")
        os.write(1, b"outer\n")
    assert (tmp_path / "inner.txt").read_text() == "inner\n"
    assert (tmp_path / "outer.txt").read_text() == "outer\n"


def test_a_descriptor_duplicated_before_still_reaches_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    terminal = os.dup(1)
    with output_to(tmp_path / "log.txt"):
        os.write(terminal, b"progress\n")
    os.close(terminal)
    assert capfd.readouterr().out == "progress\n"


def test_what_is_printed_to_a_notebook_goes_to_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = io.StringIO()  # no descriptor behind it
    monkeypatch.setattr(sys, "stdout", notebook)
    print("before")
    with output_to(tmp_path / "log.txt"):
        print("inside")
    print("after")
    assert notebook.getvalue() == "before\nafter\n"
    assert (tmp_path / "log.txt").read_text() == "inside\n"


def test_a_listener_reaches_its_caller(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def listener(event: str, values: dict[str, int]) -> None:
        print(event, values)
        os.write(2, b"by descriptor\n")

    with reaching_caller(listener) as listen, output_to(tmp_path / "log.txt"):
        print("inside")
        listen("epoch", {"epoch": 1})
        os.write(1, b"inside too\n")
    assert capfd.readouterr() == ("epoch {'epoch': 1}\n", "by descriptor\n")
    assert (tmp_path / "log.txt").read_text() == "inside\ninside too\n"


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
