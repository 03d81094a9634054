"""Write text, JSON and links whole, with names in them that steer no terminal and no spreadsheet."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pcl_auto.errors import PclautoError, Problem, StateError
from pcl_auto.workspace.atomic import atomic_path
from pcl_auto.workspace.shapes import mismatch

# Anyone may have chosen the names of files, cases and classes. JSON leaves these characters of them as they are:
# controls of a terminal, changes of the direction of text, what takes no room, halves of characters.
_STEERING = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
# Larger files are none that this package or nnU-Net writes, and deeper ones neither.
MAX_JSON_BYTES, MAX_JSON_DEPTH = 2**28, 64
_MAX_DIGITS = 40


def printable(text: str) -> str:
    """Return ``text`` without control characters: a file name must not steer the terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def is_utf8(path: Path) -> bool:
    """Tell whether a path is UTF-8 text for the file system too: libraries in C and C++ hand on no other one."""
    try:
        return str(path).encode() == os.fsencode(path)
    except UnicodeEncodeError:
        return False


def json_text(value: Any, **options: Any) -> str:
    """Return ``value`` as JSON that is readable in every language; ``options`` are those of json.dumps."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return _STEERING.sub(lambda found: json.dumps(found[0])[1:-1], text)


def table_cell(text: str) -> str:
    """Return ``text`` for a CSV file, marked as text where a spreadsheet would compute it."""
    return ("'" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else "") + printable(text)


def write_text(target: Path, text: str) -> None:
    """Write ``text`` to ``target``, whole or not at all; halves of characters, as names of files hold, are escaped."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


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


def parse_json(path: Path) -> Any:
    """Parse a JSON file whose content nobody vouches for.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no regular file, too large, no UTF-8 text, or no JSON; or it is too deep, has a key twice, or
            a number that no number type holds. NaN and Infinity are accepted: nnU-Net writes them.
    """
    if not path.is_file():
        raise ValueError("no such file" if not path.exists() else "no regular file")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"more than {MAX_JSON_BYTES} bytes")
    try:
        content = json.loads(
            path.read_text(encoding="utf-8"), parse_int=_whole, parse_float=_decimal, object_pairs_hook=_without_repeats
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [content]
    for _depth in range(MAX_JSON_DEPTH):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list))]
        level = [entry for entries in inner for entry in entries]
        if not level:
            return content
    raise ValueError("nested too deeply")


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _decimal(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"a number that is too large: {text[:_MAX_DIGITS]}")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        repeated = next(key for key, number in Counter(key for key, _ in pairs).items() if number > 1)
        raise ValueError(f"the key {repeated[:_MAX_DIGITS]!r} twice")
    return table


_REPEAT = "restore the file, or repeat the step that made it with --force or --restart"


def read_json(path: Path, shape: Any = object, *, fix: str = _REPEAT) -> Any:
    """Parse a JSON file that this package or nnU-Net wrote.

    Args:
        path: the file.
        shape: of its content, see :mod:`pcl_auto.workspace.shapes`.
        fix: what to do where it is damaged.

    Raises:
        StateError: the file is missing or damaged, or its content has another shape.
    """
    refuse_irregular(path, StateError)
    try:
        content = parse_json(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error), fix) from error
    require_shape(content, shape, path, fix=fix)
    return content


def require_shape(content: Any, shape: Any, path: Path, *, fix: str = _REPEAT) -> None:
    """Make sure that the content of a file has a shape, see :mod:`pcl_auto.workspace.shapes`.

    Raises:
        StateError: it has another one.
    """
    if (found := mismatch(content, shape)) is not None:
        raise _unreadable(path, found, fix)


def _unreadable(path: Path, found: str, fix: str) -> StateError:
    expected = "the JSON that pclauto or nnU-Net wrote there"
    return StateError(Problem("run.file-unreadable", "file cannot be read", str(path), fix, expected, found))


def read_kept(path: Path, shape: Any = object) -> Any:
    """Parse a JSON file that can be made again; return None where it is missing or damaged."""
    try:
        return read_json(path, shape)
    except StateError:
        return None


def read_table(path: Path, needed: Collection[str], numbers: Callable[[str], bool]) -> list[dict[str, str]]:
    """Read a CSV file that this package wrote, row by row.

    Args:
        path: the file.
        needed: columns that every row has.
        numbers: tells of a column's name whether its values are numbers, or empty.

    Raises:
        StateError: the file is missing or damaged, or makes no sense.
    """
    with refusing_nonsense(path):
        if not path.is_file():
            raise ValueError("no regular file")
        with path.open(encoding="utf-8", newline="") as table:
            rows = list(csv.DictReader(table, strict=True))
        for row in rows:
            if None in row or None in row.values() or not row.keys() >= set(needed):
                raise ValueError("a line without all columns, or with more")
            for column, value in row.items():
                # float() takes digits of every script, and 1_0 for ten.
                is_plain = value.isascii() and "_" not in value
                if numbers(column) and value and not (is_plain and math.isfinite(float(value))):
                    raise ValueError(f"{column} {value}")
    return rows


@contextmanager
def refusing_nonsense(path: Path) -> Iterator[None]:
    """Refuse a file whose content makes no sense as what it is read for, by whatever error that shows.

    Raises:
        StateError: naming the file.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, csv.Error) as error:
        found = f"{type(error).__name__}: {error}"
        raise StateError(
            Problem("run.file-senseless", "file makes no sense", str(path), _REPEAT, found=found)
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
