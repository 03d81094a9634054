"""Let one process at a time write a run."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from pcl_auto.errors import LockedError, Problem, ResourceError
from pcl_auto.workspace.files import write_text

# What a system says whose lock somebody holds; all else means that it has none to give.
_HELD = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES})
# Whoever asks whether a lock is held holds it for a moment: see is_held.
_TRIES, _SECONDS_BETWEEN = 4, 0.05
_HOLDER = ".holder"


@contextmanager
def sole_writer(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold ``folder`` for this process; the system releases it when the process ends, however it ends.

    The lock lies beside the folder, which may itself be removed and made again. With ``wait``, wait for a process that
    holds it.

    Raises:
        LockedError: another process holds it; the message says which, and since when.
        ResourceError: the file system has no locks.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    holder = folder.parent / f".{folder.name}{_HOLDER}"
    descriptor = _open(_lock_file(folder))
    try:
        if not _acquire(descriptor, folder, wait=wait):
            raise _held(folder, holder)
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        write_text(holder, f"process {os.getpid()} on {socket.gethostname()} since {since}")
        try:
            yield
        finally:  # who looks at it later is not to take a process of that number for this one
            holder.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def is_held(folder: Path) -> bool | None:
    """Tell whether a process holds ``folder``, wherever it runs and whatever its number; None where nobody can tell."""
    try:
        descriptor = os.open(_lock_file(folder), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return True if error.errno in _HELD else None
    finally:
        os.close(descriptor)
    return False


def held_folders(parent: Path) -> list[Path]:
    """List the folders in ``parent`` that a process holds now, whether they exist yet or not."""
    held = [parent / holder.name[1 : -len(_HOLDER)] for holder in sorted(parent.glob(f".*{_HOLDER}"))]
    return [folder for folder in held if is_held(folder)]


def _open(file: Path) -> int:
    # A link may have been planted under the name: nothing is made where it leads.
    always = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | always, 0o666)
    except PermissionError:
        # Another user's, in a folder that both may write in: to be locked it need not be written.
        return os.open(file, os.O_RDONLY | always)


def _lock_file(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


def _acquire(descriptor: int, folder: Path, *, wait: bool) -> bool:
    """Take the lock; return False if another process has it and nobody waits."""
    for _attempt in range(_TRIES):
        if _take(descriptor, folder, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)):
            return True
        time.sleep(_SECONDS_BETWEEN)
    return False


def _take(descriptor: int, folder: Path, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        if error.errno not in _HELD:
            raise _without_locks(folder, error) from error
        return False
    return True


def _held(folder: Path, holder: Path) -> LockedError:
    found = holder.read_text(encoding="utf-8", errors="replace") if holder.is_file() else "another process"
    what, fix = "another process is writing this run", "wait for it, or end it and repeat the command"
    return LockedError(Problem("lock.held", what, str(folder), fix, found=found))


def _without_locks(folder: Path, error: OSError) -> ResourceError:
    # Two writers would spoil each other's files, and nobody would know.
    what = "the file system has no locks"
    fix = "choose a folder on another one (--workspace, -o), or mount this one with locks"
    return ResourceError(Problem("disk.no-locks", what, str(folder), fix, found=error.strerror or ""))
