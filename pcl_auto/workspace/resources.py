"""Ask the system for room on the disk, for memory and for optional packages, and say plainly what it refuses."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import psutil

from pcl_auto.errors import Problem, ResourceError, UsageError

# No space left, quota used up, larger than files may be.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CHUNK = bytes(2**20)
_STATUS, _CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_OWN_GROUPS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# A control group's limit, its use, and the part of that which is cache and given back on demand: version 2, version 1.
_GROUP_FILES = ("memory.max", "memory.current", "inactive_file")
_OLD_GROUP_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def is_full(error: BaseException | None) -> bool:
    """Tell whether an error, or one that led to it, is a disk without room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def has_room(folder: Path, size: int) -> bool:
    """Try whether ``size`` more bytes can be written to a new file in ``folder``: a quota shows in no figure."""
    probe = folder / "room"
    try:
        with probe.open("wb", buffering=0) as handle:
            return all(handle.write(_CHUNK) == len(_CHUNK) for _ in range(0, size, len(_CHUNK)))
    except OSError as error:
        if error.errno in _FULL:
            return False
        raise
    finally:
        probe.unlink(missing_ok=True)


def size_mb(folder: Path) -> float:
    """Return the size of the files in ``folder`` and below, links left out, in MB (2^20 bytes)."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(file.stat().st_size for file in files) / 2**20


def free_bytes(folder: Path) -> int:
    """Return the room on the disk of ``folder``, or of the nearest folder above it that is there."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.is_dir())).free


def full_disk(target: Path, written: int) -> ResourceError:
    """Return the error for a disk that had room for ``written`` bytes of ``target`` and no more."""
    free = free_bytes(target.parent)
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
    free = free_bytes(folder)
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


def peak_memory_mb() -> int:
    """Return the most resident memory of this process so far, in MB (2^20 bytes)."""
    # Linux counts the process that started this one into ru_maxrss, but not into VmHWM.
    if _STATUS.is_file():
        peak_kb = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
        if peak_kb is not None:
            return int(peak_kb[1]) // 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KB, macOS in bytes.
    return int(peak / (2**20 if sys.platform == "darwin" else 2**10))


