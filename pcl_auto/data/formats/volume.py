"""Read the voxels of a volume and their place in space: the one reader of images, labels and masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from pcl_auto.data.formats.dicom import Decoded, Series, decode_slice
from pcl_auto.data.formats.grid import Geometry, Grid
from pcl_auto.data.formats.itk_files import read_by_itk
from pcl_auto.data.formats.itk_paths import paths_for_itk
from pcl_auto.data.formats.nifti_bytes import read_nifti
from pcl_auto.data.formats.nifti_header import Header, Mend
from pcl_auto.data.formats.suffixes import NIFTI_SUFFIXES, split_suffix
from pcl_auto.errors import DataError, Problem
from pcl_auto.workspace.files import refuse_irregular

Source = Path | Series


@dataclass(frozen=True)
class LoadedVolume:
    """A volume in memory.

    Attributes:
        voxels: real values, shape (C, z, y, x), in the type that ITK reads them as.
        geometry: the place of the voxels as ITK reads it.
        grids: the grid of the geometry, and of every other place that a NIfTI header states.
        nifti_fields: the fields of a NIfTI header, as nibabel decodes them; None of other files.
    """

    voxels: npt.NDArray[Any]
    geometry: Geometry
    grids: tuple[Grid, ...]
    nifti_fields: Any = None


def read_volume(source: Source, mend: Mend | None = None) -> LoadedVolume:
    """Read a volume to its last byte, of NIfTI with the values and the place that ITK gives them.

    Args:
        source: a file, or a DICOM series.
        mend: changes the fields of a NIfTI header before they are judged.

    Raises:
        DataError: the file is damaged, no volume, or readers would take it differently.
    """
    if isinstance(source, Path) and split_suffix(source.name)[1] in NIFTI_SUFFIXES:
        return _read_nifti(source, mend)
    return _read_other(source)


def _read_nifti(path: Path, mend: Mend | None) -> LoadedVolume:
    content, problems = read_nifti(path, mend)
    if content is None:
        raise DataError(problems)
    header, stored = content
    voxels = stored.astype(header.real_dtype, copy=False)
    if header.scaled:
        # Slice by slice: scaling takes eight bytes for each voxel.
        for z in range(header.shape[2]):
            voxels[:, :, z] = header.scale(stored[:, :, z])
    return LoadedVolume(voxels.transpose(3, 2, 1, 0), header.geometry, grids_of(header), header.fields)


def grids_of(header: Header) -> tuple[Grid, ...]:
    """Return the grid of a NIfTI header as ITK reads it, and of every other place that it states."""
    first = header.geometry.grid(header.shape)
    stated = (Grid(header.shape, affine) for affine in header.stated_affines)
    return (first, *(grid for grid in stated if first.difference(grid, 0)))


def _read_other(source: Source) -> LoadedVolume:
    """Read a file that is no NIfTI, or a DICOM series."""
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
    # Of four axes the last holds channels, not space; nnU-Net can read this but not write a mask with it.
    axes = image.GetDimension()
    x, y, z = image.GetSpacing()[:3]
    i, j, k = image.GetOrigin()[:3]
    direction = tuple(np.reshape(image.GetDirection(), (axes, axes))[:3, :3].ravel().tolist())
    geometry = Geometry((x, y, z), (i, j, k), direction)
    return LoadedVolume(array, geometry, (geometry.grid(array.shape[:0:-1]),))


def _read_series(series: Series) -> SimpleITK.Image:
    for file in series.files:
        refuse_irregular(file, DataError)
    # Before GDCM, which damage may end.
    decoded = [_decode(file, series) for file in series.files]
    reader = SimpleITK.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    # The first slice would choose a type for all of them; each has a scale of its own.
    reader.SetOutputPixelType(SimpleITK.sitkFloat32)
    with paths_for_itk(series.files) as names:
        reader.SetFileNames(names)
        image = reader.Execute()
    planes = SimpleITK.GetArrayViewFromImage(image)
    for file, plane, other in zip(series.files, planes, decoded, strict=True):
        if other is not None and not other.is_like(plane):
            raise _damaged_slice(file, series, "two decoders read it differently")
    return image


def _decode(file: Path, series: Series) -> Decoded | None:
    try:
        return decode_slice(file)
    except OSError:
        return None  # ITK says why it cannot be read
    except ValueError as error:
        raise _damaged_slice(file, series, str(error)) from error


def _damaged_slice(file: Path, series: Series, found: str) -> DataError:
    what, expected = "a compressed slice that cannot be read", "voxels that every decoder reads alike"
    fix = "export the series again, uncompressed if you can"
    problem = Problem("dicom.damaged-slice", what, str(series), fix, expected, f"{file.name}: {found}")
    return DataError(problem)
