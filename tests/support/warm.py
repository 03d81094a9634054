"""Run Python commands as forks of one process that has imported torch and nnU-Net's dependencies already.

Importing them takes 4 to 13 CPU-seconds; a fork takes 20 ms. What stays true of a real process: it has its own
environment, folder, arguments and standard files, imports ``pcl_auto`` and ``nnunetv2`` anew (which read the
environment as they are imported), and ends through the interpreter's own exit handlers.

A process can only be forked while it has one thread: locks that another thread holds would stay locked for ever. So
the libraries are told to start none, and a fork is refused if there are more.
"""

from __future__ import annotations

import array
import atexit
import builtins
import contextlib
import gc
import json
import multiprocessing
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any

# Imported by every command itself, since they look at the environment when they are imported.
FRESH = ("pcl_auto", "nnunetv2")
LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS", "BLOSC_NTHREADS")
AVAILABLE = hasattr(os, "pidfd_open") and Path("/proc/self/task").is_dir()
_SIZE = struct.Struct("!I")
_STANDARD_FILES = 3
SECONDS_TO_IMPORT = 180


class WarmError(RuntimeError):
    """The warm process cannot do what is asked of it."""


@dataclass
class Warm:
    """A warm process, and the socket on which it takes commands."""

    process: subprocess.Popen[bytes]
    address: str

    @classmethod
    def start(cls) -> Warm:
        """Start importing; the first command waits for the end of it."""
        address = tempfile.mktemp(prefix="pclauto-warm-", suffix=".socket")
        ours, theirs = os.pipe()
        process = subprocess.Popen(
            [sys.executable, __file__, address],
            stdin=ours, env={**os.environ, **dict.fromkeys(LIMITS, "1"), "TQDM_DISABLE": "1"}, start_new_session=True,
        )  # fmt: skip
        os.close(ours)
        # Closed by the end of this process, however it ends; the warm one then ends too.
        _KEPT_OPEN.append(theirs)
        return cls(process, address)

    def stop(self) -> None:
        """End the warm process, and wait for it."""
        self.process.terminate()
        self.process.wait()
        Path(self.address).unlink(missing_ok=True)


_KEPT_OPEN: list[int] = []


class Command:
    """A running command: like :class:`subprocess.Popen`, as far as tests need it.

    Args:
        address: of the warm process.
        arguments: of the interpreter: ``-m MODULE ...``, ``-c CODE ...`` or a script.
        cwd: the folder it works in.
        env: all of its environment.
        stdout: a file or descriptor that it writes to.
        stderr: another, or the same.
        pictures: without them a training writes no report and no progress.png, which take half of a short one.
        spawns: without that worker processes that it would start anew are forks too, with the environment of ``env``.
    """

    def __init__(
        self,
        address: str,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdout: IO[bytes] | int,
        stderr: IO[bytes] | int,
        pictures: bool = True,
        spawns: bool = True,
    ) -> None:
        self._socket = _connected(address)
        request = {
            "arguments": list(arguments), "cwd": str(cwd), "env": dict(env), "pictures": pictures, "spawns": spawns,
        }  # fmt: skip
        with Path(os.devnull).open("rb") as nothing:
            files = [file if isinstance(file, int) else file.fileno() for file in (nothing, stdout, stderr)]
            _send(self._socket, request, files)
        self.pid = int(self._answer()["pid"])
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, negative for a signal.

        Raises:
            TimeoutError: the command still runs.
        """
        if self.returncode is None:
            self._socket.settimeout(timeout)
            self.returncode = int(self._answer()["returncode"])
            self._socket.close()
        return self.returncode

    def kill(self) -> None:
        """Kill the command, if it still runs; :meth:`wait` tells which."""
        # By whom it is a child of: another process may have its number by now.
        with contextlib.suppress(OSError):
            self._socket.send(b"k")

    def _answer(self) -> dict[str, Any]:
        answer, _ = _receive(self._socket)
        if "refused" in answer:
            raise WarmError(answer["refused"])
        return answer


def run(
    address: str, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float, **how: bool
) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENTS`` in a fork of the warm process at ``address``, and return what it wrote.

    Raises:
        TimeoutError: the command took longer; it was killed.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        command = Command(address, arguments, cwd=cwd, env=env, stdout=stdout, stderr=stderr, **how)
        try:
            code = command.wait(timeout)
        except BaseException:
            command.kill()
            raise
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return subprocess.CompletedProcess(["python", *arguments], code, *texts)


def _connected(address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    last = time.monotonic() + SECONDS_TO_IMPORT
    while connection.connect_ex(address) != 0:
        if time.monotonic() > last:
            raise WarmError("the warm process does not answer")
        time.sleep(0.05)
    return connection


def _send(connection: socket.socket, content: dict[str, Any], files: Sequence[int] = ()) -> None:
    data = json.dumps(content).encode()
    # The files go with the first bytes.
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    connection.sendmsg([_SIZE.pack(len(data))], ancillary)
    connection.sendall(data)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    head, files, _, _ = socket.recv_fds(connection, _SIZE.size, _STANDARD_FILES)
    if len(head) < _SIZE.size:
        raise WarmError("the warm process is gone")
    missing, parts = _SIZE.unpack(head)[0], []
    while missing:
        part = connection.recv(missing)
        if not part:
            raise WarmError("the warm process is gone")
        parts.append(part)
        missing -= len(part)
    content: dict[str, Any] = json.loads(b"".join(parts))
    return content, files


# --- the warm process ---------------------------------------------------------------------------------------------


def serve(address: str) -> None:
    """Import, then fork a process for every command until standard input is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait for commands
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    _import_all()
    listener.listen(16)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    while True:
        ready = {key.fileobj for key, _ in selector.select()}
        if 0 in ready:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            selector.close()
            listener.close()
            os._exit(_attend(connection))
        connection.close()


