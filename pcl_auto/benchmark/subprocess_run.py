"""Do work in a process of its own: its peak of memory is its own, and nothing is left over for the next.

This module imports little, as the new process imports it too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from pcl_auto.errors import PclautoError, Problem, ResourceError
from pcl_auto.workspace.events import Listener
from pcl_auto.workspace.resources import as_resource_error

# How long an interrupted process may take to end its helpers.
SECONDS_TO_END = 30

Work = Callable[[Any, Listener], Any]


def run_in_subprocess(work: Work, job: Any, listener: Listener) -> Any:
    """Return what ``work(job, listener)`` returns in a new process; its events reach ``listener`` here.

    Raises:
        ResourceError: the process ended without a result, as one that the system kills for its memory.
        PclautoError: what ``work`` raised.
        RuntimeError: a fault in ``work``, with its traceback.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(work, job, sending))
    process.start()
    # This end alone would keep the pipe open after the process has gone.
    sending.close()
    try:
        while True:
            kind, *content = receiving.recv()
            if kind != "event":
                break
            listener(*content)
    except EOFError:
        process.join()
        fix = "repeat the command: it goes on from the last checkpoint; exit code -9 is often too little memory"
        what, where = "the process of a run ended without a result", f"process {process.pid}"
        found = f"exit code {process.exitcode}"
        raise ResourceError(Problem("run.process-gone", what, where, fix, found=found)) from None
    except BaseException:
        # Interrupted, as by Ctrl-C, it ends the processes that it has started itself.
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGINT)
            process.join(SECONDS_TO_END)
            process.terminate()
        raise
    finally:
        process.join()
        receiving.close()
    # The process has ended by itself by now: an interruption would only have it print where it was.
    if kind == "error":
        raise content[0]
    return content[0]


def _work(work: Work, job: Any, sending: Connection) -> None:
    # A shell makes its jobs in the background deaf to Ctrl-C; this process has to hear it.
    signal.signal(signal.SIGINT, _interrupt_once)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    last: tuple[str, Any] | None = None
    try:
        last = ("result", work(job, lambda event, values: sending.send(("event", event, values))))
    except PclautoError as error:
        last = ("error", error)
    except (KeyboardInterrupt, BrokenPipeError):  # nobody is listening
        pass
    except Exception as error:  # noqa: BLE001 (whatever it is, the process that waits for a result has to hear of it)
        last = ("error", as_resource_error(error) or RuntimeError(traceback.format_exc()))
    # Nothing is left that Ctrl-C could stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(BrokenPipeError):
        if last is not None:
            sending.send(last)
    sending.close()


def _interrupt_once(_signal: int, _frame: object) -> None:
    """Interrupt the work. A terminal and the parent may both ask for it: the second time it would print a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """Interrupt this process when the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(SECONDS_TO_END)
        os._exit(1)
