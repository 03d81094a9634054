"""DICOM series: find the slices that belong together, and refuse those that make no evenly spaced volume."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK

from pcl_auto.data.formats.dicom_compressed import ENCODINGS, decode, is_sound, tolerance
from pcl_auto.data.formats.dicom_pixels import (
    ENCODING_WITHIN,
    encoding_of,
    frame_of,
    holds_voxels,
    may_be_read,
    unread_fields,
)
from pcl_auto.data.formats.grid import MAX_POSITION_MM, MAX_SPACING_MM, MIN_SPACING_MM
from pcl_auto.data.formats.itk_paths import paths_for_itk
from pcl_auto.errors import Problem, format_names

_SUFFIXES = (".dcm", ".dicom", ".ima")
_PREAMBLE = 128
_SERIES_UID = "0020|000e"
# The file's kind (MediaStorageSOPClassUID) as it stands in every file's first group.
_KIND = re.compile(rb"\x02\x00\x02\x00UI..([\d.]+)", re.DOTALL)
# Directories, reports, structure sets, presentation states, documents: they lie beside scans and hold no voxels.
_NO_IMAGE = re.compile(r"1\.2\.840\.10008\.(1\.3\.10|5\.1\.4\.1\.1\.(11|66|88|104|481\.[3589])\b)")
# Python takes digits of every script, and 1_0 for ten; GDCM does not.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
# Distances between slices may differ by this share from the usual one; scanners round positions.
_UNEVEN = 0.1
# Positions may stray from the normal by so much of a pixel over the whole scan before voxels are sheared.
_STRAY_PIXELS = 0.5
# And along it by so much of the distance between slices before they belong in another place.
_STRAY_SLICES = 0.5
_ORIENTATION_TOLERANCE = 1e-3
# How far what ITK makes of a header may be from what stands there, in mm or as a share: the rounding of float32.
_ITK_ROUNDING = 1e-4
_EXPORT_AGAIN = "export the whole series again"
_CONVERT = "convert it to NIfTI, for example with dcm2niix"
# Of whom a series is, and in which coordinates.
_PATIENT = {"PatientID": "0010|0020", "PatientName": "0010|0010"}
_FRAME = "0020|0052"
# What slices of one series have in common, in space and by the standard.
_IN_COMMON = {
    **_PATIENT, "StudyInstanceUID": "0020|000d", "FrameOfReferenceUID": _FRAME, "Modality": "0008|0060",
    "SeriesNumber": "0020|0011", "Units": "0054|1001",
}  # fmt: skip
# Slope and intercept, and what they are where they are not there.
_SCALE = {"0028|1053": 1.0, "0028|1052": 0.0}
# The longest description in DICOM is 64.
_MAX_NAME = 100


@dataclass(frozen=True)
class Series:
    """The slices of a DICOM series, in order along the normal of their planes, and the scanner's name for it."""

    uid: str
    name: str
    files: tuple[Path, ...]
    # PatientID and PatientName; FrameOfReferenceUID.
    patient: tuple[str, ...] = ("", "")
    frame: str = ""

    @property
    def folder(self) -> Path:
        """The deepest folder that holds every slice."""
        first, *rest = (file.parent for file in self.files)
        return next(folder for folder in (first, *first.parents) if all(p.is_relative_to(folder) for p in rest))

    def __str__(self) -> str:
        """Return folder and name, for messages."""
        return f"{self.folder} (series {self.name})"


@dataclass(frozen=True)
class Finding:
    """A series, the problem that keeps it from being segmented, and if it is no scan at all (a scout, a report)."""

    series: Series
    problem: Problem | None = None
    is_auxiliary: bool = False


