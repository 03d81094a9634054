"""``--gpus``: start a command in as many processes as there are GPUs to use, and end them together.

torch's own launcher (``torch.distributed.launcher``) does not do here. A signal that arrives while it starts its
processes leaves those that it has started; it gives them sessions of their own, which a terminal or a batch system
does not end with it; it sends Ctrl-C where a shell wants it ignored; and it kills after 30 seconds what may still be
writing a checkpoint.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

import psutil

from pcl_auto.cli.console.interrupt import Terminated, exit_code, postponed

SECONDS_TO_END, SECONDS_BETWEEN_LOOKS = 60.0, 0.2


def start_ranks(number: int, command: Sequence[str]) -> NoReturn:
    """Run ``pclauto command`` in ``number`` processes and end with the code of the first that fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
    words = [sys.executable, "-m", "pcl_auto", *_without_gpus(command)]
    processes: list[psutil.Popen] = []
    try:
        # A signal in the middle of it would leave a process that nobody knows of.
        with postponed():
            processes.extend(
                psutil.Popen(words, env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank})
                for rank in map(str, range(number))
            )
        code = _first_failure(processes)
    except KeyboardInterrupt as interrupt:
        # Ctrl-C reaches every process of a terminal; a second signal would end it before its state is kept.
        _end(processes, terminate=isinstance(interrupt, Terminated))
        sys.exit(exit_code(interrupt))
    _end(processes, terminate=True)
    sys.exit(128 - code if code < 0 else code)


def _without_gpus(command: Sequence[str]) -> list[str]:
    kept = list(command)
    while "--gpus" in kept:
        index = kept.index("--gpus")
        del kept[index : index + 2]
    return [word for word in kept if not word.startswith("--gpus=")]


def _first_failure(processes: Sequence[psutil.Popen]) -> int:
    """Wait until a process fails and return its code, or 0 when all have ended well."""
    while True:
        codes = [process.poll() for process in processes]
        failed = [code for code in codes if code]
        if failed or None not in codes:
            return failed[0] if failed else 0
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _end(processes: Sequence[psutil.Popen], *, terminate: bool) -> None:
    """Wait for processes that were told to end, or tell them with ``terminate``, and kill those that do not."""
    for process in processes:
        if terminate and process.poll() is None:
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=SECONDS_TO_END)
    for process in alive:
        process.kill()
