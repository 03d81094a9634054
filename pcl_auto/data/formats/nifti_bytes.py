"""The bytes of a NIfTI file, counted and checked to the last one.

nnU-Net's default reader fills what a truncated file lacks with zeros, and both common readers skip the
checksum of a gzip file. Here a file is read to its end, every checksum is verified, and the header is
believed only as far as the file can bear it out.
"""

from __future__ import annotations

import os
import stat
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from pcl_auto.data.formats.nifti_header import NIFTI1_BYTES, NIFTI2_BYTES, Header, header_length, judge_header
from pcl_auto.errors import Problem

if TYPE_CHECKING:
    from pathlib import Path

Voxels = npt.NDArray[Any]

_CHUNK = 1 << 24
_COMPRESSED_CHUNK = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
# Deflate cannot do better than 1032 bytes out for one byte in, so this bounds what a gzip file can hold.
_DEFLATE_LIMIT = 1032
# Zeros that a writer may leave after the last voxel to fill up a block.
_PADDING = 4096

_COPY_AGAIN = "copy the file again from its source and compare the sizes and checksums of both"
_EXPORT_AGAIN = "export the volume again from its source"
_SIGNATURES = (
    (0, b"PK\x03\x04", "a zip archive"),
    (0, _GZIP_MAGIC, "gzip data"),
    (0, b"BZh", "bzip2 data"),
    (0, b"\xfd7zXZ", "xz data"),
    (0, b"\x28\xb5\x2f\xfd", "zstd data"),
    (0, b"NRRD", "an NRRD image"),
    (0, b"ObjectType", "a MetaImage"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (0, b"%PDF", "a PDF document"),
    (128, b"DICM", "a DICOM file"),
    (257, b"ustar", "a tar archive"),
    (344, b"ni1\0", "the header of a two-file NIfTI (.hdr and .img)"),
)


class _Source(Protocol):
    """Something to read bytes from; ``b""`` means the end."""

    def read(self, count: int, /) -> bytes: ...


class _GzipBytes:
    """The content of a gzip file; reading to the end has verified every checksum, or raised `zlib.error`.

    ``cut`` is true once the file has ended before its gzip data did.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.cut = False
        self._file = file
        self._pending = b""
        self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def read(self, count: int, /) -> bytes:
        while not self.cut:
            if self._inflater.eof and not self._start_next_member():
                return b""
            compressed = self._pending or self._file.read(_COMPRESSED_CHUNK)
            data = self._inflater.decompress(compressed, count)
            self._pending = self._inflater.unused_data or self._inflater.unconsumed_tail
            if data:
                return data
            self.cut = not compressed and not self._inflater.eof
        return b""

    def _start_next_member(self) -> bool:
        """Whether another gzip member follows; zeros between members are padding."""
        while not self._pending.lstrip(b"\0"):
            self._pending = self._file.read(_COMPRESSED_CHUNK)
            if not self._pending:
                return False
        self._pending = self._pending.lstrip(b"\0")
        self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        return True


def read_volume(path: Path) -> tuple[tuple[Header, Voxels] | None, list[Problem]]:
    """Read a single-file NIfTI, plain or gzip, to its last byte; whatever is wrong is returned, never raised.

    Returns:
        The header with the stored (unscaled) voxels (x, y, z, channels), or None; and the problems.
    """
    where = str(path)
    try:
        refusal = _refuse_unreadable(path)
        if refusal:
            return None, [refusal]
        with path.open("rb") as file:
            return _read_open(file, path.name, where)
    except OSError as error:
        fix = "make the file readable for you, and check the disk if it should be"
        return None, [Problem("data.unreadable", "file cannot be read", where, fix, found=error.strerror or str(error))]
    except zlib.error as error:
        return None, [_damaged(where, error)]
    except MemoryError:
        return None, [
            Problem("memory.too-small", "volume does not fit into memory", where, "use a machine with more memory")
        ]


def _refuse_unreadable(path: Path) -> Problem | None:
    """Refuse what is not a file with content; nothing but a regular file is ever opened."""
    where = str(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        return Problem("data.missing", "file does not exist", where, "restore the file, or take it out of dataset.json")
    if not stat.S_ISREG(status.st_mode):
        found = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
        return Problem(
            "data.not-a-file", "not a file", where, "put the NIfTI file itself in this place", "a NIfTI file", found
        )
    if status.st_size == 0:
        return Problem("data.empty", "empty file", where, _COPY_AGAIN, "a NIfTI file", "0 bytes")
    return None


def _read_open(file: BinaryIO, name: str, where: str) -> tuple[tuple[Header, Voxels] | None, list[Problem]]:
    size = os.fstat(file.fileno()).st_size
    zipped = file.read(2) == _GZIP_MAGIC
    file.seek(0)
    source: _GzipBytes | BinaryIO = _GzipBytes(file) if zipped else file
    block, refusal = _read_header(source, name, where, zipped=zipped)
    if refusal:
        return None, [refusal]
    header, problems = judge_header(block, where)
    if header is None:
        return None, problems
    refusal = _refuse_excess(header, size, where, zipped=zipped)
    if refusal:
        return None, [refusal]
    return _read_voxels(source, header, len(block), where)


def _read_header(source: _Source, name: str, where: str, *, zipped: bool) -> tuple[bytes, Problem | None]:
    block = bytearray(NIFTI1_BYTES)
    count = _fill(source, memoryview(block))
    head = bytes(block[:count])
    length = header_length(head) if count == NIFTI1_BYTES else None
    if length is None:
        return b"", _not_nifti(head, where, zipped=zipped)
    if zipped != name.endswith(".gz"):
        content, ending = ("gzip", ".nii.gz") if zipped else ("plain NIfTI", ".nii")
        fix = f"rename the file so that it ends in {ending}"
        return b"", Problem(
            "nifti.name-and-content", "name and content disagree", where, fix, f"{ending} for {content} data", name
        )
    rest = bytearray(length - NIFTI1_BYTES)
    if _fill(source, memoryview(rest)) < len(rest):
        return b"", Problem("nifti.header-truncated", "truncated header", where, _COPY_AGAIN, f"{NIFTI2_BYTES} bytes")
    return head + bytes(rest), None


def _refuse_excess(header: Header, size: int, where: str, *, zipped: bool) -> Problem | None:
    """Refuse a header that claims more than ``size`` bytes of file can hold, before memory is taken."""
    most = size * _DEFLATE_LIMIT if zipped else size
    if header.offset >= most:
        return Problem(
            "nifti.offset-beyond-end",
            "vox_offset beyond the end of the file",
            where,
            _EXPORT_AGAIN,
            f"less than {most}",
            str(header.offset),
        )
    if header.offset + header.voxel_bytes <= most:
        return None
    if not zipped:
        return _truncated(header, size - header.offset, where)
    return Problem(
        "nifti.claims-too-much",
        "header claims more voxels than the file can hold",
        where,
        f"{_COPY_AGAIN}; if they agree, {_EXPORT_AGAIN}",
        f"{header.voxel_bytes} bytes of voxels",
        f"{size} bytes of gzip data",
    )


def _read_voxels(
    source: _GzipBytes | BinaryIO, header: Header, consumed: int, where: str
) -> tuple[tuple[Header, Voxels] | None, list[Problem]]:
    """Read from byte ``consumed`` to the end; the memory taken is the volume's own plus one chunk."""
    _skip(source, header.offset - consumed)
    raw = np.empty(header.voxel_bytes, dtype=np.uint8)
    count = _fill(source, raw.data)
    if count < header.voxel_bytes:
        whole = isinstance(source, _GzipBytes) and not source.cut
        return None, [_truncated(header, count, where, whole_gzip=whole)]
    tail = bytearray(_PADDING + 1)
    extra = _fill(source, memoryview(tail))
    if isinstance(source, _GzipBytes) and source.cut:
        return None, [
            Problem("data.truncated", "truncated file", where, _COPY_AGAIN, "a gzip checksum at the end", "none")
        ]
    if extra > _PADDING or any(tail):
        amount = f"more than {_PADDING}" if extra > _PADDING else str(extra)
        expected = f"{header.voxel_bytes} bytes of voxels and the end of the file"
        problem = Problem(
            "nifti.trailing-data", "data after the last voxel", where, _EXPORT_AGAIN, expected, f"{amount} more bytes"
        )
        return None, [problem]
    voxels = raw.view(header.dtype).reshape((*header.shape, header.channels), order="F")
    return (header, voxels), []


def _fill(source: _Source, target: memoryview) -> int:
    """Read into ``target`` until it is full or the source ends; the number of bytes read."""
    done = 0
    while done < len(target):
        data = source.read(min(_CHUNK, len(target) - done))
        if not data:
            break
        target[done : done + len(data)] = data
        done += len(data)
    return done


def _skip(source: _Source, count: int) -> None:
    """Read past ``count`` bytes, or to the end; what is missing shows when the voxels are read."""
    while count > 0:
        data = source.read(min(_CHUNK, count))
        if not data:
            return
        count -= len(data)


def _truncated(header: Header, count: int, where: str, *, whole_gzip: bool = False) -> Problem:
    # An intact gzip checksum means that the file was written this way: a fresh copy would not help.
    return Problem(
        "nifti.too-few-voxels" if whole_gzip else "data.truncated",
        "fewer voxels than the header says" if whole_gzip else "truncated file",
        where,
        _EXPORT_AGAIN if whole_gzip else _COPY_AGAIN,
        f"{header.voxel_bytes} bytes of voxels",
        f"{count}",
    )


def _damaged(where: str, error: zlib.error) -> Problem:
    reason = str(error).rpartition(": ")[2]
    mismatch = reason.endswith(("data check", "length check"))
    code = "data.gzip-checksum" if mismatch else "data.gzip-damaged"
    what = "gzip checksum (CRC) mismatch" if mismatch else "damaged gzip data"
    return Problem(code, what, where, _COPY_AGAIN, "the bytes that were once compressed", reason)


def _not_nifti(head: bytes, where: str, *, zipped: bool) -> Problem:
    sizes = [size.to_bytes(4, order) for size in (NIFTI1_BYTES, NIFTI2_BYTES) for order in ("little", "big")]
    if len(head) < NIFTI1_BYTES and head[:4] in sizes:
        return Problem(
            "nifti.header-truncated", "truncated header", where, _COPY_AGAIN, f"{NIFTI1_BYTES} bytes", str(len(head))
        )
    kind = _detect(head)
    fix = (
        "fetch the real file with: git lfs pull"
        if "LFS" in kind
        else "replace it by the volume in NIfTI format (.nii or .nii.gz)"
    )
    return Problem(
        "nifti.not-nifti", "not a NIfTI file", where, fix, "NIfTI", f"gzip data with {kind} inside" if zipped else kind
    )


def _detect(head: bytes) -> str:
    """What the first bytes of a file look like, in words."""
    for position, signature, kind in _SIGNATURES:
        if head[position : position + len(signature)] == signature:
            return kind
    if not head:
        return "nothing"
    if not any(head):
        return "zeros only"
    if head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c"):
        return "an Analyze or damaged NIfTI header"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        start = head[:40].decode("utf-8", "replace").split("\n")[0]
        return f"text ({start!r})"
    return "unknown data"