@dataclass(frozen=True)
class _Slice:
    """The header of a slice.

    ``read_as`` is the geometry that ITK makes of it: see :meth:`is_read_as_written`; ``not_read`` is from
    :func:`unread_fields`.
    """

    file: Path
    tags: dict[str, str]
    components: int
    read_as: tuple[float, ...]
    not_read: str

    def text(self, tag: str) -> str:
        return self.tags.get(tag, "").strip(" \0")

    def numbers(self, tag: str) -> tuple[float, ...]:
        """Return the finite numbers of a tag; none at all if one of them is something else."""
        words = [word.strip(" ") for word in self.text(tag).split("\\")]
        values = tuple(float(word) for word in words if _NUMBER.fullmatch(word))
        return values if len(values) == len(words) and all(map(math.isfinite, values)) else ()

    def number(self, tag: str) -> int:
        """Return a whole number above 0, or 0 where there is none."""
        (value, *more) = self.numbers(tag) or (0.0,)
        return int(value) if value > 0 and value.is_integer() and not more else 0

    @property
    def is_localizer(self) -> bool:
        return "LOCALIZER" in self.text("0008|0008").upper()

    def common(self) -> tuple[str, ...]:
        """Return what :data:`_IN_COMMON` names."""
        return tuple(map(self.text, _IN_COMMON.values()))

    @property
    def position_mm(self) -> tuple[float, ...]:
        return self.numbers("0020|0032")

    @property
    def orientation(self) -> tuple[float, ...]:
        return self.numbers("0020|0037")

    @property
    def grid(self) -> tuple[str, str, tuple[float, ...]]:
        return self.text("0028|0010"), self.text("0028|0011"), self.numbers("0028|0030")

    @property
    def is_placed(self) -> bool:
        """True if position, direction and spacing are there, and are such of a scan of a body."""
        orientation, spacing_mm = self.orientation, self.grid[2]
        if (len(self.position_mm), len(orientation), len(spacing_mm)) != (3, 6, 2):
            return False
        axes = np.reshape(orientation, (2, 3))
        return (
            max(map(abs, self.position_mm)) <= MAX_POSITION_MM
            and all(MIN_SPACING_MM <= step <= MAX_SPACING_MM for step in spacing_mm)
            # Unit vectors at right angles.
            and bool(np.abs(axes @ axes.T - np.eye(2)).max() <= 2 * _ORIENTATION_TOLERANCE)
        )

    @property
    def is_read_as_written(self) -> bool:
        """True if ITK takes size, spacing, position and direction as they stand: for odd ones it takes others."""
        rows, columns = self.number("0028|0010"), self.number("0028|0011")
        written = np.array((columns, rows, *self.grid[2][::-1], *self.position_mm, *self.orientation))
        apart = np.abs(written - self.read_as)
        # ITK makes the axes unit vectors.
        lengths, axes = apart[:-6] <= _ITK_ROUNDING * np.maximum(1, np.abs(written[:-6])), apart[-6:]
        return bool(lengths.all() and axes.max() <= _ORIENTATION_TOLERANCE)

    @property
    def is_scaled_soundly(self) -> bool:
        """True if slope and intercept of the values, where they are there, are numbers, and the slope is not 0."""
        slope, intercept = (self.numbers(tag) if self.text(tag) else (1.0,) for tag in _SCALE)
        return len(slope) == 1 and slope[0] != 0 and len(intercept) == 1

    @property
    def ignored(self) -> str:
        """Name of what changes the values but not what GDCM reads; empty if there is nothing."""
        shifted = self.text("0028|0102") and self.number("0028|0102") != self.number("0028|0101") - 1
        return self.not_read or ("HighBit other than BitsStored - 1" if shifted else "")

    def holds_voxels(self) -> bool:
        """Tell whether the file holds as many voxels as its header says."""
        bits = self.number("0028|0100")
        try:
            return self.components == 1 and holds_voxels(
                self.file, self.number("0028|0010"), self.number("0028|0011"), bits
            )
        except OSError:
            return False


def is_dicom(file: Path) -> bool:
    """Tell whether a file is DICOM, by its content or its name, or may be, where it cannot be read.

    What is no file is not opened.
    """
    is_named = file.suffix.lower() in _SUFFIXES
    if not file.is_file():
        return is_named
    try:
        with file.open("rb") as handle:
            start = handle.read(_PREAMBLE + 4)
    except OSError:
        return True
    return is_named or start[_PREAMBLE:] == b"DICM"


def differ_in_patient(channels: Sequence[Series]) -> bool:
    """Tell whether series are of two patients, as far as they say."""
    values = zip(*(each.patient for each in channels), strict=True)
    return any(len({value for value in each if value}) > 1 for each in values)


