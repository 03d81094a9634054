"""A task's tar archive, which nobody here packed: looked at whole before a byte of it is written."""

from __future__ import annotations

import tarfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from pcl_auto.errors import DataError, Problem
from pcl_auto.workspace.atomic import publish, staging_folder
from pcl_auto.workspace.events import Listener
from pcl_auto.workspace.system import require_room

# The largest task has about 1,800 files, twice as many with the companions that macOS packs.
MAX_MEMBERS = 20_000
_MAX_HEADER_BYTES = 2**26
_BLOCK = 512
_CHUNK = 2**20
_KINDS = {
    tarfile.SYMTYPE: "symbolic link",
    tarfile.LNKTYPE: "hard link",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "named pipe",
}
_FILES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE})
# What tarfile lets out when a header makes no sense.
_NONSENSE = (tarfile.TarError, ValueError, ArithmeticError, LookupError, EOFError, RecursionError)
_FIX = "do not use this archive; download it again, from a place that you trust"


class File(NamedTuple):
    """A file of an archive: its path below the task's folder, and the bytes of the archive that are its content."""

    path: PurePosixPath
    offset: int
    size: int


def extract_task(archive: Path, target: Path, listener: Listener | None = None) -> None:
    """Unpack the plain tar ``archive``, which holds one folder named as ``target``, to ``target``, whole or not at all.

    Files are regular, new and have the modes that the user's umask gives; what macOS packs beside them (``._*``,
    ``.DS_Store``) is left out. ``listener`` hears ``extract`` with ``done`` and ``total`` files.

    Raises:
        DataError: the archive is damaged or has members that no data set needs; all are listed, nothing is written.
        ResourceError: the disk has no room for the files.
    """
    with archive.open("rb") as handle:
        files, problems = inspect_archive(handle, str(archive), target.name)
        if problems:
            raise DataError(problems)
        target.parent.mkdir(parents=True, exist_ok=True)
        require_room(target.parent, sum(file.size for file in files), f"the files of {target.name}")
        with staging_folder(target) as staging:
            whole = staging / target.name
            for done, file in enumerate(files, 1):
                _write(handle, file, whole / file.path)
                if listener is not None:
                    listener("extract", {"done": done, "total": len(files)})
            publish(whole, target)


def inspect_archive(handle: BinaryIO, where: str, folder: str) -> tuple[list[File], list[Problem]]:
    """The files of a tar archive, all of which must lie in ``folder``, and everything that is wrong with it."""
    size = handle.seek(0, 2)
    handle.seek(0)
    files: list[File] = []
    problems: list[Problem] = []
    try:
        with tarfile.open(fileobj=_Headers(handle), mode="r:") as archive:  # type: ignore[call-overload]
            for number, member in enumerate(archive):
                if number == MAX_MEMBERS:
                    code, what = "archive.too-many-members", "archive has too many members"
                    problems.append(Problem(code, what, where, _FIX, f"up to {MAX_MEMBERS}", "more"))
                    return files, problems
                name = PurePosixPath(member.name)
                place = f"{where} ({member.name[:250]})"
                refusal = _refuse_extent(member, size, place)
                if refusal is None and _is_litter(name):
                    continue
                refusal = (
                    refusal
                    or _refuse_name(member.name, folder, place)
                    or _refuse_kind(member, place)
                    or _filtered(member, place)
                )
                if refusal:
                    problems.append(refusal)
                elif not member.isdir():
                    files.append(File(name.relative_to(folder), member.offset_data, member.size))
            end = archive.offset
    except _NONSENSE as error:
        problems.append(
            Problem("archive.unreadable", "archive cannot be read", where, _FIX, "a whole tar archive", str(error))
        )
        return files, problems
    handle.seek(end)
    if handle.read(_BLOCK) != bytes(_BLOCK):
        # tarfile takes a header that is cut off or damaged for the end.
        found = f"something else at byte {end} of {size}"
        problems.append(
            Problem(
                "archive.truncated",
                "archive is truncated or damaged",
                where,
                _FIX,
                "a block of zeros at its end",
                found,
            )
        )
    return files, [*problems, *_refuse_twins(files, where), *_refuse_no_task(files, where)]


class _Headers:
    """A file of which headers alone are read: one that claims to be huge must not fill the memory."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._left = _MAX_HEADER_BYTES
        self.tell = handle.tell

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes."""
        self._left -= size
        if size < 0 or self._left < 0:
            raise tarfile.ReadError("headers of more than 64 MB")
        return self._handle.read(size)

    def seek(self, offset: int) -> int:
        """Go to ``offset``, counted from the start."""
        if offset < 0:
            raise tarfile.ReadError("a member before the start of the archive")
        return self._handle.seek(offset)


def _is_litter(name: PurePosixPath) -> bool:
    return any(part.startswith("._") or part in {".DS_Store", "__MACOSX"} for part in name.parts)


def _refuse_extent(member: tarfile.TarInfo, size: int, where: str) -> Problem | None:
    """Refuse a member whose content does not lie in the archive of ``size`` bytes."""
    # A sparse file claims more than it brings.
    stored = 0 if member.issparse() else member.size
    if stored < 0 or member.offset_data + stored > size:
        expected = f"{member.size} bytes from byte {member.offset_data}"
        return Problem("archive.truncated", "archive is truncated", where, _FIX, expected, f"{size} bytes in all")
    return None


def _refuse_name(name: str, folder: str, where: str) -> Problem | None:
    parts = name.rstrip("/").removeprefix("./").split("/")
    plain = all(part not in {"", ".", ".."} and part.isprintable() and len(part.encode()) <= 255 for part in parts)
    if plain and parts[0] == folder and not set(name) & set("\\:") and len(name) < 1000:
        return None
    what, expected = "archive member leads elsewhere", f"a plain path in {folder}/"
    return Problem("archive.member-elsewhere", what, where, _FIX, expected, repr(name[:250]))


def _refuse_kind(member: tarfile.TarInfo, where: str) -> Problem | None:
    expected = "a file or folder"
    if member.issparse():
        found = f"one that unpacks to {member.size} bytes"
        return Problem("archive.member-sparse", "archive member is a sparse file", where, _FIX, expected, found)
    if member.type not in _FILES and not member.isdir():
        found = f"{_KINDS.get(member.type, f'type {member.type!r}')} {member.linkname[:250]}".rstrip()
        return Problem("archive.member-no-file", "archive member is no file", where, _FIX, expected, found)
    return None


def _filtered(member: tarfile.TarInfo, where: str) -> Problem | None:
    """Refuse what Python's own rules for archives of data refuse; early patch releases lack them."""
    data_filter = getattr(tarfile, "data_filter", None)
    try:
        if data_filter is not None:
            data_filter(member, ".")
    except tarfile.TarError as error:
        what, expected = "archive member is refused by Python", "a file or folder of data"
        return Problem("archive.member-refused", what, where, _FIX, expected, str(error))
    return None


def _refuse_twins(files: list[File], where: str) -> Iterator[Problem]:
    """Names that meet in one file, be it on a disk that ignores case, and files that are folders as well."""
    seen: set[str] = set()
    for file in files:
        name = _folded(file.path)
        if name in seen:
            yield Problem(
                "archive.file-twice",
                "archive holds a file twice",
                f"{where} ({file.path})",
                _FIX,
                "every name once",
                "two",
            )
        seen.add(name)
    folders = {_folded(parent) for file in files for parent in file.path.parents}
    for file in files:
        if _folded(file.path) in folders:
            what = "archive holds a file that is a folder as well"
            yield Problem("archive.file-and-folder", what, f"{where} ({file.path})", _FIX, "one of the two", "both")


def _folded(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def _refuse_no_task(files: list[File], where: str) -> Iterator[Problem]:
    if PurePosixPath("dataset.json") not in {file.path for file in files}:
        yield Problem(
            "archive.no-task", "archive holds no task", where, _FIX, "a dataset.json", f"{len(files)} other files"
        )


def _write(handle: BinaryIO, file: File, path: Path) -> None:
    # A new file with the archive's bytes and nothing else of it: no mode, no owner, no link to follow.
    path.parent.mkdir(parents=True, exist_ok=True)
    handle.seek(file.offset)
    left = file.size
    with path.open("xb") as target:
        while left:
            chunk = handle.read(min(left, _CHUNK))
            if not chunk:
                raise DataError(
                    Problem("archive.shrunk", "archive became shorter while it was read", handle.name, _FIX)
                )
            target.write(chunk)
            left -= len(chunk)
