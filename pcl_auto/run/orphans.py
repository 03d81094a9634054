"""Helper processes that do not outlive the process that they help."""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
import time

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
