"""The bytes of a NIfTI file, counted and checked to the last one.

nnU-Net's default reader fills what a truncated file lacks with zeros, and both common readers skip the
checksum of a gzip file. Here a file is read to its end, every checksum is verified, and the header is
believed only as far as the file can bear it out.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pcl_auto.data.formats.nifti_header import (
    NIFTI1_BYTES,
    NIFTI2_BYTES,
    Header,
    Mend,
    header_length,
    judge_header,
)
from pcl_auto.errors import DataError, Problem
from pcl_auto.workspace.files import refuse_irregular
from pcl_auto.workspace.resources import as_resource_error, is_full

Voxels = npt.NDArray[Any]

# A gzip file is unpacked in pieces of this many bytes, so that memory holds the volume and one piece.
_CHUNK = 1 << 24
GZIP_MAGIC = b"\x1f\x8b"
# Deflate cannot do better than 1032 bytes out for one byte in, so this bounds what a gzip file can hold.
_DEFLATE_LIMIT = 1032
# Zeros that a writer may leave after the last voxel to fill up a block.
_PADDING = 4096

_COPY_AGAIN = "copy the file again from its source and compare the sizes and checksums of both"
_EXPORT_AGAIN = "export the volume again from its source"
_SIGNATURES = (
    (0, b"PK\x03\x04", "a zip archive"),
    (0, GZIP_MAGIC, "gzip data"),
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


def read_nifti(path: Path, mend: Mend | None = None) -> tuple[tuple[Header, Voxels] | None, list[Problem]]:
    """Read a single-file NIfTI, plain or gzip, to its last byte; problems are returned, never raised.

    Args:
        path: the file.
        mend: changes the fields of the header before they are judged.

    Returns:
        The header with the stored (unscaled) voxels (x, y, z, channels), or None; and the problems.

    Raises:
        ResourceError: there is no room for a temporary file.
    """
    where = str(path)
    try:
        _require_file(path)
        with path.open("rb") as file:
            return _read(file, path, mend), []
    except DataError as error:
        return None, list(error.problems)
    except EOFError:
        expected, found = "gzip data with an end and a checksum", "gzip data that stops in the middle"
        return None, [Problem("data.truncated", "truncated file", where, _COPY_AGAIN, expected, found)]
    except (gzip.BadGzipFile, zlib.error) as error:
        is_mismatch = str(error).startswith(("CRC check", "Incorrect length"))
        code = "data.gzip-checksum" if is_mismatch else "data.gzip-damaged"
        what = "gzip checksum (CRC) mismatch" if is_mismatch else "damaged gzip data"
        expected = "the bytes that were once compressed"
        return None, [Problem(code, what, where, _COPY_AGAIN, expected, str(error).rpartition(": ")[2])]
    except OSError as error:
        if is_full(error) and (refusal := as_resource_error(error)) is not None:
            raise refusal from error  # ITK reads headers from a temporary file
        fix = "make the file readable for you, and check the disk if it should be"
        return None, [Problem("data.unreadable", "file cannot be read", where, fix, found=error.strerror or str(error))]
    except MemoryError:
        fix = "use a machine with more memory"
        return None, [Problem("memory.too-small", "volume does not fit into memory", where, fix)]


def _require_file(path: Path) -> None:
    """Refuse what is not a file with content; nothing but a regular file is ever opened."""
    where = str(path)
    refuse_irregular(path, DataError, "put the NIfTI file itself in this place")
    try:
        status = path.stat()
    except FileNotFoundError as error:
        fix = "restore the file, or leave it out"
        raise DataError(Problem("data.missing", "file does not exist", where, fix)) from error
    if status.st_size == 0:
        raise DataError(Problem("data.empty", "empty file", where, _COPY_AGAIN, "a NIfTI file", "0 bytes"))


def _read(file: io.BufferedReader, path: Path, mend: Mend | None) -> tuple[Header, Voxels]:
    """Read an open file; the memory taken is the volume's own plus one chunk."""
    where = str(path)
    is_zipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    file.seek(0)
    source: io.BufferedIOBase = gzip.GzipFile(fileobj=file) if is_zipped else file
    header, problems = judge_header(_read_header(source, path, is_zipped=is_zipped), where, mend)
    if header is None:
        raise DataError(problems)
    _refuse_excess(header, os.fstat(file.fileno()).st_size, where, is_zipped=is_zipped)
    source.seek(header.offset)
    raw = np.empty(header.voxel_bytes, dtype=np.uint8)
    count = _fill(source, raw.data)
    if count < header.voxel_bytes:
        # Gzip data with an end were written this way: a fresh copy would not help.
        code = "nifti.too-few-voxels" if is_zipped else "data.truncated"
        what = "fewer voxels than the header says" if is_zipped else "truncated file"
        fix = _EXPORT_AGAIN if is_zipped else _COPY_AGAIN
        raise DataError(Problem(code, what, where, fix, f"{header.voxel_bytes} bytes of voxels", str(count)))
    tail = bytearray(_PADDING + 1)
    extra = _fill(source, memoryview(tail))  # reaches the end of gzip data, and so checks them
    if extra > _PADDING or any(tail):
        found = f"more than {_PADDING} more bytes" if extra > _PADDING else f"{extra} more bytes"
        expected = f"{header.voxel_bytes} bytes of voxels and the end of the file"
        what = "data after the last voxel"
        raise DataError(Problem("nifti.trailing-data", what, where, _EXPORT_AGAIN, expected, found))
    return header, raw.view(header.dtype).reshape((*header.shape, header.channels), order="F")


