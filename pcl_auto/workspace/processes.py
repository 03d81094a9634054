"""Deal with the processes of a command: its ranks, its helpers, and what they print."""

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
from typing import Any, TextIO

from pcl_auto.workspace.events import Listener

SECONDS_BETWEEN_LOOKS = 1.0


def started_ranks() -> int:
    """Return how many processes the launcher (``torchrun``, SLURM, ``--gpus``) has started for this training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def started_rank() -> int:
    """Return the number of this one among them: rank 0 writes and speaks."""
    return int(os.environ.get("RANK", "0")) if started_ranks() > 1 else 0


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


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Send what this process, and children started meanwhile, write to stdout and stderr to the end of ``log``.

    nnU-Net prints, and so do its workers. To reach the terminal meanwhile, write to a descriptor duplicated before, or
    call through :func:`reaching_caller`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8", errors="replace", buffering=1) as handle:
        # A notebook's stdout is no descriptor but an object.
        streams = [handle if current is not own else current for current, own in _streams()]
        with _written_to((handle.fileno(), handle.fileno()), (streams[0], streams[1])):
            yield


@contextmanager
def reaching_caller(listener: Listener) -> Iterator[Listener]:
    """Yield ``listener``, so that what it prints reaches whoever sees the output now, during :func:`output_to` too."""
    descriptors, streams = (os.dup(1), os.dup(2)), (sys.stdout, sys.stderr)

    def listen(event: str, values: dict[str, Any]) -> None:
        with _written_to(descriptors, streams):
            listener(event, values)

    try:
        yield listen
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _streams() -> tuple[tuple[TextIO, TextIO | None], tuple[TextIO, TextIO | None]]:
    return (sys.stdout, sys.__stdout__), (sys.stderr, sys.__stderr__)


@contextmanager
def _written_to(descriptors: tuple[int, int], streams: tuple[TextIO, TextIO]) -> Iterator[None]:
    """Let file descriptors 1 and 2, and Python's two streams, be these for the time being."""
    _flush()
    saved, saved_streams = (os.dup(1), os.dup(2)), (sys.stdout, sys.stderr)
    for standard, descriptor in zip((1, 2), descriptors, strict=True):
        os.dup2(descriptor, standard)
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        _flush()
        sys.stdout, sys.stderr = saved_streams
        for standard, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, standard)
            os.close(descriptor)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
