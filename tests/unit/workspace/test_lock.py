"""One writer at a time, and a lock that a dead process does not keep."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from refusal import refused

from pcl_auto.errors import LockedError, ResourceError
from pcl_auto.workspace.lock import is_held, sole_writer

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


def test_whether_a_folder_is_held_is_told_by_the_lock(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert is_held(run) is None
    with sole_writer(run):
        assert is_held(run) is True
        (tmp_path / ".run.holder").write_text("process 1 on another since then")
        assert is_held(run) is True
    assert is_held(run) is False
    with sole_writer(run):  # to ask has taken nothing
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
@pytest.mark.parametrize("wait", [True, False])
def test_f84_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, *, wait: bool
) -> None:
    def none(_descriptor: int, _how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    with refused(ResourceError, "disk.no-locks") as refusal, sole_writer(tmp_path / "run", wait=wait):
        pass
    assert refusal.problem.where == str(tmp_path / "run")
    assert is_held(tmp_path / "run") is None


def test_a_lock_of_another_user_may_be_taken_in_a_shared_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.open

    def refusing_to_write(path: Path, flags: int, *mode: int) -> int:
        if str(path).endswith(".lock") and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, flags, *mode)

    with sole_writer(tmp_path / "run"):
        pass
    monkeypatch.setattr(os, "open", refusing_to_write)
    with sole_writer(tmp_path / "run"), refused(LockedError, "lock.held"), sole_writer(tmp_path / "run"):
        pass


def test_a_link_under_the_name_of_a_lock_makes_no_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / ".run.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), sole_writer(tmp_path / "run"):
        pass
    assert not (tmp_path / "elsewhere").exists()