def differ_in_frame(channels: Sequence[Series]) -> bool:
    """Tell whether positions of series are in two frames of reference, as far as they say."""
    return len({each.frame for each in channels if each.frame}) > 1


def find_series(files: Iterable[Path]) -> list[Finding]:
    """Group DICOM ``files`` into series, check every one of them, and list files that cannot be read.

    A series with an unreadable file in its folder has a problem: the file may be one of its slices.
    """
    slices: list[_Slice] = []
    damaged: dict[Path, list[Path]] = {}
    spoilt: set[Path] = set()
    findings = []
    for file in files:
        header = _read_header(file) if file.is_file() else None
        if header is not None:
            slices.append(header)
        elif file.is_file() and _holds_no_image(file):
            problem = Problem("dicom.no-image", "a DICOM file without an image", str(file), "leave it")
            findings.append(Finding(Series("", file.name, (file,)), problem, is_auxiliary=True))
        else:
            damaged.setdefault(file.parent, []).append(file)
    for group in _group(slices):
        finding = _judge(group)
        bad = [file for folder in {each.file.parent for each in group} for file in damaged.get(folder, ())]
        if bad and not finding.problem:
            spoilt.update(file.parent for file in bad)
            what = "files that cannot be read among the slices"
            problem = _damaged("dicom.unreadable-slices", what, finding.series, bad)
            finding = Finding(finding.series, problem)
        findings.append(finding)
    for folder in damaged.keys() - spoilt:
        files = damaged[folder]
        problem = _damaged("dicom.unreadable", "DICOM files that cannot be read", folder, files)
        findings.append(Finding(Series("", files[0].name, tuple(files)), problem))
    return findings


@dataclass(frozen=True)
class Decoded:
    """A compressed slice by a decoder other than GDCM's: values (y, x), and how far those of others may be apart."""

    values: npt.NDArray[np.float64]
    tolerance: float

    def is_like(self, plane: npt.NDArray[np.float32]) -> bool:
        """Tell whether GDCM's values are these."""
        rounding = np.finfo(np.float32).eps * np.abs(self.values).max()
        return self.values.shape == plane.shape and bool(np.abs(self.values - plane).max() <= self.tolerance + rounding)


def decode_slice(file: Path) -> Decoded | None:
    """Decode a compressed slice that :func:`find_series` has found sound; None for a slice that is not compressed.

    Raises:
        OSError: the file cannot be read.
        ValueError: the slice is damaged.
    """
    with file.open("rb") as handle:
        start = handle.read(ENCODING_WITHIN)
        encoding = encoding_of(start)
        if encoding not in ENCODINGS:
            return None
        frame = frame_of(start + handle.read())
    header = _read_header(file)
    if header is None:
        raise ValueError("it has changed since it was found")
    rows, columns, bits, stored = (header.number(f"0028|{tag}") for tag in ("0010", "0011", "0100", "0101"))
    if not is_sound(frame, encoding, rows, columns, bits):
        raise ValueError("it has changed since it was found")
    values = decode(frame, encoding, rows, columns, bits, signed=header.text("0028|0103") == "1", stored=stored)
    slope, intercept = ((header.numbers(tag) or (default,))[0] for tag, default in _SCALE.items())
    return Decoded(slope * values.astype(np.float64) + intercept, tolerance(encoding) * abs(slope))


def _group(slices: Iterable[_Slice]) -> list[list[_Slice]]:
    """Return the slices that belong together, or that lie together though they do not.

    Anonymizers empty the UIDs of series, or give many series the same one. So slices of several folders are one series
    if they have a SeriesInstanceUID and a StudyInstanceUID, and all that :data:`_IN_COMMON` names is equal. Those of
    one folder and one SeriesInstanceUID stay together, to be refused where they differ.
    """
    groups: dict[tuple[str, Path | None], dict[tuple[object, ...], list[_Slice]]] = {}
    for each in slices:
        uid, folder = each.text(_SERIES_UID), each.file.parent
        alike = groups.setdefault((uid, None if uid else folder), {})
        place = None if each.text(_IN_COMMON["StudyInstanceUID"]) else folder
        alike.setdefault((place, *each.common()), []).append(each)
    parts = []
    for alike in groups.values():
        found: list[tuple[set[Path], list[_Slice]]] = []
        for members in alike.values():
            folders = {each.file.parent for each in members}
            apart = [part for part in found if folders.isdisjoint(part[0])]
            touching = [part for part in found if not folders.isdisjoint(part[0])]
            joined = [each for _, part in touching for each in part] + members
            found = [*apart, (folders.union(*(part[0] for part in touching)), joined)]
        parts += [part for _, part in found]
    return parts


