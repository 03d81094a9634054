"""Let files appear under their final name complete or not at all, whatever stops the writer."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from pcl_auto.errors import PclautoError
from pcl_auto.workspace.resources import full_disk, has_room, is_full

# Temporary names live beside their target, in a folder that no reader lists (nnU-Net takes every file in its own
# folders for a case).
STAGING = ".tmp"
# Other processes may tidy up at the same moment so often, and no more.
_MAX_TRIES = 1000


def _here() -> str:
    """Name this machine, and the container in it: disks may be shared, and each knows its own processes alone."""
    namespace = ""
    with suppress(OSError):  # Linux alone has namespaces of processes
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return re.sub(r"[^A-Za-z0-9]+", "-", f"{socket.gethostname()}-{namespace}").strip("-")


_HOST = _here()
_FAULT_VARIABLE = "PCLAUTO_FAULT"
_passed: Counter[str] = Counter()


@contextmanager
def staging_folder(beside: Path) -> Iterator[Path]:
    """Yield a new folder on the file system of ``beside``, in a ``.tmp`` next to it, and remove it afterwards.

    Raises:
        ResourceError: what was written inside found no room on the disk.
    """
    folder = _new_staging(beside.parent / STAGING)
    try:
        yield folder
    except PclautoError:
        raise
    except Exception as error:
        written = max((file.stat().st_size for file in folder.rglob("*") if file.is_file()), default=0)
        # Libraries that write themselves say RuntimeError and leave it at that.
        if is_full(error) or (isinstance(error, RuntimeError) and not has_room(folder, 2 * written + 1)):
            raise full_disk(beside, written) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another process stages here too
            folder.parent.rmdir()


def _new_staging(parent: Path) -> Path:
    tries = _MAX_TRIES
    while True:
        tries -= 1
        try:
            parent.mkdir(parents=True, exist_ok=True)
            _sweep(parent)
            return Path(tempfile.mkdtemp(prefix=f"{_HOST}-{os.getpid()}-", dir=parent))
        except (FileNotFoundError, FileExistsError):  # another process has just tidied up behind itself
            if parent.is_file() or not tries:  # or nothing can be made there at all, as in /proc
                raise


def _sweep(parent: Path) -> None:
    """Remove what processes of this machine left that were killed."""
    for left in parent.glob(f"{_HOST}-*-*"):
        process = left.name.removeprefix(f"{_HOST}-").split("-", 1)[0]
        if process.isascii() and process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path with the name of ``target``; on success sync it and rename it to ``target``."""
    with staging_folder(target) as folder:
        temporary = folder / target.name
        yield temporary
        publish(temporary, target)


def publish(whole: Path, target: Path) -> None:
    """Sync the file or folder ``whole`` and give it the name ``target``, on the same file system.

    A folder of that name is removed first, if it is a folder that takes its place.
    """
    _fault("sync")
    for path in (whole, *whole.rglob("*")) if whole.is_dir() else (whole,):
        if not path.is_symlink():
            _sync(path)
    _fault("rename")
    if whole.is_dir() and target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    whole.replace(target)
    _fault("renamed")
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fault(point: str) -> None:
    """Kill this process if a test asks for it: ``PCLAUTO_FAULT=rename:3`` ends it before the third renaming."""
    wanted = os.environ.get(_FAULT_VARIABLE)
    if wanted is not None:
        _passed[point] += 1
        if wanted == f"{point}:{_passed[point]}":
            os.kill(os.getpid(), signal.SIGKILL)