def available_memory_mb() -> int:
    """Return the memory in MB that this process may still take without swapping.

    A container or a batch job may have less than the machine: a limit on any control group above this process counts.
    """
    return min([int(psutil.virtual_memory().available) // 2**20, *_left_by_groups_mb()])


def _left_by_groups_mb() -> Iterator[int]:
    """Yield the memory in MB that each control group of this process leaves to it, from its own up to the root."""
    with suppress(OSError):  # no Linux, no control groups
        for line in _OWN_GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root, files = (_GROUPS / "memory", _OLD_GROUP_FILES) if controllers else (_GROUPS, _GROUP_FILES)
            group = root / path.lstrip("/")
            # In a container the path may be that of the host: then the root alone is there, with the limit.
            for folder in (group, *group.parents[: len(group.parts) - len(root.parts)]):
                with suppress(OSError, ValueError):  # ValueError: the limit is "max", which is none
                    limit, used = (int((folder / name).read_text(encoding="ascii")) for name in files[:2])
                    yield (limit - used + _cache_bytes(folder / "memory.stat", files[2])) // 2**20


def _cache_bytes(stat: Path, name: str) -> int:
    """Return the entry ``name`` of a control group's ``memory.stat``; 0 where it is not told."""
    text = stat.read_text(encoding="ascii") if stat.is_file() else ""
    found = re.search(rf"^{name} (\d+)$", text, re.MULTILINE)
    return 0 if found is None else int(found[1])


def forget_peak_memory() -> None:
    """Let :func:`peak_memory_mb` count from here, where the system can (Linux)."""
    with suppress(OSError):
        _CLEAR_PEAK.write_text("5", encoding="ascii")


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


def _refused(code: str, fix: str) -> Problem:
    return Problem(code, "the system refused a file operation", "", fix)


_LESS_MEMORY = "close other programs, or ask for more memory, then repeat the command: it goes on"
_NOT_PERMITTED = _refused("disk.not-permitted", "choose a place that you may read and write, or change its permissions")
_TOO_MANY_FILES = _refused(
    "disk.too-many-open-files", "raise the limit on open files (ulimit -n), then repeat the command: it goes on"
)
_REFUSED = {
    errno.ENOSPC: _refused("disk.full", "make room on the disk, then repeat the command: it goes on"),
    errno.EDQUOT: _refused("disk.full", "make room or ask for a larger quota, then repeat the command: it goes on"),
    errno.EFBIG: _refused(
        "disk.full", "raise the limit on the size of files (ulimit -f), then repeat the command: it goes on"
    ),
    errno.EROFS: _refused("disk.unwritable", "choose a place that can be written, with --workspace or -o"),
    errno.EACCES: _NOT_PERMITTED,
    errno.EPERM: _NOT_PERMITTED,
    errno.ENOTDIR: _refused(
        "disk.not-a-folder", "choose another place, with --workspace or -o: a file is where a folder should be"
    ),
    errno.ENAMETOOLONG: _refused("disk.name-too-long", "choose a place with a shorter path, with --workspace or -o"),
    errno.EIO: _refused("disk.io-error", "check the disk or the network drive, then repeat the command: it goes on"),
    errno.ESTALE: _refused("disk.stale", "mount the network drive again, then repeat the command: it goes on"),
    errno.EMFILE: _TOO_MANY_FILES,
    errno.ENFILE: _TOO_MANY_FILES,
    errno.ENOMEM: _refused("memory.too-small", _LESS_MEMORY),
}


# What libraries say that have no exception of their own for it.
_NO_MEMORY = re.compile(
    r"out of memory|[Cc](annot|an't) allocate|not enough memory|_ALLOC_FAILED|bad_alloc|"
    r"[Ff]ailed to (allocate|map segment)"
)
_NO_THREADS = _refused(
    "memory.no-more-threads", "raise the limit on processes (ulimit -u), then repeat the command: it goes on"
)
_REFUSED[errno.EAGAIN] = _NO_THREADS


def as_resource_error(error: Exception) -> ResourceError | None:
    """Return an error that names what the system could not give, with a fix; None for a fault of the program."""
    told = str(error)
    if isinstance(error, RuntimeError) and "can't start new thread" in told:
        return ResourceError(replace(_NO_THREADS, found=told))
    if isinstance(error, UnicodeEncodeError) and error.encoding.replace("-", "") != "utf8":
        fix = "export LC_ALL=C.UTF-8, then repeat the command"
        return ResourceError(
            Problem("disk.name-not-encodable", "the locale has no such characters", "", fix, found=told)
        )
    if isinstance(error, MemoryError) or (
        isinstance(error, (ImportError, RuntimeError)) and _NO_MEMORY.search(told) is not None
    ):
        return ResourceError(
            Problem("memory.too-small", "the memory does not suffice", "", _LESS_MEMORY, found=str(error))
        )
    if not isinstance(error, OSError) or error.errno not in _REFUSED:
        return None
    where = " → ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return ResourceError(replace(_REFUSED[error.errno], where=where, found=error.strerror or ""))


_LOOP = "Symlink loop from"


def as_refused_operation(error: Exception) -> ResourceError | None:
    """Return the refusal that an error of the system is, of whatever kind; None for one of the program."""
    if isinstance(error, RuntimeError) and str(error).startswith(_LOOP):  # pathlib before Python 3.13
        error = OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(error).removeprefix(_LOOP).strip(" '"))
    if not isinstance(error, OSError) or error.errno is None:
        return None
    where = " → ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    fix = "see whether the file is there and what it is, then repeat the command; --debug shows what was being done"
    return ResourceError(replace(_refused("disk.refused", fix), where=where, found=error.strerror or ""))


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
