"""Write a NIfTI file anew that readers take differently, with one reading of its place and its values."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from pcl_auto.data.formats.nifti import probe_image
from pcl_auto.data.formats.nifti_bytes import Voxels, read_nifti
from pcl_auto.data.formats.nifti_geometry import header_at, write_nifti
from pcl_auto.data.formats.nifti_header import Header, Mend
from pcl_auto.data.formats.suffixes import split_suffix
from pcl_auto.errors import DataError, Problem, StateError
from pcl_auto.workspace.atomic import atomic_path

# Scanner coordinates, as NIfTI calls them.
_SCANNER = 1

GeometrySource = Literal["itk", "sform", "qform", "pixdim"]
ValueSource = Literal["header", "stored", "shifted"]


def repair(
    file: Path,
    folder: Path,
    *,
    geometry: GeometrySource = "itk",
    values: ValueSource = "header",
    like: Path | None = None,
) -> Path:
    """Write a volume as NIfTI-1 whose sform, qform and spacing say the same; the voxels as they are stored stay.

    The new file has no intent: it is a scan or a label.

    Args:
        file: a NIfTI file, whole; its name is that of the new one.
        folder: for the new file.
        geometry: the place that is meant: as ITK reads it, the ``sform`` with its spacing, the ``qform``, or the
            directions of the sform with the spacing of ``pixdim``.
        values: those that the header scales to, the ``stored`` ones, or these with scl_inter added (``shifted``).
        like: a file with as many voxels, whose place is taken instead.

    Raises:
        DataError: the file is damaged, or still no volume that readers take alike; nothing is written then.
        StateError: there is a file of that name.
    """
    stem, suffix = split_suffix(file.name)
    target = folder / f"{stem}{suffix}"
    if target.exists():
        raise StateError(Problem("repair.file-there", "there is a file already", str(target), "choose another folder"))

    other = None if like is None else _read(like)[0]

    def mend(fields: Any) -> None:
        if other is not None:
            _set_place(fields, _affine(other))
        elif geometry != "itk":
            place = {"sform": fields.get_sform, "qform": fields.get_qform, "pixdim": partial(_respaced, fields)}[
                geometry
            ]
            try:
                with np.errstate(all="ignore"):
                    _set_place(fields, place())
            except (ValueError, ArithmeticError, HeaderDataError) as error:  # numpy's of matrices are ValueErrors
                what, fix = f"{geometry} is no orientation", "choose another one with --geometry"
                raise DataError(Problem("nifti.no-orientation", what, str(file), fix, found=str(error))) from error
        if values != "header":
            shift = float(fields["scl_inter"]) if values == "shifted" else 0.0
            fields["scl_slope"], fields["scl_inter"] = 1, shift

    header, voxels = _read(file, mend)
    if other is not None and header.shape != other.shape:
        what, fix = "the two files differ in shape", "name a file with the same voxels with --like"
        raise DataError(Problem("repair.other-shape", what, str(file), fix, str(other.shape), str(header.shape)))
    native = voxels.dtype.newbyteorder("=")
    written = header_at(header.fields, voxels.shape if header.channels > 1 else header.shape, native)
    _set_place(written, _affine(header))
    written["scl_slope"], written["scl_inter"] = header.slope, header.intercept
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        write_nifti(temporary, voxels.astype(native, copy=False), written)
        _, problems = probe_image(temporary)
        if problems:
            raise DataError(problems)
    return target


def _read(file: Path, mend: Mend | None = None) -> tuple[Header, Voxels]:
    content, problems = read_nifti(file, mend)
    if content is None:
        raise DataError(problems)
    return content


def _affine(header: Header) -> npt.NDArray[np.float64]:
    """Return the affine in RAS as ITK reads it."""
    return np.asarray(header.geometry.grid(header.shape).affine)


def _set_place(fields: Any, affine: npt.NDArray[Any]) -> None:
    """Let sform, qform and spacing say the same."""
    fields.set_qform(affine, _SCANNER)
    fields.set_sform(affine, _SCANNER)


def _respaced(fields: Any) -> npt.NDArray[Any]:
    """Return the sform, or without one the qform, with the spacing of pixdim."""
    affine = np.array(fields.get_sform() if fields["sform_code"] else fields.get_qform(), dtype=np.float64)
    affine[:3, :3] *= fields["pixdim"][1:4] / np.linalg.norm(affine[:3, :3], axis=0)
    return affine
