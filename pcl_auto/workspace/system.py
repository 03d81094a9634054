"""Packages that only some settings need."""

from __future__ import annotations

import ctypes
import errno
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from pcl_auto.errors import Problem, ResourceError, UsageError

# --- A disk without room: told from other errors, and said as what it is.

# No space left, quota used up, larger than files may be.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CHUNK = bytes(2**20)


def is_full(error: BaseException) -> bool:
    """Whether an error, or one that led to it, is a disk without room."""
    return any(isinstance(each, OSError) and each.errno in _FULL for each in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def has_room(folder: Path, size: int) -> bool:
    """Whether ``size`` more bytes can be written to a new file in ``folder``; by trying: a quota shows in no figure."""
    probe = folder / "room"
    try:
        with probe.open("wb", buffering=0) as handle:
            for _ in range(0, size, len(_CHUNK)):
                if handle.write(_CHUNK) < len(_CHUNK):
                    return False
    except OSError as error:
        if error.errno in _FULL:
            return False
        raise
    finally:
        probe.unlink(missing_ok=True)
    return True


def size_mb(folder: Path) -> float:
    """What the files in ``folder`` and below take, without those that are linked to, in MB (2^20 bytes)."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(file.stat().st_size for file in files) / 2**20


def full_disk(target: Path, written: int) -> ResourceError:
    """The error for a disk that had room for ``written`` bytes of ``target`` and no more."""
    free = shutil.disk_usage(next(folder for folder in target.parents if folder.is_dir())).free
    return ResourceError(
        Problem(
            code="disk.full",
            what="no room to write",
            where=str(target),
            expected=f"room for more than {written} bytes",
            found=f"{free} bytes free on the disk, or a quota or limit for this user that is used up",
            fix="make room, then repeat the command: what was there before is whole, and it goes on from there",
        )
    )


def require_room(folder: Path, size: int, purpose: str) -> None:
    """Refuse to begin what needs ``size`` more bytes in ``folder`` than are free.

    Raises:
        ResourceError: the disk has less room.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ResourceError(
            Problem(
                code="disk.too-small",
                what=f"no room for {purpose}",
                where=str(folder),
                expected=f"{size / 1e9:.2f} GB",
                found=f"{free / 1e9:.2f} GB free on the disk",
                fix="make room, or choose another disk; then repeat the command",
            )
        )


# --- The memory of this process: how much it has held, and that it keeps what it will need again.

_STATUS, _PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MEMORY, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def peak_memory_mb() -> int:
    """The most resident memory of this process so far, in MB (2^20 bytes)."""
    # Linux counts the process that started this one into ru_maxrss, but not into VmHWM.
    if _STATUS.is_file():
        peak_kb = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
        if peak_kb is not None:
            return int(peak_kb[1]) // 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KB, macOS in bytes.
    return int(peak / (2**20 if sys.platform == "darwin" else 2**10))


def available_memory_mb() -> int | None:
    """The memory that this process may still take without swapping, in MB; None where the system does not say."""
    room = []
    if _MEMORY.is_file():
        available_kb = re.search(r"^MemAvailable:\s*(\d+) kB", _MEMORY.read_text(encoding="ascii"), re.MULTILINE)
        room += [int(available_kb[1]) // 2**10] if available_kb is not None else []
    # A container or a batch job may have less than the machine.
    limit, used = (_GROUP / name for name in ("memory.max", "memory.current"))
    with suppress(OSError, ValueError):  # ValueError: the limit is "max", which is none
        room.append((int(limit.read_text(encoding="ascii")) - int(used.read_text(encoding="ascii"))) // 2**20)
    return min(room, default=None)


def forget_peak_memory() -> None:
    """Let :func:`peak_memory_mb` count from here, where the system can (Linux)."""
    with suppress(OSError):
        _PEAK.write_text("5", encoding="ascii")


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next allocation, instead of giving it back to the system.

    Every step of a training on a CPU allocates the same large blocks again; fetching them from the system page by page
    takes up to a third of its time. glibc alone has such settings; elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
    mallopt(_M_TOP_PAD, 64 * 2**20)


# --- Errors of the system that a user can do something about.


def _refused(code: str, fix: str) -> Problem:
    return Problem(code, "the system refused a file operation", "", fix)


_LESS_MEMORY = "close other programs, or ask for more memory, then repeat the command: it goes on"
_REFUSED = {
    errno.ENOSPC: _refused("disk.full", "make room on the disk, then repeat the command: it goes on"),
    errno.EDQUOT: _refused("disk.full", "make room or ask for a larger quota, then repeat the command: it goes on"),
    errno.EFBIG: _refused(
        "disk.full", "raise the limit on the size of files (ulimit -f), then repeat the command: it goes on"
    ),
    errno.EROFS: _refused("disk.unwritable", "choose a place that can be written, with --workspace or -o"),
    errno.EACCES: _refused(
        "disk.not-permitted", "choose a place that you may read and write, or change its permissions"
    ),
    errno.EPERM: _refused(
        "disk.not-permitted", "choose a place that you may read and write, or change its permissions"
    ),
    errno.ENOTDIR: _refused(
        "disk.not-a-folder", "choose another place, with --workspace or -o: a file is where a folder should be"
    ),
    errno.ENAMETOOLONG: _refused("disk.name-too-long", "choose a place with a shorter path, with --workspace or -o"),
    errno.EIO: _refused("disk.io-error", "check the disk or the network drive, then repeat the command: it goes on"),
    errno.ESTALE: _refused("disk.stale", "mount the network drive again, then repeat the command: it goes on"),
    errno.EMFILE: _refused(
        "disk.too-many-open-files", "raise the limit on open files (ulimit -n), then repeat the command: it goes on"
    ),
    errno.ENFILE: _refused(
        "disk.too-many-open-files", "raise the limit on open files (ulimit -n), then repeat the command: it goes on"
    ),
    errno.ENOMEM: _refused("memory.too-small", _LESS_MEMORY),
}


def as_resource_error(error: Exception) -> ResourceError | None:
    """What the system could not give, as an error with its fix; None for what is a fault of the program."""
    if isinstance(error, MemoryError):
        return ResourceError(
            Problem("memory.too-small", "the memory does not suffice", "", _LESS_MEMORY, found=str(error))
        )
    refused = _REFUSED.get(error.errno or 0) if isinstance(error, OSError) else None
    if not isinstance(error, OSError) or refused is None:
        return None
    where = " → ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return ResourceError(replace(refused, where=where, found=error.strerror or ""))


# --- Packages that only some settings need.


def require(module: str, extra: str, setting: str) -> None:
    """Make sure that a module is installed, before hours are spent on what needs it.

    Args:
        module: as it is imported.
        extra: of this package, that installs it.
        setting: of the recipe, that needs it.

    Raises:
        UsageError: it is not installed.
    """
    if find_spec(module) is None:
        raise UsageError(
            Problem(
                code="run.package-missing",
                what=f"the package {module} is not installed",
                where=setting,
                fix=f"pip install 'pclauto[{extra}]', or do without {setting}",
            )
        )
