"""Errors of the system that a user can do something about."""

from __future__ import annotations

import errno
from dataclasses import replace

from pcl_auto.errors import Problem, ResourceError


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
