"""The header of a NIfTI file, judged field by field before a byte of memory is taken for its voxels.

nibabel decodes the fields; the judgment is our own, because both nibabel and ITK repair what they read (a
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

from pcl_auto.errors import Problem

Affine = tuple[tuple[float, ...], ...]
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
    """What a sound NIfTI header says: grid in voxels and mm, voxel type, scaling, where voxels begin."""

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
        """Whether stored values differ from the real ones."""
        return (self.slope, self.intercept) != (1.0, 0.0)


def header_length(head: bytes) -> int | None:
    """Length in bytes of the single-file header that ``head`` (348 bytes or more) begins with, else None."""
    for length, magic in ((NIFTI1_BYTES, head[344:348]), (NIFTI2_BYTES, head[4:12])):
        if head[:4] in (length.to_bytes(4, "little"), length.to_bytes(4, "big")):
            single = b"n+1\0" if length == NIFTI1_BYTES else b"n+2\0\r\n\x1a\n"
            return length if magic == single else None
    return None


def judge_header(block: bytes, where: str) -> tuple[Header | None, list[Problem]]:
    """The header in ``block`` (its ``header_length`` bytes), or every fault found in it.

    Args:
        block: the header bytes, of a length and magic that `header_length` accepted.
        where: the file, for the problems.
    """
    fields = _decode(block)
    shape, problems = _judge_shape(fields, where)
    dtype, of_type = _judge_type(fields, where)
    offset, of_offset = _judge_offset(fields, len(block), where)
    scaling, of_scaling = _judge_scaling(fields, where)
    spacing, of_spacing = _judge_spacing(fields, where)
    problems += of_type + of_offset + of_scaling + of_spacing
    if shape is None or dtype is None or spacing is None:
        return None, problems
    affine, of_affine = _judge_affine(fields, spacing, where)
    problems += of_affine
    if problems or affine is None:
        return None, problems
    return (
        Header(
            shape=(shape[0], shape[1], shape[2]),
            channels=shape[3],
            dtype=dtype,
            offset=offset,
            slope=scaling[0],
            intercept=scaling[1],
            spacing_mm=spacing,
            affine=tuple(tuple(map(float, row)) for row in affine),
        ),
        [],
    )


def _decode(block: bytes) -> Any:
    order = "<" if block[1] else ">"  # 348 is 5C 01 00 00 and 540 is 1C 02 00 00 in little-endian order
    kind = nib.Nifti1Header if len(block) == NIFTI1_BYTES else nib.Nifti2Header
    return kind(block, endianness=order, check=False)


def _judge_shape(fields: Any, where: str) -> tuple[tuple[int, ...] | None, list[Problem]]:
    """Sizes along x, y, z and channels."""
    stored = [int(size) for size in fields["dim"]]
    count = stored[0]
    if not 1 <= count <= 7:
        expected = "3, or 4 with channels"
        return None, [
            Problem(
                "nifti.dimension-count",
                "impossible number of dimensions",
                where,
                _RE_EXPORT,
                expected,
                f"dim[0] = {count}",
            )
        ]
    sizes = stored[1 : count + 1]
    if min(sizes) < 1:
        return None, [
            Problem(
                "nifti.size-impossible",
                "impossible size",
                where,
                _RE_EXPORT,
                "every dimension at least 1",
                _times(sizes),
            )
        ]
    if count < 3:
        fix = "stack the slices of one scan into a 3D volume"
        return None, [
            Problem("data.not-a-volume", "not a volume", where, fix, "3 dimensions", f"{count}D ({_times(sizes)})")
        ]
    if any(size > 1 for size in sizes[4:]):
        fix = "keep the channels in the fourth dimension and nothing beyond it"
        return None, [
            Problem(
                "nifti.too-many-dimensions",
                "too many dimensions",
                where,
                fix,
                "3, or 4 with channels",
                f"{count}D ({_times(sizes)})",
            )
        ]
    return (*sizes[:3], sizes[3] if count > 3 else 1), []


def _judge_type(fields: Any, where: str) -> tuple[np.dtype[Any] | None, list[Problem]]:
    code = int(fields["datatype"])
    if code in _READABLE:
        return np.dtype(_READABLE[code]).newbyteorder(fields.endianness), []
    found = f"datatype {code}" + (f" ({_UNREADABLE[code]})" if code in _UNREADABLE else "")
    fix = "save one real number per voxel and channel, as int16 or float32"
    return None, [
        Problem("nifti.voxel-type", "voxel type cannot be used", where, fix, "an integer or float type", found)
    ]


def _judge_offset(fields: Any, header_bytes: int, where: str) -> tuple[int, list[Problem]]:
    offset = float(fields["vox_offset"])
    first = header_bytes + 4  # four bytes that announce extensions follow the header
    if math.isfinite(offset) and offset >= first and offset.is_integer():
        return int(offset), []
    expected = f"a whole number of bytes, at least {first}"
    return 0, [Problem("nifti.offset-impossible", "impossible vox_offset", where, _RE_EXPORT, expected, f"{offset:g}")]


def _judge_scaling(fields: Any, where: str) -> tuple[tuple[float, float], list[Problem]]:
    """Slope and intercept; a slope of 0 (the standard) or NaN (nibabel) means that nothing is scaled."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or not math.isfinite(slope):
        return (1.0, 0.0), []
    if math.isfinite(intercept):
        return (slope, intercept), []
    fix = "save the volume again without scaling (scl_slope 1, scl_inter 0)"
    return (1.0, 0.0), [
        Problem("nifti.intercept-impossible", "impossible scl_inter", where, fix, "a finite number", f"{intercept}")
    ]


