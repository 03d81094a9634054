"""Read and write image files as nnU-Net's arrays: channels first, axes z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from pcl_auto.data.formats.grid import CHANNEL_TOLERANCE_VOXELS, difference_of
from pcl_auto.data.formats.itk_paths import paths_for_itk
from pcl_auto.data.formats.nifti_geometry import header_at, write_nifti
from pcl_auto.data.formats.nifti_header import decode
from pcl_auto.data.formats.suffixes import NIFTI_SUFFIXES, split_suffix
from pcl_auto.data.formats.volume import Source, read_volume
from pcl_auto.errors import DataError, Problem

Properties = dict[str, Any]
# Of the properties: the fields of the scan's own NIfTI header, which say where it lies.
_HEADER = "nifti_header"


def read_image(files: Sequence[Source]) -> tuple[np.ndarray, Properties]:
    """Read one 4D volume, or one 3D volume per channel, each a file or a DICOM series.

    Returns:
        the voxels, float32, shape (C, z, y, x), and nnU-Net's properties: ``spacing`` (z, y, x in mm) and the
        geometry that a segmentation is written with.

    Raises:
        DataError: no volume, one that cannot be read, or channels on different grids.
    """
    volumes = [read_volume(source) for source in files]
    first = volumes[0]
    for source, other in zip(files[1:], volumes[1:], strict=True):
        if difference_of(first.grids, other.grids, CHANNEL_TOLERANCE_VOXELS):
            raise DataError(
                Problem(
                    code="data.channel-grids",
                    what="channels of one scan lie on different grids",
                    where=f"{files[0]} and {source}",
                    expected=str(first.grids[0]),
                    found=str(other.grids[0]),
                    fix="resample the channels onto one grid",
                )
            )
    arrays = [finite_voxels(volume.voxels, str(source)) for source, volume in zip(files, volumes, strict=True)]
    place = first.geometry
    properties: Properties = {
        "sitk_stuff": {"spacing": place.spacing_mm, "origin": place.origin_mm, "direction": place.direction},
        "spacing": [abs(step) for step in place.spacing_mm[::-1]],
    }
    if first.nifti_fields is not None:
        properties[_HEADER] = header_at(first.nifti_fields, (1, 1, 1), np.uint8).binaryblock
    return np.concatenate(arrays), properties


def finite_voxels(voxels: np.ndarray, where: str) -> np.ndarray:
    """Return voxels as nnU-Net takes them: float32, contiguous.

    Raises:
        DataError: some are NaN or infinite.
    """
    array = np.ascontiguousarray(voxels, dtype=np.float32)
    if not np.isfinite([array.min(), array.max()]).all():  # NaN is the least and the largest of all
        fix = "restore the volume from its source, or replace these voxels by a value that means nothing there"
        raise DataError(Problem("data.not-finite", "NaN or infinite voxels", where, fix))
    return array


def read_label(file: Path) -> np.ndarray:
    """Read a label map, shape (1, z, y, x), float32 as by nnU-Net's reader.

    Raises:
        DataError: it cannot be read.
    """
    return read_volume(file).voxels.astype(np.float32, copy=False)


def write_mask(mask: np.ndarray, file: Path, properties: Properties) -> None:
    """Write a mask (z, y, x) with the geometry of the image it belongs to, in the format that the name says.

    A mask of a NIfTI scan in NIfTI states the place of its scan field by field, so that every reader finds it there,
    whichever of the fields it believes.
    """
    if _HEADER in properties and split_suffix(file.name)[1] in NIFTI_SUFFIXES:
        voxels = mask.T
        write_nifti(file, voxels, header_at(decode(properties[_HEADER]), voxels.shape, mask.dtype))
    else:
        # What the system refuses, as a name that is too long, it says itself; ITK would not say why.
        file.touch()
        with paths_for_itk([file]) as (name,):
            SimpleITKIO().write_seg(mask, name, properties)
