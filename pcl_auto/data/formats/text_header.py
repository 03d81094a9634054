"""Hold MetaImage and NRRD files to what the text of their headers promises.

ITK reads these formats, but it trusts them: it goes on after data that do not decompress, follows names of data files
to wherever they lead, and takes its own defaults for numbers that are none. So the header is read here first, strictly,
and every byte of the data is counted; then ITK's reading has to agree with it.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import SimpleITK

from pcl_auto.data.formats.grid import MAX_POSITION_MM, MAX_SPACING_MM, MIN_SPACING_MM
from pcl_auto.errors import DataError, Problem
from pcl_auto.workspace.files import refuse_irregular

Encoding = Literal["raw", "zlib", "gzip"]

# Longer headers than this are none. DICOM tags that ITK copies into one take some ten thousand bytes.
MAX_HEADER_BYTES = 1 << 22
# Data are unpacked in pieces of this many bytes.
_CHUNK = 1 << 22
# Deflate cannot do better than 1032 bytes out for one byte in.
_DEFLATE_LIMIT = 1032
# zlib's window bits: MetaImage's readers detect zlib or gzip, NRRD's take gzip alone.
_WINDOW = {"zlib": 47, "gzip": 31}
# Zeros that a writer may leave after the last voxel to fill up a block.
_PADDING = 4096
# Largest cosine between two axes at right angles, as a mask in NIfTI can hold it.
_MAX_SKEW = 1e-3
# ITK rounds nothing that it reads; a text holds six digits or more.
_ROUNDING = 1e-5
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?")
_INTEGER = re.compile(rb"[+-]?\d{1,18}")
COPY_AGAIN = "copy the file again from its source and compare the sizes and checksums of both"
SAVE_AGAIN = "save the volume again, for example with 3D Slicer or SimpleITK, as .nrrd, .mha or .nii.gz"


@dataclass(frozen=True)
class Piece:
    """A part of the voxels, in the order of the file: where its bytes begin, and how many compressed ones there are.

    ``start`` -1 means that the data end with the file; ``packed_bytes`` None that all that follows is data;
    ``skipped_bytes`` come before the voxels once they are decompressed.
    """

    file: Path
    start: int = 0
    packed_bytes: int | None = None
    skipped_bytes: int = 0


@dataclass(frozen=True)
class TextHeader:
    """A header as its text has it.

    Attributes:
        path: the file with the header.
        sizes: of all axes, the fastest first.
        space_axes: the positions of those that lie in space or time; of the others, one holds the values of a voxel.
        values: of each voxel.
        dtype: of one value, in the byte order of the file.
        spacing_mm: of the first three axes in space.
        origin_mm: in LPS, as ITK has it; None where the header states it by other means.
        directions: the unit vectors (rows) of those axes in LPS.
        encoding: of the data.
        pieces: of equal size.
    """

    path: Path
    sizes: tuple[int, ...]
    space_axes: tuple[int, ...]
    values: int
    dtype: np.dtype[Any]
    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...] | None
    directions: tuple[tuple[float, ...], ...]
    encoding: Encoding
    pieces: tuple[Piece, ...]

    @property
    def data_files(self) -> tuple[Path, ...]:
        """The files beside the header that hold its voxels."""
        return tuple(dict.fromkeys(piece.file for piece in self.pieces if piece.file != self.path))

    @property
    def piece_bytes(self) -> int:
        """Length of the voxels in a piece, in bytes; a Python integer cannot overflow."""
        return math.prod(self.sizes) * self.values * self.dtype.itemsize // len(self.pieces)

    def refuse_impossible_place(self) -> None:
        """Refuse spacing, directions or an origin that no scan has; NaN is refused by every comparison.

        Raises:
            DataError: see above.
        """
        fix = f"correct it from the scan's DICOM headers, or {SAVE_AGAIN}"
        spacing, found = np.array(self.spacing_mm), " x ".join(f"{step:g}" for step in self.spacing_mm) + " mm"
        if not np.all((spacing >= MIN_SPACING_MM) & (spacing <= MAX_SPACING_MM)):
            expected = f"{MIN_SPACING_MM:g} to {MAX_SPACING_MM:g} mm"
            raise self._refusal("header.spacing", "impossible voxel spacing", fix, expected, found)
        cosines = np.array(self.directions) @ np.array(self.directions).T
        if not np.all(np.abs(cosines - np.eye(len(cosines))) <= _MAX_SKEW):
            text = "; ".join(" ".join(f"{value:.4g}" for value in row) for row in self.directions)
            expected = "axes of length 1 at right angles"
            raise self._refusal("header.orientation", "impossible orientation", fix, expected, f"[{text}]")
        if self.origin_mm is not None and not np.all(np.abs(self.origin_mm) <= MAX_POSITION_MM):
            raise self._refusal("header.origin", "impossible origin", fix, "a position in mm", str(self.origin_mm))

    def refuse_other_data(self) -> None:
        """Refuse data that are not the bytes that the header promises, to the last one and its checksum.

        Raises:
            DataError: see above.
            OSError: a file cannot be read.
        """
        for piece in self.pieces:
            with piece.file.open("rb") as file:
                self._count(piece, file)

    def _count(self, piece: Piece, file: BinaryIO) -> None:
        size = os.fstat(file.fileno()).st_size
        if self.encoding == "raw":
            start = size - self.piece_bytes if piece.start == -1 else piece.start
            self._refuse_short(piece.file, size - start if start >= 0 else size)
            file.seek(start + self.piece_bytes)
        else:
            packed = size - piece.start if piece.packed_bytes is None else piece.packed_bytes
            if piece.start + packed > size:
                expected, found = f"{piece.start + packed} bytes", str(size)
                raise self._refusal("data.truncated", "truncated file", COPY_AGAIN, expected, found, piece.file)
            self._refuse_short(piece.file, packed * _DEFLATE_LIMIT)
            file.seek(piece.start)
            self._unpack(piece, file, packed)
            if piece.packed_bytes is not None:
                file.seek(piece.start + packed)
        self._refuse_rest(piece.file, file.read(_PADDING + 1))

    def _refuse_short(self, file: Path, most_bytes: int) -> None:
        """Refuse a header that claims more than ``most_bytes``, before memory is taken."""
        if most_bytes < self.piece_bytes:
            code, what, fix = "data.truncated", "truncated file", f"{COPY_AGAIN}; if they agree, {SAVE_AGAIN}"
            expected, found = f"{self.piece_bytes} bytes of voxels", f"{most_bytes} at most"
            raise self._refusal(code, what, fix, expected, found, file)

    def _unpack(self, piece: Piece, file: BinaryIO, packed_bytes: int) -> None:
        """Decompress a piece and leave the file behind it; memory holds one chunk at a time."""
        promised, left, count = piece.skipped_bytes + self.piece_bytes, packed_bytes, 0
        unpacker = zlib.decompressobj(_WINDOW[self.encoding])
        data = b""
        try:
            while not unpacker.eof and count <= promised:
                if not data:
                    data = file.read(min(_CHUNK, left))
                    left -= len(data)
                unpacked = unpacker.decompress(data, _CHUNK)
                count += len(unpacked)
                if not data and not unpacked:
                    break
                data = unpacker.unconsumed_tail
        except zlib.error as error:
            what, expected = "damaged compressed data", "the bytes that were once compressed"
            raise self._refusal("header.damaged-data", what, COPY_AGAIN, expected, str(error), piece.file) from error
        if count > promised or (unpacker.eof and count < promised):
            what, expected = "other voxels than the header says", f"{promised} bytes"
            found = f"more than {promised}" if count > promised else str(count)
            raise self._refusal("header.other-length", what, SAVE_AGAIN, expected, found, piece.file)
        if not unpacker.eof:
            expected, found = "compressed data with an end and a checksum", "data that stop in the middle"
            raise self._refusal("data.truncated", "truncated file", COPY_AGAIN, expected, found, piece.file)
        self._refuse_rest(piece.file, unpacker.unused_data)
        self._refuse_rest(piece.file, file.read(min(left, _PADDING + 1)))

    def _refuse_rest(self, file: Path, rest: bytes) -> None:
        if len(rest) > _PADDING or any(rest):
            expected, found = "the end of the file after the last voxel", "more data"
            raise self._refusal("header.trailing-data", "data after the last voxel", SAVE_AGAIN, expected, found, file)

    def refuse_other_reading(self, image: SimpleITK.Image) -> None:
        """Refuse a file that ITK reads otherwise than its header says: which of the two is right, nobody knows.

        Raises:
            DataError: see above.
        """
        sizes = tuple(self.sizes[axis] for axis in self.space_axes)
        values = math.prod(self.sizes) * self.values // math.prod(sizes)
        axes = image.GetDimension()
        read = (image.GetSize(), image.GetNumberOfComponentsPerPixel(), SimpleITK.GetArrayViewFromImage(image).dtype)
        spacing, origin = image.GetSpacing()[:3], image.GetOrigin()[:3]
        direction = np.reshape(image.GetDirection(), (axes, axes))[:3, :3]
        if (
            read == (sizes, values, self.dtype.newbyteorder("="))
            and _near(spacing, self.spacing_mm)
            and (self.origin_mm is None or _near(origin, self.origin_mm))
            and _near(direction, np.array(self.directions).T)
        ):
            return
        expected = f"sizes {sizes}, {values} x {self.dtype.name}, spacing {self.spacing_mm}, origin {self.origin_mm}"
        found = f"{read[0]}, {read[1]} x {read[2].name}, {spacing}, {origin}, directions {direction.tolist()}"
        what = "ITK reads the file otherwise than its header says"
        raise self._refusal("header.read-otherwise", what, SAVE_AGAIN, expected, found)

    def _refusal(
        self, code: str, what: str, fix: str, expected: str = "", found: str = "", where: Path | None = None
    ) -> DataError:
        """Return an error about this file, or about one with its data."""
        return DataError(Problem(code, what, str(where or self.path), fix, expected, found))


def _near(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> bool:
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    return ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=_ROUNDING, atol=_ROUNDING)


def bad_field(path: Path, field: str, value: bytes, expected: str) -> DataError:
    """Return the error about a field that makes no sense, or that is missing (an empty value)."""
    found = ascii(value[:80].decode("latin-1")) if value else "nothing"
    what = f"{field} in the header makes no sense"
    return DataError(Problem("header.field", what, str(path), SAVE_AGAIN, expected, found))


def unsupported(path: Path, field: str, value: bytes, fix: str) -> DataError:
    """Return the error about a field that is valid, but that ITK would ignore or that is not supported here."""
    found = ascii(value[:80].decode("latin-1"))
    return DataError(Problem("header.unsupported", f"{field} is not supported", str(path), fix, found=found))


def whole_numbers(path: Path, field: str, words: Iterable[bytes], least: int) -> tuple[int, ...]:
    """Return words as whole numbers of at least ``least``.

    Raises:
        DataError: one is none.
    """
    words = list(words)
    numbers = [int(word) for word in words if _INTEGER.fullmatch(word)]
    if len(numbers) < len(words) or any(number < least for number in numbers):
        raise bad_field(path, field, b" ".join(words), f"whole numbers of at least {least}")
    return tuple(numbers)


def numbers(words: Iterable[bytes]) -> tuple[float, ...]:
    """Return words as numbers; NaN is what is none."""
    return tuple(float(word) if _NUMBER.fullmatch(word) else math.nan for word in words)


def directions_and_lengths(
    vectors: Sequence[Sequence[float]],
) -> tuple[tuple[tuple[float, ...], ...], npt.NDArray[Any]]:
    """Return vectors (rows) of length 1, and their lengths; NaN where there is no direction."""
    rows = np.array(vectors, dtype=float)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(rows, axis=1)
        units = rows / lengths[:, None]
    return tuple(tuple(map(float, row)) for row in units), lengths


def data_file(header: Path, name: bytes) -> Path:
    """Return the file with voxels that a header names, if it lies in the header's own folder; it is not opened.

    Raises:
        DataError: it lies elsewhere, is none, or is not there.
    """
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = ""
    shown = ascii(name[:120].decode("latin-1"))
    inside = "a file in the header's own folder, by its name alone"
    # "-" is NRRD's name for the standard input. ITK takes x:… for a whole path, \ for the end of a folder, and cuts
    # letters that are not ASCII off the end.
    odd = not text.isprintable() or text in ("", "-") or text[1:2] == ":" or "\\" in text + str(header)
    path = header.parent / text
    if odd or not text[-1].isascii() or text.startswith("/") or ".." in path.relative_to(header.parent).parts:
        raise DataError(_outside(header, inside, shown))
    folders = (Path(os.path.realpath(header.parent)), Path(os.path.realpath(header)).parent)
    target = Path(os.path.realpath(path))
    if not any(target.is_relative_to(folder) for folder in folders):
        raise DataError(_outside(header, inside, f"{shown}, a link to {str(target)!a}"))
    refuse_irregular(path, DataError, "put the file with the voxels itself in this place")
    if not path.exists():
        what, fix = (
            "the file with the voxels is missing",
            "put it beside the header, under the name that the header has",
        )
        raise DataError(Problem("header.data-missing", what, str(header), fix, "a file", shown))
    return path


def _outside(header: Path, expected: str, found: str) -> Problem:
    what, fix = "the header names a file in another place", f"move the file beside the header, or {SAVE_AGAIN}"
    return Problem("header.data-outside", what, str(header), fix, expected, found)
