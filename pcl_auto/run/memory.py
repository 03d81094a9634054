"""The memory of this process: how much it has held, and that it keeps what it will need again."""

from __future__ import annotations

import ctypes
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

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
