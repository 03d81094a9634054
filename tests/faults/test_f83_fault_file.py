"""F83: the report of a fault is a new file, whatever somebody has planted in the shared folder."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from shell import Shell

# A fault of the program, after links have been planted under every name that could be foretold.
FAULT = """
import os, sys, tempfile
from pathlib import Path
for number in range(os.getpid() - 3, os.getpid() + 3):
    (Path(tempfile.gettempdir()) / f"pclauto-fault-{number}.txt").symlink_to(os.environ["VICTIM"])
import pcl_auto.data.dataset.decathlon as module
def fail(*_arguments):
    raise ZeroDivisionError("a bug \\x1b[2J\\udc80")
module.find_task = fail
from pcl_auto.cli.main import run
run()
"""
KEPT = re.compile(r"what is in (\S+);")


def fault(shell: Shell, folder: Path, victim: Path, *options: str) -> str:
    done = shell.python("-c", FAULT, "plan", "task", *options, TMPDIR=folder, VICTIM=victim)
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    return done.stderr


def test_f83_nothing_is_written_through_a_planted_link(shell: Shell, tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "shared"
    folder.mkdir()
    victim.write_text("mine")
    kept = []
    for _ in range(2):
        found = KEPT.search(fault(shell, folder, victim))
        assert found is not None
        kept.append(Path(found[1]))
        for link in folder.glob("pclauto-fault-*.txt"):
            if link.is_symlink():
                link.unlink()
    assert victim.read_text() == "mine"
    assert len(set(kept)) == 2
    for file in kept:
        assert not file.is_symlink()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "ZeroDivisionError: a bug" in file.read_text()
        assert "\x1b" not in file.read_text()


def test_f83_without_a_place_to_write_the_fault_is_told_all_the_same(shell: Shell) -> None:
    code = (
        FAULT.split("for number", maxsplit=1)[0]
        + "tempfile.tempdir = '/proc/none'\n"
        + FAULT[FAULT.index("import pcl_auto") :]
    )
    done = shell.python("-c", code, "plan", "task")
    assert done.returncode == 1
    assert "unexpected fault: ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr
