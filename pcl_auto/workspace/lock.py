"""Let one process at a time write a run."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from pcl_auto.errors import LockedError, Problem
from pcl_auto.workspace.files import write_text


@contextmanager
def sole_writer(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold ``folder`` for this process; the system releases it when the process ends, however it ends.

    The lock lies beside the folder, which may itself be removed and made again. With ``wait``, wait for a process that
    holds it.

    Raises:
        LockedError: another process holds it; the message says which, and since when.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock, holder = folder.parent / f".{folder.name}.lock", folder.parent / f".{folder.name}.holder"
    try:
        with FileLock(lock, timeout=-1 if wait else 0):
            since = datetime.now(timezone.utc).isoformat(timespec="seconds")
            write_text(holder, f"process {os.getpid()} on {socket.gethostname()} since {since}")
            try:
                yield
            finally:  # who looks at it later is not to take a process of that number for this one
                holder.unlink(missing_ok=True)
    except Timeout:
        found = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
        raise LockedError(
            Problem(
                code="lock.held",
                what="another process is writing this run",
                where=str(folder),
                found=found,
                fix="wait for it, or end it and repeat the command",
            )
        ) from None
