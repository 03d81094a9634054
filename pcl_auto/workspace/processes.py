"""nnU-Net prints, from this process and from its workers; here that goes to a log, not to the terminal."""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# --- What ``torchrun`` and SLURM's launchers tell a process of a training that has several.


def started_ranks() -> int:
    """How many processes were started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def started_rank() -> int:
    """Which of them this is: rank 0 writes and speaks."""
    return int(os.environ.get("RANK", "0")) if started_ranks() > 1 else 0


# --- Helper processes that do not outlive the process that they help.

SECONDS_BETWEEN_LOOKS = 1.0


def end_with_parent() -> None:
    """End this daemon process soon after its parent is gone; do nothing in any other process.

    A parent that is killed, perhaps for its memory, cannot end its helpers: they would wait for it forever.
    """
    if multiprocessing.current_process().daemon:
        _watch(os.getpid())


# By process: a fork inherits what its parent has remembered, but not the thread.
@functools.cache
def _watch(_process: int) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        threading.Thread(target=_end_after, args=(parent.pid,), daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(1)


# --- nnU-Net prints, from this process and from its workers; here that goes to a log, not to the terminal.


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Send file descriptors 1 and 2, of this process and of children started meanwhile, to the end of ``log``.

    Whoever wants to reach the terminal in between writes to a descriptor duplicated before.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as handle:
        saved = os.dup(1), os.dup(2)
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, original in zip((1, 2), saved, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
