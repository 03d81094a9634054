"""Write a NIfTI file anew that readers take differently, with one reading of its place and its values."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from pcl_auto.data.formats.grid import TRAINING_TOLERANCE_VOXELS, Turn, difference_of, format_shape
from pcl_auto.data.formats.nifti import probe_image
from pcl_auto.data.formats.nifti_bytes import Voxels, read_nifti
from pcl_auto.data.formats.nifti_geometry import header_at, write_nifti
from pcl_auto.data.formats.nifti_header import Header, Mend, shear_of
from pcl_auto.data.formats.suffixes import split_suffix
from pcl_auto.data.formats.volume import grids_of
from pcl_auto.errors import DataError, Problem, StateError
from pcl_auto.workspace.atomic import atomic_path

# Scanner coordinates, as NIfTI calls them.
_SCANNER = 1
# Voxels along an axis of NIfTI-1, which counts in 16 bits.
_LONGEST = 32767
_FIX_SOURCE = "restore the file from its source: no option of `pclauto repair` helps here"
_AS_STORED: Turn = ((0, 1, 2), (False, False, False))

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
        like: a file with as many voxels, whose place is taken instead; a file that lies there already, along other
            axes, is turned to its axes.

    Raises:
        DataError: the file is damaged, or still no volume that readers take alike; nothing is written then.
        StateError: there is a file of that name.
    """
    stem, suffix = split_suffix(file.name)
    target = folder / f"{stem}{suffix}"
    if target.exists():
        raise StateError(Problem("repair.file-there", "there is a file already", str(target), "choose another folder"))

    other = None if like is None else _read(like)[0]

    def mend_values(fields: Any) -> None:
        if values != "header":
            shift = float(fields["scl_inter"]) if values == "shifted" else 0.0
            fields["scl_slope"], fields["scl_inter"] = 1, shift

    def mend(fields: Any) -> None:
        mend_values(fields)
        if other is not None:
            _set_place(fields, _affine(other))
        elif geometry != "itk":
            place = {"sform": fields.get_sform, "qform": fields.get_qform, "pixdim": partial(_respaced, fields)}[
                geometry
            ]
            try:
                with np.errstate(all="ignore"):
                    affine = place()
                    _set_place(fields, affine)
            except (ValueError, ArithmeticError, HeaderDataError) as error:  # numpy's of matrices are ValueErrors
                what, fix = f"{geometry} is no orientation", "choose another one with --geometry"
                raise DataError(Problem("nifti.no-orientation", what, str(file), fix, found=str(error))) from error
            # nibabel takes the shear out of the qform, which ITK would read then.
            if sheared := shear_of(affine, str(file)):
                raise DataError(sheared)

    axes, reverse = _AS_STORED if other is None else _turn_onto(other, file, mend_values)
    header, stored = _read(file, mend)
    voxels = stored.transpose(*axes, 3)[tuple(slice(None, None, -1 if each else 1) for each in reverse)]
    if other is not None and voxels.shape[:3] != other.shape:
        what, fix = "the two files differ in shape", "name a file with the same voxels with --like"
        raise DataError(Problem("repair.other-shape", what, str(file), fix, str(other.shape), str(header.shape)))
    if max(voxels.shape) > _LONGEST:
        what, fix = "the volume is too long for NIfTI-1", "crop it, or store it as MetaImage (.mha) or NRRD"
        expected = f"{_LONGEST} voxels along an axis at most"
        raise DataError(Problem("repair.too-long", what, str(file), fix, expected, format_shape(header.shape)))
    with np.errstate(over="ignore"):
        scaling = np.array([header.slope, header.intercept]).astype(np.float32)
    if not np.isfinite(scaling).all():
        what, fix = "slope or intercept is too large for NIfTI-1", "choose the stored values with --values stored"
        expected, found = "numbers of 32 bits", f"scl_slope {header.slope:g}, scl_inter {header.intercept:g}"
        raise DataError(Problem("repair.scaling-too-large", what, str(file), fix, expected, found))
    native = voxels.dtype.newbyteorder("=")
    written = header_at(header.fields, voxels.shape if header.channels > 1 else voxels.shape[:3], native)
    _set_place(written, _affine(header))
    written["scl_slope"], written["scl_inter"] = scaling
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        write_nifti(temporary, voxels.astype(native, copy=False), written)
        _, problems = probe_image(temporary)
        if problems:
            raise DataError([replace(problem, where=str(file), fix=_FIX_SOURCE) for problem in problems])
    return target


def _turn_onto(other: Header, file: Path, mend: Mend) -> Turn:
    """Return how the axes of a file are to be turned before it takes the place of another, so that nothing is mirrored.

    Raises:
        DataError: it lies elsewhere, along other axes.
    """
    content, _ = read_nifti(file, mend)
    if content is None:  # its place makes no sense; whatever else is wrong is found again
        return _AS_STORED
    own, grids = content[0], grids_of(content[0])
    theirs = other.geometry.grid(other.shape)
    if difference_of([theirs], grids, TRAINING_TOLERANCE_VOXELS) is None:
        return _AS_STORED
    if turn := grids[0].turn_onto(theirs, TRAINING_TOLERANCE_VOXELS):
        return turn
    if own.shape == other.shape and not _is_unplaced(own) and not grids[0].runs_along(theirs):
        what = "the axes of the two files run otherwise, and their voxels lie apart: one of them would be mirrored"
        fix = "resample the file onto the other one, by its place in space; or correct its own header first"
        raise DataError(Problem("repair.other-axes", what, str(file), fix, str(theirs), str(grids[0])))
    return _AS_STORED


def _is_unplaced(header: Header) -> bool:
    """Tell whether nothing is meant by the place in a header: no code says what it is, or it is that of bare arrays."""
    if not header.fields["sform_code"] and not header.fields["qform_code"]:
        return True
    return grids_of(header)[0].is_unplaced and bool(np.allclose(header.geometry.spacing_mm, 1))


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