def _damaged(code: str, what: str, where: object, files: Sequence[Path]) -> Problem:
    found = f"{len(files)}, the first {files[0].name}"
    return Problem(code, what, str(where), "copy the files again: they may be damaged or cut", found=found)


def _read_header(file: Path) -> _Slice | None:
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    try:
        content = file.read_bytes()
        if not may_be_read(content):
            return None
        with paths_for_itk([file]) as (name,):
            reader.SetFileName(name)
            reader.ReadImageInformation()
    except (OSError, RuntimeError):
        return None
    tags = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    # By columns: the axes of the pixels; the third one is that of the slices.
    axes = np.reshape(reader.GetDirection(), (reader.GetDimension(), -1))[:3, :2].T.ravel()
    read_as = (*reader.GetSize()[:2], *reader.GetSpacing()[:2], *reader.GetOrigin()[:3], *map(float, axes))
    return _Slice(file, tags, reader.GetNumberOfComponents(), read_as, unread_fields(content))


def _holds_no_image(file: Path) -> bool:
    try:
        with file.open("rb") as handle:
            kind = _KIND.search(handle.read(1024))
    except OSError:
        return False
    return file.name.upper() == "DICOMDIR" or bool(kind and _NO_IMAGE.match(kind[1].decode("ascii")))


def _judge(slices: Sequence[_Slice]) -> Finding:
    first = slices[0]
    uid = first.text(_SERIES_UID)
    number, description = first.text("0020|0011"), first.text("0008|103e")
    name = " ".join(part for part in (number, description) if part) or (uid.rsplit(".", 1)[-1] or "without a UID")
    # What was typed at a scanner is for a person to read.
    name = "".join(letter if letter.isprintable() else " " for letter in name)[:_MAX_NAME].strip() or "without a name"
    unsorted = Series(uid, name, tuple(each.file for each in slices))
    problem = _no_scan(slices, str(unsorted))
    if problem:
        return Finding(unsorted, problem, is_auxiliary=True)
    problem = _no_one_series(slices, str(unsorted)) or _no_grid(slices, str(unsorted))
    if problem:
        return Finding(unsorted, problem)
    positions_mm = np.array([each.position_mm for each in slices])
    normal = _normal(first)
    order = np.argsort(positions_mm @ normal, kind="stable")
    patient = tuple(map(first.text, _PATIENT.values()))
    series = Series(uid, name, tuple(slices[index].file for index in order), patient, first.text(_FRAME))
    # Pixel spacing: between rows, between columns.
    return Finding(series, _no_volume(positions_mm[order], normal, min(first.grid[2]), str(series)))


def _no_scan(slices: Sequence[_Slice], where: str) -> Problem | None:
    """Name a series that is no scan, such as a scout."""
    fix = "leave it, unless it is a part of a scan"
    modalities = {each.text("0008|0060") for each in slices}
    if all(each.is_localizer for each in slices):
        return Problem("dicom.localizer", "a localizer (scout)", where, fix)
    if all(each.components > 1 for each in slices):
        return Problem("dicom.color-pictures", "color pictures, no scan", where, fix)
    if modalities & {"SEG", "RTDOSE"}:
        return Problem("dicom.derived", "no scan but what was made from one", where, fix)
    if len(slices) == 1 and not _frames(slices[0]):
        return Problem("dicom.single-slice", "a single slice", where, fix)
    return None


