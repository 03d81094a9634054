"""Headers of NIfTI files, checked field by field before memory is taken for voxels.

nibabel decodes the fields; the checks are our own, because both nibabel and ITK repair what they read (a
negative spacing becomes positive, a NaN one becomes 1) where a training set needs the fault to be named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from pcl_auto.data.formats.grid import Affine, format_shape
from pcl_auto.errors import Problem

Matrix = npt.NDArray[np.float64]

# Lengths of the two header versions; a header begins with its own length, which also tells the byte order.
NIFTI1_BYTES, NIFTI2_BYTES = 348, 540

_READABLE = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_UNREADABLE = {
    1: "one bit per voxel", 32: "complex64", 128: "RGB", 1536: "float128", 1792: "complex128",
    2048: "complex256", 2304: "RGBA",
}  # fmt: skip
_UNITS = {1: "meter", 3: "micron"}
_AXES = "xyz"
# ITK takes the spacing from pixdim, nibabel the geometry from the affine; 1 % is far above float32 rounding.
_SPACING_TOLERANCE = 1e-2
# No scanner is a kilometer wide; ITK loses its axes in larger numbers.
_FARTHEST_MM = 1e6
# ITK 5.4 reads cosines of 1e-4 between axes and refuses 3e-4, unless there is a qform, which it takes then.
_SKEW, _SKEW_BESIDE_QFORM = 1e-4, 1e-2
_RE_EXPORT = "export the volume again from its source"


@dataclass(frozen=True)
class Header:
    """A sound NIfTI header: grid in voxels and mm, voxel type, scaling, and the byte at which voxels begin."""

    shape: tuple[int, int, int]
    channels: int
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    spacing_mm: tuple[float, float, float]
    affine: Affine

    @property
    def voxel_bytes(self) -> int:
        """Length of the voxel data in bytes, as a Python integer: it cannot overflow."""
        return math.prod(self.shape) * self.channels * self.dtype.itemsize

    @property
    def scaled(self) -> bool:
        """True if stored values differ from the real ones."""
        return (self.slope, self.intercept) != (1.0, 0.0)


def header_length(head: bytes) -> int | None:
    """Return the length in bytes of the single-file header that ``head`` (348 bytes or more) begins with, or None."""
    for length, magic in ((NIFTI1_BYTES, head[344:348]), (NIFTI2_BYTES, head[4:12])):
        if head[:4] in (length.to_bytes(4, "little"), length.to_bytes(4, "big")):
            single = b"n+1\0" if length == NIFTI1_BYTES else b"n+2\0\r\n\x1a\n"
            return length if magic == single else None
    return None


def judge_header(block: bytes, where: str) -> tuple[Header | None, list[Problem]]:
    """Read the header in ``block``, or list every fault in it.

    Args:
        block: the header bytes, of a length and magic that `header_length` accepted.
        where: the file, for the problems.
    """
    judge = _Judge(_decode(block), where)
    shape, dtype, offset = judge.shape(), judge.dtype(), judge.offset(len(block))
    (slope, intercept), spacing_mm = judge.scaling(), judge.spacing_mm()
    if shape is None or dtype is None or spacing_mm is None:
        return None, judge.problems
    affine = judge.affine(spacing_mm)
    if judge.problems or affine is None:
        return None, judge.problems
    *size, channels = shape
    rows = tuple(tuple(map(float, row)) for row in affine)
    return Header((size[0], size[1], size[2]), channels, dtype, offset, slope, intercept, spacing_mm, rows), []


def _decode(block: bytes) -> Any:
    order = "<" if block[1] else ">"  # 348 is 5C 01 00 00 and 540 is 1C 02 00 00 in little-endian order
    kind = nib.Nifti1Header if len(block) == NIFTI1_BYTES else nib.Nifti2Header
    return kind(block, endianness=order, check=False)


class _Judge:
    """Reads the fields of a header one by one, and notes in ``problems`` which of them make no sense."""

    def __init__(self, fields: Any, where: str) -> None:
        self.fields, self.where = fields, where
        self.problems: list[Problem] = []

    def _refuse(self, code: str, what: str, expected: str, found: str, fix: str = _RE_EXPORT) -> None:
        self.problems.append(Problem(code, what, self.where, fix, expected, found))

    def shape(self) -> tuple[int, ...] | None:
        """Return the sizes along x, y, z and channels."""
        stored = [int(size) for size in self.fields["dim"]]
        count = stored[0]
        sizes = stored[1 : count + 1]
        wanted, found = "3, or 4 with channels", f"{count}D ({format_shape(sizes)})"
        if not 1 <= count <= 7:
            self._refuse("nifti.dimension-count", "impossible number of dimensions", wanted, f"dim[0] = {count}")
        elif min(sizes) < 1:
            found = format_shape(sizes)
            self._refuse("nifti.size-impossible", "impossible size", "every dimension at least 1", found)
        elif count < 3:
            fix = "stack the slices of one scan into a 3D volume"
            self._refuse("data.not-a-volume", "not a volume", "3 dimensions", found, fix)
        elif any(size > 1 for size in sizes[4:]):
            fix = "keep the channels in the fourth dimension and nothing beyond it"
            self._refuse("nifti.too-many-dimensions", "too many dimensions", wanted, found, fix)
        else:
            return (*sizes[:3], sizes[3] if count > 3 else 1)
        return None

    def dtype(self) -> np.dtype[Any] | None:
        """Return the type of a voxel, in the byte order of the file."""
        code = int(self.fields["datatype"])
        if code in _READABLE:
            stored: np.dtype[Any] = np.dtype(_READABLE[code]).newbyteorder(self.fields.endianness)
            return stored
        found = f"datatype {code}" + (f" ({_UNREADABLE[code]})" if code in _UNREADABLE else "")
        fix = "save one real number per voxel and channel, as int16 or float32"
        self._refuse("nifti.voxel-type", "voxel type cannot be used", "an integer or float type", found, fix)
        return None

    def offset(self, header_bytes: int) -> int:
        """Return where the voxels begin, in bytes."""
        offset = float(self.fields["vox_offset"])
        first = header_bytes + 4  # four bytes that announce extensions follow the header
        if math.isfinite(offset) and offset >= first and offset.is_integer():
            return int(offset)
        expected = f"a whole number of bytes, at least {first}"
        self._refuse("nifti.offset-impossible", "impossible vox_offset", expected, f"{offset:g}")
        return 0

    def scaling(self) -> tuple[float, float]:
        """Return slope and intercept; a slope of 0 (the standard) or NaN (nibabel) scales nothing."""
        slope, intercept = float(self.fields["scl_slope"]), float(self.fields["scl_inter"])
        if slope == 0 or not math.isfinite(slope):
            return 1.0, 0.0
        if not math.isfinite(intercept):
            fix = "save the volume again without scaling (scl_slope 1, scl_inter 0)"
            what = "impossible scl_inter"
            self._refuse("nifti.intercept-impossible", what, "a finite number", f"{intercept}", fix)
        return slope, intercept

    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Return the voxel spacing along x, y and z."""
        x, y, z = (float(size) for size in self.fields["pixdim"][1:4])
        known = len(self.problems)
        fix = "correct the spacing from the scan's DICOM headers and save the volume again"
        for axis, size in enumerate((x, y, z)):
            if not (math.isfinite(size) and size > 0):
                expected = f"pixdim[{axis + 1}] ({_AXES[axis]}) above 0 mm"
                self._refuse("nifti.spacing-impossible", "impossible voxel spacing", expected, f"{size:g}", fix)
        unit = _UNITS.get(int(self.fields["xyzt_units"]) & 7)
        if unit:
            # ITK multiplies such a spacing into mm, nibabel does not: the same file would train at two scales.
            fix = "state the spacing in mm and set xyzt_units to 2"
            self._refuse("nifti.spacing-unit", "spacing not in mm", "xyzt_units mm", unit, fix)
        return None if len(self.problems) > known else (x, y, z)

    def affine(self, spacing_mm: tuple[float, float, float]) -> Matrix | None:
        """Return the affine in RAS as nibabel chooses it; ITK must be able to read it too."""
        codes = {name: int(self.fields[name]) for name in ("sform_code", "qform_code")}
        unknown = [f"{name} = {code}" for name, code in codes.items() if not 0 <= code <= 5]
        if unknown:
            # nibabel drops a transform with an unknown code, ITK follows it.
            fix = "set the code to 1 (scanner coordinates) or to what the transform means"
            self._refuse("nifti.transform-code", "unknown transform code", "0 to 5", ", ".join(unknown), fix)
            return None
        name = "sform" if codes["sform_code"] else "qform" if codes["qform_code"] else "pixdim"
        affine, reason = _best_affine(self.fields, name)
        restore = f"restore the orientation ({name}) from the source scan"
        if affine is None:
            expected = "a finite, invertible matrix"
            self._refuse("nifti.no-orientation", f"{name} is no orientation", expected, reason, restore)
            return None
        with np.errstate(all="ignore"):  # NIfTI-2 can hold numbers whose squares overflow
            lengths = np.linalg.norm(affine[:3, :3], axis=0)
        skew = _skew(affine)
        if np.any(np.abs(lengths - spacing_mm) > _SPACING_TOLERANCE * np.asarray(spacing_mm)):
            fix = "make pixdim and the affine say the same: readers differ in which one they believe"
            what, expected = "spacing contradicts the affine", f"pixdim {_mm(spacing_mm)}"
            self._refuse("nifti.spacing-contradicts-affine", what, expected, _mm(lengths), fix)
        elif np.abs(affine[:3, 3]).max() > _FARTHEST_MM:
            what, found = f"{name} puts the volume nowhere", _mm(affine[:3, 3])
            self._refuse("nifti.far-away", what, "a position in mm", found, restore)
        elif skew > (_SKEW_BESIDE_QFORM if name == "sform" and codes["qform_code"] else _SKEW):
            fix = "resample the volume onto a grid with right angles"
            expected = "axes at right angles: ITK, which nnU-Net reads with, refuses others or takes the qform instead"
            found = f"cosines up to {skew:.2g} between axes"
            self._refuse("nifti.sheared", f"{name} is sheared", expected, found, fix)
        return affine


