"""``--gpus``: a command in as many processes as there are GPUs to use, started and ended together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from pcl_auto.cli.console.interrupt import Terminated, exit_code, postponed

SECONDS_TO_END, SECONDS_BETWEEN_LOOKS = 60.0, 0.2


def start_ranks(number: int, command: Sequence[str]) -> NoReturn:
    """Run ``pclauto command`` in ``number`` processes and end with the code of the first that fails.

    What ``torchrun`` does on one machine, but for the exit code: whoever repeats a command goes by it.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        # A signal in the middle of it would leave a process that nobody knows of.
        with postponed():
            for environment in _environments(number):
                words = [sys.executable, "-m", "pcl_auto", *_without_gpus(command)]
                processes.append(subprocess.Popen(words, env=environment))
        code = _first_failure(processes)
    except KeyboardInterrupt as interrupt:
        # Ctrl-C reaches every process of a terminal; a second signal would end it before its state is kept.
        _end(processes, tell=isinstance(interrupt, Terminated))
        sys.exit(exit_code(interrupt))
    _end(processes, tell=True)
    sys.exit(128 - code if code < 0 else code)


def _environments(number: int) -> list[dict[str, str]]:
    """What torch wants to know in each process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sizes = {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
    return [{**os.environ, **shared, **sizes, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]


def _without_gpus(command: Sequence[str]) -> list[str]:
    kept = list(command)
    while "--gpus" in kept:
        place = kept.index("--gpus")
        del kept[place : place + 2]
    return [word for word in kept if not word.startswith("--gpus=")]


def _first_failure(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """The code of the first process that fails, or 0 when all have ended well."""
    while True:
        codes = [process.poll() for process in processes]
        failed = [code for code in codes if code]
        if failed:
            return failed[0]
        if all(code == 0 for code in codes):
            return 0
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _end(processes: Sequence[subprocess.Popen[bytes]], *, tell: bool) -> None:
    """Wait for the processes, which know that they are to end, or are told; who does not end is killed."""
    for process in processes:
        if tell and process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + SECONDS_TO_END
    for process in processes:
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        process.kill()
