"""Headers of NRRD files (.nrrd, .nhdr), read as ITK's NrrdIO reads them, or refused."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pcl_auto.data.formats.text_header import (
    MAX_HEADER_BYTES,
    SAVE_AGAIN,
    Encoding,
    Piece,
    TextHeader,
    bad_field,
    data_file,
    directions_and_lengths,
    numbers,
    unsupported,
    whole_numbers,
)

Numbers = tuple[float, ...]

_MAGIC = re.compile(rb"NRRD(00\.01|000[1-5])\r?\n")
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_TYPE_OF = {name.encode(): kind for kind, names in _TYPES.items() for name in names}
_ENCODINGS: dict[bytes, Encoding] = {b"raw": "raw", b"gzip": "gzip", b"gz": "gzip"}
# Names without their spaces: both spellings mean the same.
_FIELDS = {
    b"number", b"content", b"type", b"blocksize", b"dimension", b"space", b"spacedimension", b"sizes", b"spacings",
    b"thicknesses", b"axismins", b"axismaxs", b"spacedirections", b"centers", b"centerings", b"kinds", b"labels",
    b"units", b"min", b"max", b"oldmin", b"oldmax", b"endian", b"encoding", b"lineskip", b"byteskip", b"sampleunits",
    b"spaceunits", b"spaceorigin", b"measurementframe", b"datafile",
}  # fmt: skip
# Kinds of axes that lie in space or time; the others hold the values of a voxel.
_SPACE_KINDS = (b"domain", b"space", b"time", b"???", b"none")
# Signs that bring a space to LPS.
_TO_LPS = {
    b"left-posterior-superior": (1, 1, 1), b"lps": (1, 1, 1), b"right-anterior-superior": (-1, -1, 1),
    b"ras": (-1, -1, 1), b"left-anterior-superior": (1, -1, 1), b"las": (1, -1, 1),
}  # fmt: skip
_TO_LPS |= {name + (b"-time" if b"-" in name else b"t"): signs for name, signs in _TO_LPS.items()}
# Units of a spacing that is in mm, or of which nobody says what it is in.
_MM = {b"", b"???", b"none", b"mm", b"millimeter", b"millimeters", b"millimetre", b"millimetres"}
_VECTORS = re.compile(rb"none|\([^()]*\)")
_PATTERN = re.compile(rb"([^%\s]*)%(0?\d{0,2})d([^%\s]*)")
_LIST = re.compile(rb"LIST(\s+\d+)?")
_MAX_AXES, _MAX_FILES, _MAX_LINES = 16, 1 << 16, 1 << 12


def parse_nrrd(path: Path) -> TextHeader:
    """Read the header of an NRRD file, and find the files with its voxels.

    Raises:
        DataError: the header is damaged or not supported, or names files in other places.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        fields = _Fields(path, file)
        sizes = fields.sizes()
        space_axes = fields.space_axes(len(sizes))
        kind, encoding = fields.value(b"type").lower(), fields.value(b"encoding").lower()
        if kind not in _TYPE_OF:
            raise bad_field(path, "type", kind, "an integer or float type")
        if encoding not in _ENCODINGS:
            raise unsupported(path, "the encoding", encoding, f"{SAVE_AGAIN} (raw or gzip)")
        fields.refuse_what_itk_ignores(space_axes[:3], len(sizes))
        spacing, directions, origin = fields.place(space_axes[:3], len(sizes))
        return TextHeader(
            path=path,
            sizes=sizes,
            space_axes=space_axes,
            values=1,
            dtype=np.dtype(fields.byte_order(_TYPE_OF[kind]) + _TYPE_OF[kind]),
            spacing_mm=spacing,
            origin_mm=origin,
            directions=directions,
            encoding=_ENCODINGS[encoding],
            pieces=fields.pieces(file, sizes, _ENCODINGS[encoding]),
        )


