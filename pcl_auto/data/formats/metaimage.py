"""Headers of MetaImage files (.mha, .mhd), read as ITK's MetaIO reads them, or refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pcl_auto.data.formats.text_header import (
    MAX_HEADER_BYTES,
    SAVE_AGAIN,
    Piece,
    TextHeader,
    bad_field,
    data_file,
    numbers,
    unsupported,
    whole_numbers,
)

# As MetaIO measures them, on every machine.
_TYPES = {
    b"MET_CHAR": "i1", b"MET_UCHAR": "u1", b"MET_SHORT": "i2", b"MET_USHORT": "u2", b"MET_INT": "i4",
    b"MET_UINT": "u4", b"MET_LONG": "i4", b"MET_ULONG": "u4", b"MET_LONG_LONG": "i8", b"MET_ULONG_LONG": "u8",
    b"MET_FLOAT": "f4", b"MET_DOUBLE": "f8",
}  # fmt: skip
_TRUE, _FALSE = (b"True", b"true", b"1"), (b"False", b"false", b"0")
# Several names of one thing: a header that has two of them is ambiguous.
_ORIENTATION = ("TransformMatrix", "Rotation", "Orientation")
_ORIGIN = ("Offset", "Origin", "Position", "ImagePosition")
_BYTE_ORDER = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
_LAST = "ElementDataFile"
_KNOWN = {
    "NDims", "DimSize", "ElementType", "ElementNumberOfChannels", "ElementSpacing", "ElementSize", "BinaryData",
    "CompressedData", "CompressedDataSize", "HeaderSize", "DistanceUnits", "ElementToIntensityFunctionSlope",
    "ElementToIntensityFunctionOffset", "AnatomicalOrientation", "CenterOfRotation", "ElementNBits",
    "HeaderSizesPerDataFile", *_ORIENTATION, *_ORIGIN, *_BYTE_ORDER, _LAST,
}  # fmt: skip
# One number in a name, as in slice%03d.raw.
_PATTERN = re.compile(rb"([^%\s]*)%(0?\d{0,2})d([^%\s]*)")
_LIST = re.compile(rb"LIST(\s+(\d+)D?)?")
_MAX_AXES, _MAX_FILES = 10, 1 << 16


def parse_metaimage(path: Path) -> TextHeader:
    """Read the header of a MetaImage, and find the files with its voxels.

    Raises:
        DataError: the header is damaged, ambiguous or not supported, or names files in other places.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        fields = _Fields(path, file)
        (axes,) = fields.integers("NDims", 1, least=1)
        if axes > _MAX_AXES:
            raise bad_field(path, "NDims", fields.value("NDims"), f"at most {_MAX_AXES}")
        kind = fields.value("ElementType")
        if kind not in _TYPES:
            raise bad_field(path, "ElementType", kind, "one number type, such as MET_SHORT")
        order = ">" if fields.flag(fields.one_of(_BYTE_ORDER) or _BYTE_ORDER[0]) else "<"
        sizes = fields.integers("DimSize", axes, least=1)
        (values,) = (
            fields.integers("ElementNumberOfChannels", 1, least=1) if "ElementNumberOfChannels" in fields else (1,)
        )
        spacing = fields.spacing(axes)
        matrix = fields.reals(fields.one_of(_ORIENTATION), axes * axes) or tuple(np.eye(axes).ravel())
        origin = fields.reals(fields.one_of(_ORIGIN), axes) or (0.0,) * axes
        fields.refuse_what_itk_ignores(axes, np.dtype(_TYPES[kind]).itemsize * 8, matrix)
        return TextHeader(
            path=path,
            sizes=sizes,
            space_axes=tuple(range(axes)),
            values=values,
            dtype=np.dtype(order + _TYPES[kind]),
            spacing_mm=spacing[:3],
            origin_mm=origin[:3],
            directions=tuple(tuple(row) for row in np.reshape(matrix, (axes, axes))[:3, :3].tolist()),
            encoding="zlib" if fields.flag("CompressedData") else "raw",
            pieces=fields.pieces(file, sizes),
        )


