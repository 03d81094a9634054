"""Image files as nnU-Net's arrays: channels first, axes z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

Properties = dict[str, Any]


def read_image(files: Sequence[Path]) -> tuple[np.ndarray, Properties]:
    """Read one 4D file, or one 3D file per channel, as nnU-Net reads the channels of a case.

    Returns:
        the voxels, float32, shape (C, z, y, x), and nnU-Net's properties: ``spacing`` (z, y, x in mm) and the
        geometry that a segmentation is written with.
    """
    array, properties = SimpleITKIO().read_images([str(file) for file in files])
    geometry = properties["sitk_stuff"]
    if len(geometry["spacing"]) == 4:
        # The fourth axis holds channels, not space; nnU-Net can read this but not write a mask with it.
        direction = np.reshape(geometry["direction"], (4, 4))[:3, :3]
        properties["sitk_stuff"] = {
            "spacing": geometry["spacing"][:3],
            "origin": geometry["origin"][:3],
            "direction": tuple(direction.flatten()),
        }
    return array, properties


def read_label(file: Path) -> np.ndarray:
    """Read a label map, shape (1, z, y, x)."""
    array: np.ndarray = SimpleITKIO().read_seg(str(file))[0]
    return array


def write_mask(mask: np.ndarray, file: Path, properties: Properties) -> None:
    """Write a mask (z, y, x) with the geometry of the image it belongs to."""
    SimpleITKIO().write_seg(mask, str(file), properties)


def spacing_zyx_mm(file: Path) -> tuple[float, float, float]:
    """The voxel spacing as nnU-Net sees it, from the header alone."""
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    x, y, z = (abs(value) for value in reader.GetSpacing()[:3])
    return z, y, x