def _skew(affine: Matrix) -> float:
    """Return the largest cosine between two axes; 0 for right angles."""
    with np.errstate(all="ignore"):
        cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        return float(np.abs(cosines.T @ cosines - np.eye(3)).max())


def _best_affine(fields: Any, name: str) -> tuple[Matrix | None, str]:
    """Return the affine in RAS as nibabel chooses it, or None and what is wrong with it."""
    if name == "qform":
        handedness = float(fields["pixdim"][0])
        if handedness == 0:
            fields["pixdim"][0] = 1  # the standard's reading of a field that older writers left empty
        elif handedness not in (-1, 1):
            return None, f"pixdim[0] = {handedness:g}, neither 1 nor -1"
    try:
        with np.errstate(all="ignore"):
            affine = np.asarray(fields.get_best_affine(), dtype=np.float64)
    except (ValueError, ArithmeticError, HeaderDataError) as error:
        return None, str(error)
    if not np.isfinite(affine).all():
        return None, "a matrix with NaN or infinity"
    columns = affine[:3, :3]
    with np.errstate(all="ignore"):
        volume = abs(float(np.linalg.det(columns)))
        box = float(np.prod(np.linalg.norm(columns, axis=0)))
    # Relative to a box with the same edges, so that a fine spacing does not pass for a flat volume.
    if not volume > 1e-6 * box:
        return None, f"a singular matrix {np.round(columns, 4).tolist()}"
    return affine, ""


def _mm(lengths: Any) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths) + " mm"