def _no_one_series(slices: Sequence[_Slice], where: str) -> Problem | None:
    """Return what the slices of a series differ in that is one for all of them: the patient, the study, the frame."""
    what, expected = "slices of several scans in one series", "one patient, study and frame of reference"
    fix = "put each scan into a folder of its own, or export the series again"
    if localizers := [each.file.name for each in slices if each.is_localizer]:
        found = f"localizers among others: {format_names(localizers, 3)}"
        return Problem("dicom.mixed-series", what, where, fix, expected, found)
    counts = Counter(each.common() for each in slices)
    if len(counts) == 1:
        return None
    names = [name for name, values in zip(_IN_COMMON, zip(*counts, strict=True), strict=True) if len(set(values)) > 1]
    firsts = {each.common(): each.file.name for each in reversed(slices)}
    groups = (f"{number} as {firsts[common]}" for common, number in counts.items())
    found = f"{', '.join(names)} differ: slices {format_names(groups, 3)}"
    return Problem("dicom.mixed-series", what, where, fix, expected, found)


def _frames(header: _Slice) -> int:
    """Return the number of frames of a multi-frame file, 0 where a file is one slice."""
    frames = header.number("0028|0008")
    return frames if frames > 1 else 0


def _no_grid(slices: Sequence[_Slice], where: str) -> Problem | None:
    """Return what keeps the slices from being parallel and on one grid of pixels."""
    frames = max(map(_frames, slices))
    if frames:
        return Problem(
            "dicom.multi-frame", "a multi-frame file", where, _CONVERT, "one file per slice", f"{frames} frames"
        )
    if nowhere := [each for each in slices if not each.is_placed]:
        fix = "export the series with ImagePositionPatient, ImageOrientationPatient and PixelSpacing"
        expected = "positions, directions (unit vectors at right angles) and pixels of a scan of a body"
        found = _place(nowhere)
        return Problem("dicom.no-position", "slices without a place in space", where, fix, expected, found)
    fix = "export the stacks as series of their own"
    orientations = np.array([each.orientation for each in slices])
    apart = np.abs(orientations - orientations[0]).max(axis=1) > _ORIENTATION_TOLERANCE
    if apart.any():
        found = f"{int(apart.sum())} of {len(slices)} slices lie otherwise than the first"
        return Problem("dicom.mixed-orientation", "slices of mixed orientation", where, fix, "parallel slices", found)
    grids = Counter(each.grid for each in slices)
    if len(grids) > 1:
        found = " | ".join(
            f"{number} of {columns} x {rows}, {spacing[1]:g} x {spacing[0]:g} mm"
            for (rows, columns, spacing), number in grids.items()
        )
        what, expected = "slices of mixed size or spacing", "one size and one spacing"
        return Problem("dicom.mixed-grid", what, where, fix, expected, found)
    return _no_voxels(slices, where)


def _place(slices: Sequence[_Slice]) -> str:
    """Describe the first of some slices that lie nowhere."""
    tags = {"ImagePositionPatient": "0020|0032", "ImageOrientationPatient": "0020|0037", "PixelSpacing": "0028|0030"}
    first = slices[0]
    texts = {name: ascii(first.text(tag).replace("\\", " ")[:_MAX_NAME]) for name, tag in tags.items()}
    written = ", ".join(f"{name} {text}" for name, text in texts.items())
    return f"{len(slices)}, the first {first.file.name} with {written}"


def _no_voxels(slices: Sequence[_Slice], where: str) -> Problem | None:
    """Return what keeps the slices from being read as their headers say."""
    if wrong := [each.file.name for each in slices if not each.is_scaled_soundly]:
        fix, expected = _EXPORT_AGAIN, "RescaleSlope and RescaleIntercept that are numbers, the slope not 0"
        return Problem("dicom.rescale", "values without a scale", where, fix, expected, format_names(wrong, 3))
    if wrong := [each.file.name for each in slices if not each.holds_voxels()]:
        expected = f"{slices[0].grid[1]} x {slices[0].grid[0]} of {slices[0].text('0028|0100')} bits in every slice"
        what, found = "more or fewer voxels than the header says", format_names(wrong, 3)
        return Problem("dicom.voxel-count", what, where, _EXPORT_AGAIN, expected, found)
    if wrong := [each.file.name for each in slices if each.text("0028|0004") not in ("", "MONOCHROME2")]:
        # To GDCM, other than to most readers, MONOCHROME1 is a matter of the values, not of their display.
        fix = f"{_CONVERT}, and check the values: air in a CT is -1000 HU"
        what, expected = "values that readers take differently", "PhotometricInterpretation MONOCHROME2"
        others = {each.text("0028|0004") for each in slices} - {"", "MONOCHROME2"}
        found = f"{', '.join(sorted(map(ascii, others)))} of {format_names(wrong, 3)}"
        return Problem("dicom.photometric", what, where, fix, expected, found)
    if ignored := {each.file.name: each.ignored for each in slices if each.ignored}:
        what, found = "a field that is not read", f"{', '.join(sorted(set(ignored.values())))} of "
        found += format_names(ignored, 3)
        return Problem("dicom.unsupported", what, where, f"{_CONVERT}, and check the values", found=found)
    if wrong := [each.file.name for each in slices if not each.is_read_as_written]:
        fix = f"{_CONVERT}, and look where it lies"
        what, expected = "slices that ITK places otherwise", "size, spacing, position and direction as written"
        return Problem("dicom.read-otherwise", what, where, fix, expected, format_names(wrong, 3))
    return None


