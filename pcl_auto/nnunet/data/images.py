"""Read and write image files as nnU-Net's arrays: channels first, axes z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from pcl_auto.data.formats.dicom import Series
from pcl_auto.data.formats.grid import CHANNEL_TOLERANCE_VOXELS, Grid
from pcl_auto.data.formats.itk_files import read_by_itk
from pcl_auto.data.formats.scans import Source
from pcl_auto.errors import DataError, Problem

Properties = dict[str, Any]


def read_image(files: Sequence[Source]) -> tuple[np.ndarray, Properties]:
    """Read one 4D volume, or one 3D volume per channel, each a file or a DICOM series.

    Returns:
        the voxels, float32, shape (C, z, y, x), and nnU-Net's properties: ``spacing`` (z, y, x in mm) and the
        geometry that a segmentation is written with.

    Raises:
        DataError: no volume, one that cannot be read, or channels on different grids.
    """
    volumes = [_read_volume(source) for source in files]
    first, geometry = volumes[0]
    for source, (voxels, other) in zip(files[1:], volumes[1:], strict=True):
        ours, theirs = _grid(geometry, first), _grid(other, voxels)
        if ours.difference(theirs, CHANNEL_TOLERANCE_VOXELS):
            raise DataError(
                Problem(
                    code="data.channel-grids",
                    what="channels of one scan lie on different grids",
                    where=f"{files[0]} and {source}",
                    expected=str(ours),
                    found=str(theirs),
                    fix="resample the channels onto one grid",
                )
            )
    spacing = [abs(step) for step in geometry["spacing"][::-1]]
    return np.concatenate([voxels for voxels, _ in volumes]), {"sitk_stuff": geometry, "spacing": spacing}


def _read_volume(source: Source) -> tuple[np.ndarray, Properties]:
    """Read the voxels (C, z, y, x) of a file or series, and origin, spacing and direction in ITK's words."""
    try:
        image = _read_series(source) if isinstance(source, Series) else read_by_itk(source)
    except RuntimeError as error:
        # The last line is ITK's reason; for what is cut it says that there is no such file.
        found = str(error).strip().splitlines()[-1]
        fix = "copy the file again: it may be damaged, cut, or of another format than its name says"
        raise DataError(Problem("data.unreadable", "image cannot be read", str(source), fix, found=found)) from error
    array = SimpleITK.GetArrayFromImage(image)
    if image.GetDimension() == 3:
        # Slicer's 4D NRRD has a list of values per voxel.
        array = np.moveaxis(array, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else array[None]
    elif image.GetDimension() != 4 or image.GetNumberOfComponentsPerPixel() > 1:
        raise DataError(
            Problem(
                code="data.not-a-volume",
                what="image is no volume",
                where=str(source),
                expected="3D, or 4D with the channels last",
                found=" x ".join(map(str, image.GetSize())),
                fix="give volumes",
            )
        )
    array = finite_voxels(array, str(source))
    # Of four axes the last holds channels, not space; nnU-Net can read this but not write a mask with it.
    axes = image.GetDimension()
    return array, {
        "spacing": image.GetSpacing()[:3],
        "origin": image.GetOrigin()[:3],
        "direction": tuple(np.reshape(image.GetDirection(), (axes, axes))[:3, :3].flatten()),
    }


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


def _read_series(series: Series) -> SimpleITK.Image:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(file) for file in series.files])
    # The first slice would choose a type for all of them; each has a scale of its own.
    reader.SetOutputPixelType(SimpleITK.sitkFloat32)
    return reader.Execute()


def _grid(geometry: Properties, voxels: np.ndarray) -> Grid:
    return Grid.of_itk(voxels.shape[:0:-1], geometry["spacing"], geometry["origin"], geometry["direction"])


def read_label(file: Path) -> np.ndarray:
    """Read a label map, shape (1, z, y, x)."""
    array: np.ndarray = SimpleITKIO().read_seg(str(file))[0]
    return array


def write_mask(mask: np.ndarray, file: Path, properties: Properties) -> None:
    """Write a mask (z, y, x) with the geometry of the image it belongs to, in the format that the name says."""
    SimpleITKIO().write_seg(mask, str(file), properties)


def spacing_zyx_mm(file: Path) -> tuple[float, float, float]:
    """Read the voxel spacing (z, y, x, in mm) as nnU-Net sees it, from the header alone."""
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    x, y, z = (abs(value) for value in reader.GetSpacing()[:3])
    return z, y, x
