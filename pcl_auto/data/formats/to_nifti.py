"""Write a volume of another format as NIfTI, with the same voxels in the same place."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from pcl_auto.data.formats.grid import format_shape
from pcl_auto.data.formats.nifti_geometry import header_at, write_nifti
from pcl_auto.data.formats.volume import read_volume
from pcl_auto.errors import DataError, Problem

# Scanner coordinates, as NIfTI calls them.
_SCANNER = 1


def write_as_nifti(source: Path, target: Path) -> None:
    """Write the volume in ``source`` (MetaImage or NRRD) to ``target``, a name ending in .nii or .nii.gz.

    Raises:
        DataError: the file is damaged, or no NIfTI can hold what it does.
    """
    volume = read_volume(source)
    voxels = volume.voxels.transpose(3, 2, 1, 0)
    place = nib.Nifti1Header()
    affine = np.asarray(volume.grids[0].affine)
    place.set_qform(affine, _SCANNER)
    place.set_sform(affine, _SCANNER)
    shape = voxels.shape if voxels.shape[3] > 1 else voxels.shape[:3]
    try:
        header = header_at(place, shape, voxels.dtype)
    except HeaderDataError as error:
        what, fix = "NIfTI cannot hold this volume", "crop it, or save it as int16 or float32"
        found = f"{format_shape(shape)} voxels of {voxels.dtype.name}: {error}"
        raise DataError(Problem("nifti.cannot-hold", what, str(source), fix, found=found)) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(target, voxels, header)
