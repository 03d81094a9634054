"""Write text, JSON and links whole, with names in them that steer no terminal and no spreadsheet."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pcl_auto.errors import PclautoError, Problem, StateError
from pcl_auto.workspace.atomic import atomic_path

# Anyone may have chosen the names of files, cases and classes. JSON leaves these characters of them as they are:
# controls of a terminal, changes of the direction of text, halves of characters.
_STEERING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    """Return ``text`` without control characters: a file name must not steer the terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def json_text(value: Any, **options: Any) -> str:
    """Return ``value`` as JSON that is readable in every language; ``options`` are those of json.dumps."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def table_cell(text: str) -> str:
    """Return ``text`` for a CSV file, marked as text where a spreadsheet would compute it."""
    return ("'" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else "") + printable(text)


def write_text(target: Path, text: str) -> None:
    """Write ``text`` to ``target``, whole or not at all."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any, *, default: Callable[[Any], Any] | None = None) -> None:
    """Write ``value`` as indented JSON with a final newline, whole or not at all."""
    write_text(target, json_text(value, indent=2, default=default) + "\n")


def finite(value: Any) -> Any:
    """Replace what is no finite number in ``value`` by None, all the way down: JSON knows no NaN."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def find_irregular(path: Path, fix: str = "put the file itself in this place") -> Problem | None:
    """Return the problem with a folder, pipe, device or socket in the place of a file; none where nothing is there.

    Nothing is opened: to open a pipe can take forever, and to open a device can do anything.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISREG(mode):
        return None
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe (FIFO)"), (stat.S_ISSOCK, "a socket"))
    found = next((kind for is_kind, kind in kinds if is_kind(mode)), "a device")
    return Problem("data.not-a-file", "not a file", str(path), fix, "a file", found)


def refuse_irregular(path: Path, error: type[PclautoError], fix: str = "put the file itself in this place") -> None:
    """Refuse what :func:`find_irregular` finds.

    Raises:
        PclautoError: of the type ``error``.
    """
    if problem := find_irregular(path, fix):
        raise error(problem)


def read_json(path: Path) -> Any:
    """Parse a JSON file that this package wrote.

    Raises:
        StateError: the file is missing or damaged.
    """
    refuse_irregular(path, StateError)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StateError(
            Problem(
                code="run.file-unreadable",
                what="file cannot be read",
                where=str(path),
                expected="the JSON that pclauto or nnU-Net wrote there",
                found=str(error),
                fix="restore the file, or repeat the step that made it with --force or --restart",
            )
        ) from error


def file_digest(file: Path, algorithm: str = "sha256") -> str:
    """Return the digest of a file, in hexadecimal.

    Raises:
        StateError: it is a folder, pipe or device.
    """
    refuse_irregular(file, StateError)
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with file.open("rb") as handle:
        while block := handle.read(2**20):
            digest.update(block)
    return digest.hexdigest()


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