def _read_header(source: io.BufferedIOBase, path: Path, *, is_zipped: bool) -> bytes:
    where = str(path)
    head = source.read(NIFTI1_BYTES)
    length = header_length(head) if len(head) == NIFTI1_BYTES else None
    if length is None:
        raise DataError(_not_nifti(head, where, is_zipped=is_zipped))
    if is_zipped != path.name.lower().endswith(".gz"):
        content, ending = ("gzip", ".nii.gz") if is_zipped else ("plain NIfTI", ".nii")
        what, fix = "name and content disagree", f"rename the file so that it ends in {ending}"
        raise DataError(Problem("nifti.name-and-content", what, where, fix, f"{ending} for {content} data", path.name))
    block = head + source.read(length - NIFTI1_BYTES)
    if len(block) < length:
        raise DataError(_cut_header(block, NIFTI2_BYTES, where))
    return block


def _cut_header(block: bytes, expected_bytes: int, where: str) -> Problem:
    expected, found = f"{expected_bytes} bytes", str(len(block))
    return Problem("nifti.header-truncated", "truncated header", where, _COPY_AGAIN, expected, found)


def _refuse_excess(header: Header, size: int, where: str, *, is_zipped: bool) -> None:
    """Refuse a header that claims more than ``size`` bytes of file can hold, before memory is taken."""
    most = size * _DEFLATE_LIMIT if is_zipped else size
    if header.offset >= most:
        what, found = "vox_offset beyond the end of the file", str(header.offset)
        raise DataError(Problem("nifti.offset-beyond-end", what, where, _EXPORT_AGAIN, f"less than {most}", found))
    if header.offset + header.voxel_bytes <= most:
        return
    expected = f"{header.voxel_bytes} bytes of voxels"
    if not is_zipped:
        found = str(size - header.offset)
        raise DataError(Problem("data.truncated", "truncated file", where, _COPY_AGAIN, expected, found))
    what, found = "header claims more voxels than the file can hold", f"{size} bytes of gzip data"
    fix = f"{_COPY_AGAIN}; if they agree, {_EXPORT_AGAIN}"
    raise DataError(Problem("nifti.claims-too-much", what, where, fix, expected, found))


def _fill(source: io.BufferedIOBase, target: memoryview) -> int:
    """Read into ``target`` until it is full or the source ends, and return the number of bytes."""
    done = 0
    while count := source.readinto(target[done : done + _CHUNK]):
        done += count
    return done


def _not_nifti(head: bytes, where: str, *, is_zipped: bool) -> Problem:
    sizes = [size.to_bytes(4, order) for size in (NIFTI1_BYTES, NIFTI2_BYTES) for order in ("little", "big")]
    if len(head) < NIFTI1_BYTES and head[:4] in sizes:
        return _cut_header(head, NIFTI1_BYTES, where)
    kind = _detect(head)
    fix = "replace it by the volume in NIfTI format (.nii or .nii.gz)"
    if "LFS" in kind:
        fix = "fetch the real file with: git lfs pull"
    found = f"gzip data with {kind} inside" if is_zipped else kind
    return Problem("nifti.not-nifti", "not a NIfTI file", where, fix, "NIfTI", found)


def _detect(head: bytes) -> str:
    """Say what the first bytes of a file look like."""
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
