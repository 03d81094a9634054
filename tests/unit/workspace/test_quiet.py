"""Output on its way to a log instead of the terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