def _judge_spacing(fields: Any, where: str) -> tuple[tuple[float, float, float] | None, list[Problem]]:
    x, y, z = (float(size) for size in fields["pixdim"][1:4])
    problems = [
        Problem(
            "nifti.spacing-impossible",
            "impossible voxel spacing",
            where,
            "correct the spacing from the scan's DICOM headers and save the volume again",
            f"pixdim[{axis + 1}] ({_AXES[axis]}) above 0 mm",
            f"{size:g}",
        )
        for axis, size in enumerate((x, y, z))
        if not (math.isfinite(size) and size > 0)
    ]
    unit = _UNITS.get(int(fields["xyzt_units"]) & 7)
    if unit:
        # ITK multiplies such a spacing into mm, nibabel does not: the same file would train at two scales.
        fix = "state the spacing in mm and set xyzt_units to 2"
        problems.append(Problem("nifti.spacing-unit", "spacing not in mm", where, fix, "xyzt_units mm", unit))
    return (None, problems) if problems else ((x, y, z), [])


def _judge_affine(fields: Any, spacing: tuple[float, float, float], where: str) -> tuple[Matrix | None, list[Problem]]:
    codes = {name: int(fields[name]) for name in ("sform_code", "qform_code")}
    unknown = [f"{name} = {code}" for name, code in codes.items() if not 0 <= code <= 5]
    if unknown:
        # nibabel drops a transform with an unknown code, ITK follows it.
        fix = "set the code to 1 (scanner coordinates) or to what the transform means"
        return None, [
            Problem("nifti.transform-code", "unknown transform code", where, fix, "0 to 5", ", ".join(unknown))
        ]
    name = "sform" if codes["sform_code"] else "qform" if codes["qform_code"] else "pixdim"
    affine, reason = _best_affine(fields, name)
    fix = f"restore the orientation ({name}) from the source scan"
    if affine is None:
        return None, [
            Problem(
                "nifti.no-orientation", f"{name} is no orientation", where, fix, "a finite, invertible matrix", reason
            )
        ]
    with np.errstate(all="ignore"):  # NIfTI-2 can hold numbers whose squares overflow
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if np.any(np.abs(lengths - spacing) > _SPACING_TOLERANCE * np.asarray(spacing)):
        fix = "make pixdim and the affine say the same: readers differ in which one they believe"
        return None, [
            Problem(
                "nifti.spacing-contradicts-affine",
                "spacing contradicts the affine",
                where,
                fix,
                f"pixdim {_mm(spacing)}",
                _mm(lengths),
            )
        ]
    if np.abs(affine[:3, 3]).max() > _FARTHEST_MM:
        return None, [
            Problem(
                "nifti.far-away", f"{name} puts the volume nowhere", where, fix, "a position in mm", _mm(affine[:3, 3])
            )
        ]
    skew = _skew(affine)
    if skew > (_SKEW_BESIDE_QFORM if name == "sform" and codes["qform_code"] else _SKEW):
        fix = "resample the volume onto a grid with right angles"
        expected = "axes at right angles: ITK, which nnU-Net reads with, refuses others or takes the qform instead"
        return None, [
            Problem(
                "nifti.sheared", f"{name} is sheared", where, fix, expected, f"cosines up to {skew:.2g} between axes"
            )
        ]
    return affine, []


def _skew(affine: Matrix) -> float:
    """The largest cosine between two axes; 0 for right angles."""
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(cosines.T @ cosines - np.eye(3)).max())


def _best_affine(fields: Any, name: str) -> tuple[Matrix | None, str]:
    """The affine in RAS as nibabel chooses it, or None and what is wrong with it."""
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


def _times(sizes: list[int]) -> str:
    return " x ".join(map(str, sizes))


def _mm(lengths: Any) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths) + " mm"
