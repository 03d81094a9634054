"""Run processes with a time limit, and leave none behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

SECONDS_BETWEEN_LOOKS = 0.05
# How long killed processes may take to be gone.
SECONDS_TO_GO = 5.0
_PR_SET_CHILD_SUBREAPER = 36


class Deadline:
    """A moment by which everything has to end."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def left(self) -> float:
        """Tell how many seconds are left; never less than none."""
        return max(0.0, self._end - self._clock())

    def within(self, seconds: float) -> Deadline:
        """Make a deadline in so many seconds, or at this one's own moment if that is sooner."""
        return Deadline(min(seconds, self.left()), self._clock)


class TimedOutError(Exception):
    """Raised when a process was killed because its time was over."""


class Child:
    """A process in a session of its own, so that it can be killed with everything that it has started."""

    def __init__(self, pid: int, process: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self._process = process
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        if self._code is None:
            if self._process is not None:
                self._code = self._process.poll()
            else:
                found, status = os.waitpid(self.pid, os.WNOHANG)
                self._code = os.waitstatus_to_exitcode(status) if found else None
        return self._code

    def wait(self, deadline: Deadline) -> int:
        """Wait for its end and return the exit code.

        Raises:
            TimedOutError: the deadline came first; the process and its children were killed.
        """
        try:
            while (code := self.poll()) is None:
                if not deadline.left():
                    raise TimedOutError
                time.sleep(SECONDS_BETWEEN_LOOKS)
        except BaseException:  # an interrupt too
            self.kill()
            raise
        return code

    def kill(self) -> None:
        """Kill the process and everything that it has started."""
        for pid in [self.pid, *descendants(self.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._code is None:
            # Before it is waited for, its number cannot be anybody else's.
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            while self.poll() is None:
                time.sleep(SECONDS_BETWEEN_LOOKS)


def start_command(command: Sequence[str], log: Path, variables: Mapping[str, str]) -> Child:
    """Start a command; ``log`` takes what it says, ``variables`` come on top of the environment."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
            start_new_session=True,
        )
    return Child(process.pid, process)


def start_fork(work: Callable[[], int], log: Path, variables: Mapping[str, str]) -> Child:
    """Do ``work``, which returns an exit code, in a fork of this process; else as :func:`start_command`."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid)
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _send_output_to(log)
        os.environ.update(variables)
        code = work()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 (nothing of the parent's may run in the fork)
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _send_output_to(log: Path) -> None:
    output, nothing = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(output)
    os.close(nothing)
    # Whatever the parent's streams wrote to.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))


def descendants(pid: int) -> list[int]:
    """List the processes that ``pid`` and its children have started and that still run (Linux; elsewhere none)."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            # The name, in brackets, may hold blanks and brackets itself.
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(stat.parent.name))
    found, ahead = [], [pid]
    while ahead:
        mine = children.get(ahead.pop(), [])
        found += mine
        ahead += mine
    return found


def adopt_orphans() -> None:
    """Become the parent of whatever a killed child leaves behind, so that it can be found (Linux alone)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def orphans_after(seconds: float) -> int:
    """Count the processes below this one that are still there after ``seconds``, at most; no child may be running."""
    deadline = Deadline(seconds)
    while (left := descendants(os.getpid())) and deadline.left():
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return len(left)


def kill_all() -> None:
    """Kill every process below this one; no child may be needed any more."""
    deadline = Deadline(SECONDS_TO_GO)
    while (left := descendants(os.getpid())) and deadline.left():
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(SECONDS_BETWEEN_LOOKS)


@contextmanager
def work_folder(given: Path | None, prefix: str) -> Iterator[Path]:
    """Make the folder ``given``, which stays; without one make a temporary folder, which goes at the end."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Handle SIGTERM as Ctrl-C is handled."""
    raise KeyboardInterrupt


def last_words(log: Path, most: int = 300) -> str:
    """Return the end of the last line of a log that is not empty."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line[-most:] for line in reversed(lines) if line), "it said nothing")


def print_line(text: str) -> None:
    """Print a line of progress; results alone go to stdout."""
    print(text, file=sys.stderr, flush=True)
