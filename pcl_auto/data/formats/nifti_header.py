"""Headers of NIfTI files, checked field by field before memory is taken for voxels.

nibabel decodes the fields; the checks are our own, because both nibabel and ITK repair what they read (a
negative spacing becomes positive, a NaN one becomes 1) where a training set needs the fault to be named.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from pcl_auto.data.formats.grid import SCORING_TOLERANCE_VOXELS, Affine, Geometry, format_shape
from pcl_auto.data.formats.nifti_geometry import read_geometry
from pcl_auto.errors import Problem

Matrix = npt.NDArray[np.float64]
Mend = Callable[[Any], None]

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
# ITK takes the spacing from pixdim, nibabel from the sform; 1 % is far above float32 rounding.
_SPACING_TOLERANCE = 1e-2
# No scanner is a kilometer wide; ITK loses its axes in larger numbers.
_FARTHEST_MM = 1e6
# ITK 5.4 reads cosines of 1e-4 between the axes of an sform and refuses 3e-4, unless there is a qform to take.
_SKEW = 1e-4
# Intents of which ITK turns the values into vectors or tensors in LPS, or reads no file at all.
_VECTORS = {1004: "a symmetric matrix", 1005: "a displacement", 1006: "a vector"}
# ITK takes a smaller slope for 0.
_MIN_SLOPE = float(np.finfo(np.float64).eps)
_RE_EXPORT = "export the volume again from its source"


def repair_command(where: str, *options: str) -> str:
    """Return the command that writes a file anew whose header readers take differently."""
    return " ".join(["pclauto repair", shlex.quote(where), *options, "-o FOLDER"])


@dataclass(frozen=True)
class Header:
    """A sound NIfTI header: size, voxel type, scaling, where the voxels begin, and the geometry as ITK reads it.

    ``stated_affines`` are from voxel indices to mm in RAS, as the sform says and as the qform says; of a header with
    neither, as nibabel reads the spacing alone. ``fields`` are those of the file, as nibabel decodes them.
    """

    shape: tuple[int, int, int]
    channels: int
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    geometry: Geometry
    stated_affines: tuple[Affine, ...]
    fields: Any

    @property
    def voxel_bytes(self) -> int:
        """Length of the voxel data in bytes, as a Python integer: it cannot overflow."""
        return math.prod(self.shape) * self.channels * self.dtype.itemsize

    @property
    def scaled(self) -> bool:
        """True if stored values differ from the real ones."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def real_dtype(self) -> np.dtype[Any]:
        """Type of the real values, as ITK has them."""
        if not self.scaled:
            native: np.dtype[Any] = self.dtype.newbyteorder("=")
            return native
        return np.dtype(np.float64 if self.dtype.kind == "f" and self.dtype.itemsize == 8 else np.float32)

    def scale(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the real values of stored ones, to the last bit as ITK does."""
        if not self.scaled:
            return stored
        with np.errstate(all="ignore"):  # an overflow becomes an infinite voxel, which is reported as such
            real = stored.astype(self.real_dtype).astype(np.float64)
            real *= self.slope
            real += self.intercept
            return real.astype(self.real_dtype)


def header_length(head: bytes) -> int | None:
    """Return the length in bytes of the single-file header that ``head`` (348 bytes or more) begins with, or None."""
    for length, magic in ((NIFTI1_BYTES, head[344:348]), (NIFTI2_BYTES, head[4:12])):
        if head[:4] in (length.to_bytes(4, "little"), length.to_bytes(4, "big")):
            single = b"n+1\0" if length == NIFTI1_BYTES else b"n+2\0\r\n\x1a\n"
            return length if magic == single else None
    return None


def judge_header(block: bytes, where: str, mend: Mend | None = None) -> tuple[Header | None, list[Problem]]:
    """Read the header in ``block``, or list every fault in it.

    Args:
        block: the header bytes, of a length and magic that `header_length` accepted.
        where: the file, for the problems.
        mend: changes the fields first.
    """
    fields = decode(block)
    if mend is not None:
        mend(fields)
    judge = _Judge(fields, where)
    shape, dtype, offset = judge.shape(), judge.dtype(), judge.offset(len(block))
    (slope, intercept), spacing_mm = judge.scaling(), judge.spacing_mm()
    if shape is None or dtype is None or spacing_mm is None:
        return None, judge.problems
    affines = judge.affines(spacing_mm)
    if len(block) != NIFTI1_BYTES and mend is None:
        judge.refuse_second_version()
    if mend is None:
        judge.refuse_intent()
    geometry = None if judge.problems else judge.geometry(shape[:3], affines)
    if geometry is None:
        return None, judge.problems
    x, y, z, channels = shape
    stated = tuple(tuple(tuple(map(float, row)) for row in affine) for affine in affines)
    return Header((x, y, z), channels, dtype, offset, slope, intercept, geometry, stated, fields), []


def decode(block: bytes) -> Any:
    """Return the fields of a header as nibabel decodes them; both versions have the same names."""
    order = "<" if block[1] else ">"  # 348 is 5C 01 00 00 and 540 is 1C 02 00 00 in little-endian order
    kind = nib.Nifti1Header if len(block) == NIFTI1_BYTES else nib.Nifti2Header
    return kind(block, endianness=order, check=False)


class _Judge:
    """Reads the fields of a header one by one, and notes in ``problems`` which of them make no sense."""

    def __init__(self, fields: Any, where: str) -> None:
        self.fields, self.where = fields, where
        self.codes = {name: int(fields[f"{name}_code"]) for name in ("sform", "qform")}
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
        """Return slope and intercept, which every reader must take alike.

        By the standard a slope of 0 scales nothing; ITK adds the intercept all the same, and reads what is not finite
        as 0.
        """
        slope, intercept = float(self.fields["scl_slope"]), float(self.fields["scl_inter"])
        is_scaling = math.isfinite(slope) and abs(slope) >= _MIN_SLOPE
        if is_scaling and math.isfinite(intercept):
            return slope, intercept
        if (slope == 0 or math.isnan(slope)) and (intercept == 0 or not math.isfinite(intercept)):
            return 1.0, 0.0
        expected = "scl_slope other than 0, and scl_inter, both finite; or scl_slope 0 and scl_inter 0"
        found = f"scl_slope {slope:g}, scl_inter {intercept:g}"
        fix = (
            f"write the values as they are meant: {repair_command(self.where, '--values stored')}, or --values shifted"
        )
        self._refuse("nifti.scaling", "scaling that readers take differently", expected, found, fix)
        return 1.0, 0.0

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

    def affines(self, spacing_mm: tuple[float, float, float]) -> list[Matrix]:
        """Return the affines in RAS that the header states; ITK must be able to read one of them."""
        codes = self.codes
        unknown = [f"{name}_code = {code}" for name, code in codes.items() if not 0 <= code <= 5]
        if unknown:
            # nibabel drops a transform with an unknown code, ITK follows it.
            fix = "set the code to 1 (scanner coordinates) or to what the transform means"
            self._refuse("nifti.transform-code", "unknown transform code", "0 to 5", ", ".join(unknown), fix)
            return []
        affines = {name: self._affine(name) for name in [name for name, code in codes.items() if code] or ["pixdim"]}
        sform = affines.get("sform")
        if sform is not None and not codes["qform"]:
            # Beside a qform ITK leaves such an sform alone.
            self._judge_sform(sform, spacing_mm)
        return [affine for affine in affines.values() if affine is not None]

    def refuse_second_version(self) -> None:
        """Refuse NIfTI-2: ITK reads none, and so does nnU-Net."""
        self._refuse("nifti.version-2", "NIfTI-2", "NIfTI-1", "NIfTI-2", repair_command(self.where))

    def refuse_intent(self) -> None:
        """Refuse values that ITK turns about, or does not read, and nibabel takes as they are."""
        intent = _VECTORS.get(int(self.fields["intent_code"]))
        if intent:
            fix = f"if these are the values of a scan or a label: {repair_command(self.where)}"
            found = f"intent_code {int(self.fields['intent_code'])} ({intent})"
            self._refuse("nifti.intent", "values that readers take differently", "the intent of a scan", found, fix)

    def geometry(self, shape: tuple[int, ...], affines: list[Matrix]) -> Geometry | None:
        """Return the place of the voxels as ITK reads it, which must be one of the ``affines`` that are stated."""
        geometry = read_geometry(self.fields, self.where)
        if isinstance(geometry, Problem):
            self.problems.append(geometry)
            return None
        if any(self.codes.values()) and not any(_is_near(geometry, affine) for affine in affines):
            what, found = "ITK reads another place than the header states", str(geometry.grid(shape))
            self._refuse("nifti.read-otherwise", what, str(affines[0].tolist()), found)
            return None
        return geometry

    def _affine(self, name: str) -> Matrix | None:
        affine, reason = _stated_affine(self.fields, name)
        restore = f"restore the orientation ({name}) from the source scan"
        if all(self.codes.values()):
            other = "qform" if name == "sform" else "sform"
            restore += f", or take the {other} if that is right: {repair_command(self.where, f'--geometry {other}')}"
        if affine is None:
            expected = "a finite, invertible matrix"
            self._refuse("nifti.no-orientation", f"{name} is no orientation", expected, reason, restore)
        elif not np.abs(affine[:3]).max() <= _FARTHEST_MM:
            what, found = f"{name} puts the volume nowhere", _mm(affine[:3, 3])
            self._refuse("nifti.far-away", what, "a position in mm", found, restore)
        return affine

    def _judge_sform(self, affine: Matrix, spacing_mm: tuple[float, float, float]) -> None:
        with np.errstate(all="ignore"):  # NIfTI-2 can hold numbers whose squares overflow
            lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if sheared := shear_of(affine, self.where):  # no spacing would make it right
            self.problems.append(sheared)
        elif not np.all(np.abs(lengths - spacing_mm) <= _SPACING_TOLERANCE * np.asarray(spacing_mm)):
            command = repair_command(self.where, "--geometry sform")
            fix = f"take the spacing from one of them: {command}, or --geometry pixdim"
            what, expected = "spacing contradicts the affine", f"pixdim {_mm(spacing_mm)}"
            self._refuse("nifti.spacing-contradicts-affine", what, expected, _mm(lengths), fix)


def _is_near(geometry: Geometry, affine: Matrix) -> bool:
    """Tell whether an affine is the place that ITK reads, but for spacings that pixdim rounds otherwise."""
    read = np.asarray(geometry.grid((1, 1, 1)).affine)
    apart = np.abs(read - affine)[:3] / np.asarray(geometry.spacing_mm).min()
    return bool(np.all(apart[:, :3] <= _SPACING_TOLERANCE) and np.all(apart[:, 3] <= SCORING_TOLERANCE_VOXELS))


def shear_of(affine: Matrix, where: str) -> Problem | None:
    """Return what is wrong with axes that are not at right angles."""
    skew = _skew(affine)
    if skew <= _SKEW:
        return None
    fix = "resample the volume onto a grid with right angles"
    expected = "axes at right angles: ITK, which nnU-Net reads with, refuses others"
    return Problem("nifti.sheared", "sform is sheared", where, fix, expected, f"cosines up to {skew:.2g} between axes")


def _skew(affine: Matrix) -> float:
    """Return the largest cosine between two axes; 0 for right angles."""
    with np.errstate(all="ignore"):
        cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        return float(np.abs(cosines.T @ cosines - np.eye(3)).max())


def _stated_affine(fields: Any, name: str) -> tuple[Matrix | None, str]:
    """Return the affine in RAS of ``name`` (sform, qform, or pixdim alone), or None and what is wrong with it."""
    if name == "qform":
        handedness = float(fields["pixdim"][0])
        if handedness == 0:
            fields["pixdim"][0] = 1  # the standard's reading of a field that older writers left empty
        elif handedness not in (-1, 1):
            return None, f"pixdim[0] = {handedness:g}, neither 1 nor -1"
    read = {"sform": fields.get_sform, "qform": fields.get_qform, "pixdim": fields.get_base_affine}[name]
    try:
        with np.errstate(all="ignore"):
            affine = np.asarray(read(), dtype=np.float64)
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
