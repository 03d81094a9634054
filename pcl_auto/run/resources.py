"""Errors of the system that a user can do something about."""

from __future__ import annotations

import errno

from pcl_auto.errors import Problem, ResourceError

_FIXES = {
    errno.ENOSPC: "make room on the disk, then repeat the command: it goes on",
    errno.EDQUOT: "make room or ask for a larger quota, then repeat the command: it goes on",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), then repeat the command: it goes on",
    errno.EROFS: "choose a place that can be written, with --workspace or -o",
    errno.EACCES: "choose a place that you may read and write, or change its permissions",
    errno.EPERM: "choose a place that you may read and write, or change its permissions",
    errno.ENOTDIR: "choose another place, with --workspace or -o: a file is where a folder should be",
    errno.ENAMETOOLONG: "choose a place with a shorter path, with --workspace or -o",
    errno.EIO: "check the disk or the network drive, then repeat the command: it goes on",
    errno.ESTALE: "mount the network drive again, then repeat the command: it goes on",
    errno.EMFILE: "raise the limit on open files (ulimit -n), then repeat the command: it goes on",
    errno.ENFILE: "raise the limit on open files (ulimit -n), then repeat the command: it goes on",
    errno.ENOMEM: "close other programs, or ask for more memory, then repeat the command: it goes on",
}


def as_resource_error(error: Exception) -> ResourceError | None:
    """What the system could not give, as an error with its fix; None for what is a fault of the program."""
    if isinstance(error, MemoryError):
        return ResourceError(Problem("the memory does not suffice", "", _FIXES[errno.ENOMEM], found=str(error)))
    fix = _FIXES.get(error.errno or 0) if isinstance(error, OSError) else None
    if not isinstance(error, OSError) or fix is None:
        return None
    where = " → ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return ResourceError(Problem("the system refused a file operation", where, fix, found=error.strerror or ""))