def _normal(header: _Slice) -> npt.NDArray[np.float64]:
    row, column = np.reshape(header.orientation, (2, 3))
    normal: npt.NDArray[np.float64] = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    return normal


def _no_volume(
    positions_mm: npt.NDArray[np.float64], normal: npt.NDArray[np.float64], pixel_mm: float, where: str
) -> Problem | None:
    """Return what keeps slices at these positions (N, 3), sorted along their normal, from being an even stack."""
    depth_mm = positions_mm @ normal
    steps_mm = np.diff(depth_mm)
    usual_mm = float(np.median(steps_mm))
    same = int((steps_mm < _UNEVEN * max(usual_mm, 1e-3)).sum())
    if same:
        fix = "keep one copy of each slice; export time points, echoes or b-values as series of their own"
        found = f"{same} slices in the place of another, {len(positions_mm)} slices in all"
        return Problem("dicom.duplicate-slices", "duplicate slices", where, fix, "one slice per position", found)
    if usual_mm > MAX_SPACING_MM:
        what, expected, found = "slices far apart", f"at most {MAX_SPACING_MM:g} mm", f"a slice every {usual_mm:g} mm"
        return Problem("dicom.far-apart", what, where, _EXPORT_AGAIN, expected, found)
    stray_mm = positions_mm - positions_mm[0] - np.outer(depth_mm - depth_mm[0], normal)
    if np.linalg.norm(stray_mm, axis=1).max() > _STRAY_PIXELS * pixel_mm:
        angle = np.degrees(np.arctan2(np.linalg.norm(stray_mm[-1]), depth_mm[-1] - depth_mm[0]))
        fix = "straighten it with a converter that corrects gantry tilt, for example dcm2niix"
        expected = "slices stacked along their normal"
        return Problem("dicom.gantry-tilt", "gantry tilt", where, fix, expected, f"{angle:.1f}° off it")
    wide = np.flatnonzero(np.abs(steps_mm - usual_mm) > _UNEVEN * usual_mm)
    if wide.size:
        between = f"{depth_mm[wide[0]]:g} and {depth_mm[wide[0] + 1]:g} mm"
        missing = int(np.rint(steps_mm[wide] / usual_mm - 1).clip(min=0).sum())
        what = f"missing slices ({missing})" if missing else "unevenly spaced slices"
        code = "dicom.missing-slices" if missing else "dicom.uneven-slices"
        return Problem(code, what, where, _EXPORT_AGAIN, f"a slice every {usual_mm:g} mm", f"none between {between}")
    # Steps that are each nearly even may add up; ITK spreads the slices evenly from the first to the last.
    even_mm = np.linspace(depth_mm[0], depth_mm[-1], len(depth_mm))
    off_mm = np.abs(depth_mm - even_mm)
    if off_mm.max() > _STRAY_SLICES * usual_mm:
        expected = f"a slice every {steps_mm.mean():.4g} mm"
        found = f"slice {off_mm.argmax() + 1} of {len(depth_mm)} lies {off_mm.max():.3g} mm off its place"
        return Problem("dicom.uneven-slices", "unevenly spaced slices", where, _EXPORT_AGAIN, expected, found)
    return None
