"""Files that are complete under their final name, or not there."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pcl_auto.errors import Problem, StateError
from pcl_auto.run.names import json_text

# Temporary names live beside their target, in a folder that no reader lists (nnU-Net takes every file in its own
# folders for a case).
STAGING = ".tmp"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def staging_folder(beside: Path) -> Iterator[Path]:
    """Yield a new folder on the file system of ``beside``, in a ``.tmp`` next to it; what is left in it is removed."""
    parent = beside.parent / STAGING
    while True:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
        except (FileNotFoundError, FileExistsError):  # another process has just tidied up behind itself
            if parent.is_file():
                raise
            continue
        break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another process stages here too
            parent.rmdir()


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path with the name of ``target``; on success it is synced and renamed to ``target``."""
    with staging_folder(target) as folder:
        temporary = folder / target.name
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)


def write_text(target: Path, text: str) -> None:
    """Write ``text`` to ``target``, whole or not at all."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any, *, default: Callable[[Any], Any] | None = None) -> None:
    """Write ``value`` as indented JSON with a final newline, whole or not at all."""
    write_text(target, json_text(value, indent=2, default=default) + "\n")


def finite(value: Any) -> Any:
    """``value`` with None for what is no finite number, all the way down: JSON knows no NaN."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """The parsed content of a JSON file that this package wrote.

    Raises:
        StateError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StateError(
            Problem(
                what="file cannot be read",
                where=str(path),
                expected="the JSON that pclauto or nnU-Net wrote there",
                found=str(error),
                fix="restore the file, or repeat the step that made it with --force or --restart",
            )
        ) from error


def link_relative(target: Path, source: Path) -> None:
    """Make ``target`` a relative symbolic link to ``source``, replacing one that is there.

    Relative, so that a workspace can be moved or mounted elsewhere; a copy where links are not to be had.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() or target.exists():
        target.unlink()
    try:
        target.symlink_to(os.path.relpath(source.resolve(), target.parent.resolve()))
    except OSError:
        shutil.copyfile(source, target)
