"""Tiny volumes and tasks, made in code."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (5, 6, 7)


def ramp(shape: tuple[int, ...] = SHAPE, dtype: Any = np.int16) -> np.ndarray:
    """Return 0, 1, 2, ... in the order of the file."""
    return np.arange(np.prod(shape), dtype=np.int64).reshape(shape, order="F").astype(dtype)


def save(path: Path, values: np.ndarray, affine: Any = None, kind: Any = nib.Nifti1Image) -> Path:
    """Write ``values`` at 1 x 1 x 2 mm unless told otherwise, with sform and qform."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else np.asarray(affine)
    image = kind(values, affine)
    image.header.set_sform(affine, 1)
    image.header.set_qform(affine, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def patch(path: Path, offset: int, layout: str, *values: Any) -> Path:
    """Overwrite bytes at ``offset`` of the (uncompressed) content."""
    zipped = path.name.endswith(".gz")
    content = bytearray(gzip.decompress(path.read_bytes()) if zipped else path.read_bytes())
    struct.pack_into(layout, content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content)) if zipped else bytes(content))
    return path


def label_map(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return a label map with the classes 0, 1 and 2."""
    values = np.zeros(shape, dtype=np.uint8)
    values[1:3, 1:3, 1:3] = 1
    values[3, 3, 3] = 2
    return values


def write_description(root: Path, content: Any) -> None:
    root.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (root / "dataset.json").write_text(text, encoding="utf-8")


def read_description(root: Path) -> Any:
    return json.loads((root / "dataset.json").read_text(encoding="utf-8"))
