"""A disk without room: told from other errors, and said as what it is."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from pcl_auto.errors import Problem, ResourceError

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
