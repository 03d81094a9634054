"""Turn scans to the orientation that a model's reader gives them in, and masks back to that of the scan.

Two of nnU-Net's readers bring every scan to RAS before a network sees it, however it was stored; a mask of a model that
was trained so is only right for a scan that is turned so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK
from nibabel.affines import voxel_sizes
from nibabel.orientations import axcodes2ornt, io_orientation

from pcl_auto.data.formats.grid import CHANNEL_TOLERANCE_VOXELS, Grid
from pcl_auto.data.formats.suffixes import NIFTI_SUFFIXES, split_suffix
from pcl_auto.errors import DataError, Problem, StateError
from pcl_auto.nnunet.trusted_plans import READERS_AS_STORED, READERS_TO_RAS

_OF_NIBABEL = frozenset({"NibabelIO", "NibabelIOWithReorient"})
# As far as the headers of NIfTI keep a length.
_SPACING_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Turn:
    """A way to turn arrays whose last axes are z, y and x: the order of these axes, and which are then reversed."""

    axes: tuple[int, ...] = (0, 1, 2)
    reverse: tuple[bool, ...] = (False, False, False)

    def forth(self, array: np.ndarray) -> np.ndarray:
        """Turn an array, shape (..., z, y, x); a view of it is returned."""
        leading = array.ndim - len(self.axes)
        order = [*range(leading), *(leading + axis for axis in self.axes)]
        slices = (..., *self._slices)
        turned: np.ndarray = array.transpose(order)[slices]
        return turned

    def back(self, array: np.ndarray) -> np.ndarray:
        """Turn a mask (z, y, x) back."""
        return np.ascontiguousarray(array[self._slices].transpose(np.argsort(self.axes)))

    def of_lengths(self, lengths: Sequence[float]) -> list[float]:
        """Return lengths along z, y and x in the order of the turned axes."""
        return [lengths[axis] for axis in self.axes]

    @property
    def _slices(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if reverse else 1) for reverse in self.reverse)


def turn_for(reader: str, properties: dict[str, Any], where: str) -> Turn:
    """Return how the ``reader`` that plans name turns a scan that was read as it is stored.

    Args:
        reader: ``image_reader_writer`` of nnU-Net's plans.
        properties: of the scan, with ITK's ``direction`` in ``sitk_stuff``.
        where: the scan's name in messages.

    Raises:
        DataError: nothing says how the scan lies in space.
    """
    if reader not in READERS_TO_RAS:
        return Turn()
    direction = properties.get("sitk_stuff", {}).get("direction")
    if direction is None:
        raise DataError(
            Problem(
                code="data.no-orientation",
                what="nothing says how the scan lies in space, and the model wants it in RAS",
                where=where,
                expected="an affine from x, y and z to mm",
                fix="give the affine of the scan, or its file",
            )
        )
    if reader == "NibabelIOWithReorient":
        to_mm = np.reshape(direction, (3, 3)) * [[-1], [-1], [1]]  # from LPS to RAS
        orientation = io_orientation(np.vstack([np.column_stack([to_mm, np.zeros(3)]), [0, 0, 0, 1]]))
    else:
        code = SimpleITK.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(
            [float(entry) for entry in direction]
        )
        orientation = axcodes2ornt(tuple(code))
    # Row by row, for the stored axes x, y and z: the axis of RAS that each runs along, and in which sense.
    stored = np.argsort(orientation[:, 0])
    return Turn(
        axes=tuple(int(2 - axis) for axis in stored[::-1]),
        reverse=tuple(bool(orientation[axis, 1] < 0) for axis in stored[::-1]),
    )


def require_reader(reader: str, owner: object) -> None:
    """Refuse a model whose scans are read in a way that has no place for theirs in space.

    Raises:
        StateError: a model of 2D pictures, or of TIFF volumes, whose spacing is in a file beside them or nowhere.
    """
    if reader in READERS_AS_STORED | READERS_TO_RAS:
        return
    raise StateError(
        Problem(
            code="model.reader",
            what="a model of pictures without a place in space",
            where=f"the plans of {owner}: image_reader_writer",
            expected=" | ".join(sorted(READERS_AS_STORED | READERS_TO_RAS)),
            found=reader,
            fix="segment with nnUNetv2_predict, or train on scans in NIfTI",
        )
    )


def require_nibabels_view(reader: str, files: Sequence[Any], voxels: Sequence[int], properties: dict[str, Any]) -> None:
    """Refuse a NIfTI file that nibabel, the ``reader``, places elsewhere or spaces otherwise than ITK.

    Args:
        reader: ``image_reader_writer`` of nnU-Net's plans.
        files: one 4D volume, or one 3D volume per channel.
        voxels: the number along z, y and x.
        properties: of the scan, as ITK reads it.

    Raises:
        DataError: every file that is read in two ways.
    """
    if reader not in _OF_NIBABEL:
        return
    stuff = properties["sitk_stuff"]
    itk = Grid.of_itk(voxels[::-1], stuff["spacing"], stuff["origin"], stuff["direction"])
    problems = []
    for file in files:
        if not isinstance(file, Path) or split_suffix(file.name)[1] not in NIFTI_SUFFIXES:
            continue
        image: Any = nibabel.load(file)
        theirs = Grid(tuple(image.shape[:3]), tuple(tuple(map(float, row)) for row in image.affine))
        steps_mm = [image.header.get_zooms()[:3], voxel_sizes(image.affine)]
        alike = np.allclose(steps_mm, stuff["spacing"], rtol=_SPACING_TOLERANCE, atol=0)
        if not alike or itk.difference(theirs, CHANNEL_TOLERANCE_VOXELS):
            problems.append(
                Problem(
                    code="data.two-readings",
                    what="nibabel, which the model was trained with, reads another geometry than ITK",
                    where=str(file),
                    expected=str(itk),
                    found=f"{theirs}, spacing {' x '.join(f'{step:.4g}' for step in steps_mm[0])} mm",
                    fix="write the file again with one geometry: the same sform, qform and pixdim",
                )
            )
    if problems:
        raise DataError(problems)
