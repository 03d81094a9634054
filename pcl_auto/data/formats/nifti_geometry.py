"""The place of a NIfTI volume in space: read as ITK reads it, and written as another file states it."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK

from pcl_auto.data.formats.grid import Geometry
from pcl_auto.data.formats.itk_paths import require_plain_temporary
from pcl_auto.errors import Problem

# Of a NIfTI-1 header.
_OFFSET = 352
# Fields that say where the voxels lie. The first four numbers of pixdim do too.
_PLACE = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip


def header_at(fields: Any, shape: tuple[int, ...], dtype: Any) -> nib.Nifti1Header:
    """Return a NIfTI-1 header of this shape and voxel type that states the same place in space, in every field."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    for name in _PLACE:
        header[name] = fields[name]
    header["pixdim"][:4] = fields["pixdim"][:4]
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"], header["magic"] = _OFFSET, b"n+1"
    return header


def read_geometry(fields: Any, where: str) -> Geometry | Problem:
    """Return what ITK makes of a header, which may take the sform, the qform, or pixdim alone."""
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("NiftiImageIO")
    # A file of the header alone: the very bytes that are judged, whatever name and packing their file has.
    with tempfile.NamedTemporaryFile(suffix=".nii") as file:
        file.write(header_at(fields, (2, 2, 2), np.uint8).binaryblock + bytes(_OFFSET - nib.Nifti1Header.sizeof_hdr))
        file.flush()
        reader.SetFileName(str(require_plain_temporary(Path(file.name))))
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            fix, found = "export the volume again from its source", str(error).strip().splitlines()[-1]
            return Problem("nifti.not-for-itk", "ITK cannot read the header", where, fix, found=found)
    x, y, z = reader.GetSpacing()
    i, j, k = reader.GetOrigin()
    return Geometry((x, y, z), (i, j, k), tuple(reader.GetDirection()))


def write_nifti(file: Path, voxels: npt.NDArray[Any], header: nib.Nifti1Header) -> None:
    """Write stored voxels (x, y, z or x, y, z, channels) below a header as it is, packed if the name ends in .gz."""
    content = header.binaryblock + bytes(_OFFSET - nib.Nifti1Header.sizeof_hdr)
    with file.open("wb") as target:
        if file.name.lower().endswith(".gz"):
            # Without a name and a time: equal masks are equal files.
            with gzip.GzipFile("", "wb", 6, target, mtime=0) as packed:
                packed.write(content)
                packed.write(voxels.tobytes(order="F"))
        else:
            target.write(content)
            target.write(voxels.tobytes(order="F"))