class _Fields:
    """The fields of a header by name; the file is left at the byte after the last of them."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._values: dict[str, bytes] = {}
        while _LAST not in self._values:
            line = file.readline(MAX_HEADER_BYTES)
            if not line.endswith(b"\n") or file.tell() > MAX_HEADER_BYTES:
                raise bad_field(path, _LAST, b"", "a line for each field, the last of them ElementDataFile")
            self._add(line)

    def _add(self, line: bytes) -> None:
        match = re.search(rb"[=:]", line)
        if not line.strip():
            return
        # MetaIO would take the line after one without a sign for its value.
        if match is None or not line[: match.start()].strip():
            raise bad_field(self.path, "a line", line, "Name = value")
        name, value = line[: match.start()].strip().decode("latin-1"), line[match.end() :].lstrip(b" =:\t").rstrip()
        known = next((each for each in _KNOWN if each.lower() == name.lower()), None)
        if known and (known != name or known in self._values or b"\0" in value):
            raise bad_field(self.path, known, line.strip(), "the field once, spelled as it is here")
        if known:
            self._values[known] = value

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def value(self, name: str) -> bytes:
        return self._values.get(name, b"")

    def integers(self, name: str, count: int, least: int) -> tuple[int, ...]:
        words = self.value(name).split()
        if len(words) != count:
            raise bad_field(self.path, name, self.value(name), f"{count} whole numbers")
        return whole_numbers(self.path, name, words, least)

    def reals(self, name: str | None, count: int) -> tuple[float, ...]:
        """Return the numbers of a field, none where it is absent."""
        words = self.value(name).split() if name else []
        if name and len(words) != count:
            raise bad_field(self.path, name, self.value(name), f"{count} numbers")
        return numbers(words)

    def flag(self, name: str) -> bool:
        value = self._values.get(name, b"False")
        if value not in _TRUE + _FALSE:
            raise bad_field(self.path, name, value, "True or False")
        return value in _TRUE

    def one_of(self, names: tuple[str, ...]) -> str | None:
        """Return the one name among several for the same thing that the header has."""
        present = [name for name in names if name in self]
        if len({self.value(name) for name in present}) > 1:
            raise bad_field(self.path, " and ".join(present), self.value(present[1]), "one of them")
        return present[0] if present else None

    def spacing(self, axes: int) -> tuple[float, ...]:
        name = next((name for name in ("ElementSpacing", "ElementSize") if name in self), None)
        return self.reals(name, axes) or (1.0,) * axes

    def refuse_what_itk_ignores(self, axes: int, bits: int, matrix: tuple[float, ...]) -> None:
        """Refuse what changes the values of ``bits`` bits each, or the place of the voxels, and is not read."""
        if "BinaryData" in self and not self.flag("BinaryData"):
            raise unsupported(self.path, "voxels as text", b"BinaryData = False", SAVE_AGAIN)
        if self.value("DistanceUnits") not in (b"", b"mm", b"?"):
            fix = "state the spacing in mm, with DistanceUnits = mm"
            raise unsupported(self.path, "a spacing in another unit than mm", self.value("DistanceUnits"), fix)
        for name, neutral in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
            if self.reals(name if name in self else None, 1) not in ((), (neutral,)):
                fix = "save the real values, without this field"
                raise unsupported(self.path, f"a scale of the values ({name})", self.value(name), fix)
        if self.value("ElementNBits") not in (b"", b"%d" % bits):
            raise unsupported(
                self.path, "ElementNBits other than ElementType's", self.value("ElementNBits"), SAVE_AGAIN
            )
        if "HeaderSizesPerDataFile" in self:
            name = "HeaderSizesPerDataFile"
            raise unsupported(self.path, name, self.value(name), SAVE_AGAIN)
        # ITK takes the directions from the matrix alone, and turns the scan around its first voxel.
        center = self.reals("CenterOfRotation" if "CenterOfRotation" in self else None, axes)
        if any(value != 0 for value in center) and not np.array_equal(np.reshape(matrix, (axes, axes)), np.eye(axes)):
            raise unsupported(self.path, "a center of rotation", self.value("CenterOfRotation"), SAVE_AGAIN)
        orientation = self.value("AnatomicalOrientation")
        if not self.one_of(_ORIENTATION) and orientation not in (b"", b"RAI") and orientation.strip(b"?"):
            raise unsupported(self.path, "AnatomicalOrientation without TransformMatrix", orientation, SAVE_AGAIN)

    def pieces(self, file: BinaryIO, sizes: tuple[int, ...]) -> tuple[Piece, ...]:
        """Return where the voxels are."""
        name, packed = self.value(_LAST), self.flag("CompressedData")
        start = whole_numbers(self.path, "HeaderSize", self.value("HeaderSize").split() or [b"0"], least=-1)[0]
        size = self.integers("CompressedDataSize", 1, least=1)[0] if self.value("CompressedDataSize") else None
        is_local = name in (b"LOCAL", b"Local", b"local")
        if start and (packed or is_local):
            raise unsupported(self.path, "HeaderSize here", self.value("HeaderSize"), SAVE_AGAIN)
        if is_local:
            if packed and size is None:
                raise bad_field(self.path, "CompressedDataSize", b"", "the number of compressed bytes")
            return (Piece(self.path, file.tell(), size if packed else None),)
        names = self._names(name, file, sizes)
        if packed and size is not None and len(names) > 1:
            raise unsupported(
                self.path, "CompressedDataSize of several files", self.value("CompressedDataSize"), SAVE_AGAIN
            )
        return tuple(Piece(data_file(self.path, each), start, size if packed else None) for each in names)

    def _names(self, value: bytes, file: BinaryIO, sizes: tuple[int, ...]) -> list[bytes]:
        """Return the names of the data files: one, a list after the header, or those of a pattern."""
        if value.startswith(b"LIST"):
            return self._listed(value, file, sizes)
        if b"%" not in value:
            return [value]
        pattern, *limits = value.split()
        match = _PATTERN.fullmatch(pattern)
        # With a first and a last number alone, MetaIO may divide by zero.
        if match is None or len(limits) not in (0, 1, 3):
            raise bad_field(self.path, _LAST, value, "name%03d.raw, then the first number, or first, last and step")
        first, *more = whole_numbers(self.path, _LAST, limits, least=0) or (1,)
        last, step = more or (first + sizes[-1] - 1, 1)
        if step < 1 or len(range(first, last + 1, step)) != sizes[-1] or sizes[-1] > _MAX_FILES:
            raise bad_field(self.path, _LAST, value, f"the numbers of {sizes[-1]} files")
        before, width, after = match.groups()
        names = range(first, last + 1, step)
        return [before + (b"%" + width + b"d") % number + after for number in names]

    def _listed(self, value: bytes, file: BinaryIO, sizes: tuple[int, ...]) -> list[bytes]:
        match = _LIST.fullmatch(value)
        if match is None:
            raise bad_field(self.path, _LAST, value, "LIST, or LIST and the number of axes of a file")
        axes = int(match[2] or 0)
        count = int(np.prod(sizes[axes if 0 < axes <= len(sizes) else -1 :], dtype=object))
        lines = file.read(MAX_HEADER_BYTES).split(b"\n")
        # What follows the last end of a line is no name: MetaIO would leave its voxels as memory happens to be.
        names, rest = [line.rstrip() for line in lines[:-1][:count]], b"".join([*lines[:-1][count:], lines[-1]])
        if len(names) != count or rest.strip() or any(name != name.strip() for name in names):
            raise bad_field(self.path, _LAST, b" ".join(names), f"{count} names of files, each in a line")
        return names