class _Fields:
    """The fields of a header by name; the file is left at the byte after it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.names: list[bytes] = []
        self._values: dict[bytes, bytes] = {}
        if not _MAGIC.fullmatch(file.readline(64)):
            raise bad_field(path, "the first line", b"", "NRRD0001 to NRRD0005")
        while line := self._line(file):
            self._add(line)

    def _line(self, file: BinaryIO) -> bytes:
        """Return the next line without its end; nothing after the last."""
        line = file.readline(MAX_HEADER_BYTES)
        if file.tell() > MAX_HEADER_BYTES:
            raise bad_field(self.path, "the end of the header", b"", "an empty line after its fields")
        content = line[: -2 if line.endswith(b"\r\n") else -1 if line.endswith(b"\n") else None]
        if b"\r" in content or b"\0" in content:  # NrrdIO takes a lone \r for the end of a line
            raise bad_field(self.path, "a line", content, "a line of text")
        return content

    def _add(self, line: bytes) -> None:
        if self.value(b"datafile").startswith(b"LIST"):
            self.names.append(line)
            return
        name, colon, value = line.partition(b": ")
        name = name.lower().replace(b" ", b"")
        if line.startswith(b"#") or (b":=" in line and not (colon and name in _FIELDS)):
            return  # a comment, or a key and its value
        if not colon or name not in _FIELDS or name in self._values:
            raise bad_field(self.path, "a line", line, "each of NRRD's fields once, as name: value")
        self._values[name] = value.strip(b" \t")

    def value(self, name: bytes) -> bytes:
        return self._values.get(name, b"")

    def integer(self, name: bytes, least: int, otherwise: int) -> int:
        words = self.value(name).split() if name in self._values else [b"%d" % otherwise]
        if len(words) != 1:
            raise bad_field(self.path, name.decode(), self.value(name), "one whole number")
        return whole_numbers(self.path, name.decode(), words, least)[0]

    def sizes(self) -> tuple[int, ...]:
        axes, words = self.integer(b"dimension", 1, 0), self.value(b"sizes").split()
        if axes > _MAX_AXES or len(words) != axes:
            raise bad_field(self.path, "sizes", self.value(b"sizes"), f"{axes} whole numbers")
        return whole_numbers(self.path, "sizes", words, least=1)

    def space_axes(self, axes: int) -> tuple[int, ...]:
        kinds = self.value(b"kinds").lower().split() or [b"???"] * axes
        found = tuple(axis for axis, kind in enumerate(kinds) if kind in _SPACE_KINDS)
        if len(kinds) != axes or not found:
            raise bad_field(self.path, "kinds", self.value(b"kinds"), f"{axes} kinds, of an axis in space or more")
        return found

    def byte_order(self, kind: str) -> str:
        order = {b"little": "<", b"big": ">", b"": "<"}.get(self.value(b"endian").lower())
        if order is None or (kind[1] != "1" and not self.value(b"endian")):
            raise bad_field(self.path, "endian", self.value(b"endian"), "little or big")
        return order

    def refuse_what_itk_ignores(self, axes: tuple[int, ...], count: int) -> None:
        """Refuse what changes the values, or the place of some of ``count`` axes, and is not read."""
        units = re.findall(rb'"([^"]*)"', self.value(b"units"))
        if len(units) == count:
            units = [units[axis] for axis in axes]
        units += re.findall(rb'"([^"]*)"', self.value(b"spaceunits"))[:3]
        if found := [unit for unit in units if unit.strip().lower() not in _MM]:
            raise unsupported(self.path, "a spacing in another unit than mm", found[0], "state the spacing in mm")
        for name, shown in ((b"oldmin", "old min"), (b"oldmax", "old max")):
            if self.value(name).lower() not in (b"", b"nan"):
                fix = "save the values from before they were quantized, without this field"
                raise unsupported(self.path, f"a scale of the values ({shown})", self.value(name), fix)
        bounds = b"axismaxs" if b"axismaxs" in self._values else b"axismins"
        if bounds in self._values and (bounds == b"axismaxs" or b"spacings" not in self._values):
            fix = f"{SAVE_AGAIN}, with its spacing"
            shown = f"a spacing by the bounds of axes (axis {bounds[4:].decode()})"
            raise unsupported(self.path, shown, self.value(bounds), fix)

    def place(self, axes: tuple[int, ...], count: int) -> tuple[Numbers, tuple[Numbers, ...], Numbers | None]:
        """Return spacing, directions and origin of some of ``count`` axes, in mm and LPS.

        The origin is None where it follows from the minima of axes, or from nothing.
        """
        signs = np.array(_TO_LPS.get(self.value(b"space").lower(), (1, 1, 1)))[: len(axes)]
        unknown = (math.nan,) * len(axes)
        origin = None
        if b"spaceorigin" in self._values:
            stated = (self._vectors(b"spaceorigin", 1)[0] or unknown)[: len(axes)]
            origin = tuple((np.array(self._as_long(stated, axes)) * signs).tolist())
        if b"spacedirections" not in self._values:
            identity = tuple(tuple(map(float, row)) for row in np.eye(len(axes)))
            return self._spacings(axes, count), identity, origin
        vectors = self._vectors(b"spacedirections", count)
        rows = [self._as_long((vectors[axis] or unknown)[: len(axes)], axes) for axis in axes]
        directions, lengths = directions_and_lengths(np.array(rows) * signs)
        return tuple(lengths.tolist()), directions, origin or (0.0,) * len(axes)

    def _as_long(self, vector: Numbers, axes: tuple[int, ...]) -> Numbers:
        if len(vector) != len(axes):
            raise bad_field(self.path, "space directions", self.value(b"spacedirections"), f"{len(axes)} numbers each")
        return vector

    def _spacings(self, axes: tuple[int, ...], count: int) -> Numbers:
        spacings = numbers(self.value(b"spacings").split()) or (1.0,) * count
        mins = numbers(self.value(b"axismins").split()) or (0.0,) * count
        if len(spacings) != count or len(mins) != count or not all(math.isfinite(mins[axis]) for axis in axes):
            raise bad_field(self.path, "spacings or axis mins", self.value(b"spacings"), f"{count} numbers each")
        return tuple(spacings[axis] for axis in axes)

    def _vectors(self, name: bytes, count: int) -> list[Numbers | None]:
        found, text = _VECTORS.findall(self.value(name)), self.value(name)
        if len(found) != count or _VECTORS.sub(b"", text).strip():
            raise bad_field(self.path, name.decode(), text, f"{count} vectors such as (1,0,0)")
        words = [[word.strip() for word in vector.strip(b"()").split(b",")] for vector in found]
        return [None if vector == [b"none"] else numbers(vector) for vector in words]

    def pieces(self, file: BinaryIO, sizes: tuple[int, ...], encoding: Encoding) -> tuple[Piece, ...]:
        """Return where the voxels are, after the lines and bytes that the header says to skip."""
        name = self.value(b"datafile")
        names = self._pattern(name, sizes) if b"%" in name else self.names if name.startswith(b"LIST") else [name]
        if name.startswith(b"LIST") and (not _LIST.fullmatch(name) or not names):
            raise bad_field(self.path, "data file", name, "LIST, and a line for each file")
        if not names or math.prod(sizes) % len(names):
            raise bad_field(self.path, "data file", name, "files of one size")
        lines = self.integer(b"lineskip", 0, 0)
        skipped = self.integer(b"byteskip", -1 if encoding == "raw" else 0, 0)
        if lines > _MAX_LINES:
            raise unsupported(self.path, "line skip", self.value(b"lineskip"), SAVE_AGAIN)
        if not name:
            if skipped == -1:
                raise unsupported(self.path, "byte skip: -1 in the same file", b"-1", SAVE_AGAIN)
            return (self._piece(self.path, file.tell(), lines, skipped, encoding),)
        return tuple(self._piece(data_file(self.path, each), 0, lines, skipped, encoding) for each in names)

    def _piece(self, path: Path, start: int, lines: int, skipped: int, encoding: Encoding) -> Piece:
        if lines:
            with path.open("rb") as file:
                file.seek(start)
                for _ in range(lines):
                    file.readline(MAX_HEADER_BYTES)
                start = file.tell()
        if encoding == "raw":
            return Piece(path, -1 if skipped == -1 else start + skipped)
        return Piece(path, start, skipped_bytes=skipped)

    def _pattern(self, value: bytes, sizes: tuple[int, ...]) -> list[bytes]:
        pattern, *limits = value.split()
        match = _PATTERN.fullmatch(pattern)
        if match is None or len(limits) not in (3, 4):
            raise bad_field(self.path, "data file", value, "name%03d.raw, then the first number, the last and the step")
        first, last, step, *_ = whole_numbers(self.path, "data file", limits, least=0)
        if not step or not 0 < len(range(first, last + 1, step)) <= min(_MAX_FILES, math.prod(sizes)):
            raise bad_field(self.path, "data file", value, "the numbers of one file or more")
        before, width, after = match.groups()
        return [before + (b"%" + width + b"d") % number + after for number in range(first, last + 1, step)]