def _import_all() -> None:
    """Import everything that a command imports, then forget what looks at the environment."""
    import pcl_auto.cli.main
    import pcl_auto.nnunet.inference.predictor  # noqa: F401
    from pcl_auto.cli.verbs import VERBS, load_verb

    for verb in VERBS:
        load_verb(verb)

    for name in [name for name in sys.modules if name.split(".")[0] in FRESH]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()  # so that collections in the forks leave these pages shared


def _attend(connection: socket.socket) -> int:
    """Take one command, fork it, wait for its end and tell it; kill it if asked to, or if nobody waits for it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, files = _receive(connection)
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        _send(connection, {"refused": f"{threads} threads run: a fork would not be safe"})
        return 1
    child = os.fork()
    if child == 0:
        connection.close()
        _become(request, files)
    for file in files:
        os.close(file)
    _send(connection, {"pid": child})
    with selectors.DefaultSelector() as selector:
        ended = os.pidfd_open(child)
        selector.register(ended, selectors.EVENT_READ)
        selector.register(connection, selectors.EVENT_READ)
        if ended not in {key.fileobj for key, _ in selector.select()}:
            os.kill(child, signal.SIGKILL)
    returncode = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        _send(connection, {"returncode": returncode})
    except OSError:
        return 1
    return 0


def _become(request: dict[str, Any], files: Sequence[int]) -> None:
    """Be ``python ARGUMENTS`` from here to the end of the process."""
    code = 1
    try:
        for target, file in enumerate(files):
            os.dup2(file, target)
        for file in files:
            os.close(file)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        _renew_chance()
        tempfile.tempdir = None  # where TMPDIR says, whatever was asked for before
        if not request["pictures"]:
            _leave_out_pictures()
        if not request["spawns"]:
            _fork_workers()
        code = _interpret(request["arguments"])
    finally:
        try:
            threading._shutdown()  # type: ignore[attr-defined]  # the interpreter's own last step
            atexit._run_exitfuncs()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        finally:
            # Not by returning: taking down everything that was imported takes two seconds.
            os._exit(code)


def _renew_chance() -> None:
    """Draw a new state for NumPy, as a new process has one; Python does so itself, torch begins with a fixed one."""
    import numpy as np

    np.random.seed()  # noqa: NPY002 (the global state is what is meant)


def _leave_out_pictures() -> None:
    from matplotlib.figure import Figure

    import pcl_auto.report.page

    Figure.savefig = lambda *_arguments, **_options: None  # type: ignore[method-assign]
    pcl_auto.report.page.write_report = lambda folder, *_arguments: folder


def _fork_workers() -> None:
    """Let worker processes be forks of a server that is forked now, while this process has one thread.

    It is multiprocessing's own fork server; only its start is another one. It has the environment of now.
    """
    from multiprocessing import forkserver, util

    exec_anew = util.spawnv_passfds
    util.spawnv_passfds = _fork_instead
    forkserver.ensure_running()
    util.spawnv_passfds = exec_anew
    original = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: original(  # type: ignore[assignment]
        "forkserver" if method == "spawn" else method
    )


def _fork_instead(path: bytes, args: Sequence[object], passfds: Sequence[int]) -> int:
    """Do what ``spawnv_passfds`` does for ``python -c CODE``, without importing anything again."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            if int(name) >= _STANDARD_FILES and int(name) not in passfds:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        code = _interpret(["-c", str(args[-1])])
    finally:
        os._exit(code)


def _interpret(arguments: list[str]) -> int:
    """Do what ``python ARGUMENTS`` does; return its exit code."""
    kind, rest = arguments[0], arguments[1:]
    try:
        if kind == "-m":
            sys.path.insert(0, os.getcwd())  # noqa: PTH109 (as Python has it)
            sys.argv = [kind, *rest[1:]]
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.path.insert(0, "")
            sys.argv = [kind, *rest[1:]]
            main = ModuleType("__main__")
            main.__dict__["__builtins__"] = builtins
            sys.modules["__main__"] = main
            exec(compile(rest[0], "<string>", "exec"), main.__dict__)
        else:
            script = os.path.abspath(kind)  # noqa: PTH100 (as Python has it)
            sys.path.insert(0, os.path.dirname(script))  # noqa: PTH120
            sys.argv = [kind, *rest]
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:  # noqa: BLE001 (as the interpreter does)
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
