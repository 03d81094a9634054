"""Scans in formats with a text header, written by hand: sound ones, and any field of theirs changed."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

METAIMAGE = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "0 1 0 -1 0 0 0 0 1",
    "Offset": "5 -6 7.25",
    "ElementSpacing": "0.5 1 2.5",
    "DimSize": "4 5 6",
    "ElementType": "MET_SHORT",
}
NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "4 5 6",
    "space directions": "(0,0.5,0) (-1,0,0) (0,0,2.5)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(5,-6,7.25)",
}
# What both of them say: sizes (x, y, z), and the voxels in the order of the file.
SHAPE = (4, 5, 6)
VOXELS = np.arange(-60, 60, dtype="<i2")
Changes = dict[str, str | None]


def metaimage(file: Path, changes: Changes | None = None, data: bytes | None = None, *more: str) -> Path:
    """Write a MetaImage whose voxels are in the file, unless its ElementDataFile is changed; None drops a field."""
    fields = {**METAIMAGE, **(changes or {})}
    last = fields.pop("ElementDataFile", "LOCAL")
    raw = VOXELS.tobytes() if data is None else data
    if fields["CompressedData"] == "True" and data is None:
        raw = zlib.compress(raw)
        fields.setdefault("CompressedDataSize", str(len(raw)))
    lines = [f"{name} = {value}" for name, value in fields.items() if value is not None]
    text = "\n".join([*lines, f"ElementDataFile = {last}", *more]) + "\n"
    file.write_bytes(text.encode() + (raw if last == "LOCAL" else b""))
    return file


def nrrd(file: Path, changes: Changes | None = None, data: bytes | None = None, *more: str) -> Path:
    """Write an NRRD file whose voxels are in it, unless it has a data file; None drops a field."""
    fields = {**NRRD, **(changes or {})}
    raw = VOXELS.tobytes() if data is None else data
    if fields["encoding"] == "gzip" and data is None:
        raw = gzip.compress(raw, mtime=0)
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    text = "\n".join(["NRRD0005", "# by hand", "modality:=MR", *lines, *more]) + "\n"
    file.write_bytes(text.encode() + (b"" if "data file" in fields else b"\n" + raw))
    return file
