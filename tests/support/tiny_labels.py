"""Write label maps of a few voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK


def write_label(file: Path, *values: int) -> Path:
    """Write a label map of a few voxels that shows ``values``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.array([[[0, *values]]], np.uint8)), str(file))
    return file
