"""Probe image and label files: read their facts, and find everything that makes them unfit for training."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pcl_auto.data.formats.grid import TRAINING_TOLERANCE_VOXELS, Affine, Grid, difference_of, format_shape
from pcl_auto.data.formats.nifti_bytes import Voxels, read_nifti
from pcl_auto.data.formats.nifti_header import repair_command
from pcl_auto.data.formats.nifti_voxels import Quartiles, Survey, first_index, iter_chunks
from pcl_auto.data.formats.volume import grids_of
from pcl_auto.data.labels import MAX_VALUES
from pcl_auto.errors import Problem, format_names
from pcl_auto.workspace.shapes import NUMBER, mismatch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from pcl_auto.data.formats.nifti_header import Header

Range = tuple[int, int]

_AFFINE = [[float] * 4] * 4
# Of `Volume.as_dict`, see pcl_auto.workspace.shapes.
_SHAPE = {
    "shape": [int] * 3, "channels": int, "spacing_mm": [float] * 3, "affine": _AFFINE, "dtype": str,
    "nonzero_box": [[int, int]] * 3, "constant_channels": [int], "digest?": str, "quartiles?": [[NUMBER] * 3],
    "other_affines?": [_AFFINE],
}  # fmt: skip


@dataclass(frozen=True)
class Volume:
    """Facts about one file: grid, voxel type, where it is not zero, and for labels the count of every value.

    ``affine`` maps voxel indices to mm in RAS as ITK reads the header; ``other_affines`` are what else it states.
    ``nonzero_box`` is a half-open index range per axis, (0, 0) for an all-zero volume; NaN and infinity count as zero.
    ``label_values`` (value to voxels) is None for images, and for labels that are no label map.
    """

    path: Path
    shape: tuple[int, int, int]
    channels: int
    spacing_mm: tuple[float, float, float]
    affine: Affine
    dtype: str
    nonzero_box: tuple[Range, Range, Range]
    constant_channels: tuple[int, ...]
    # A hash of the values; of labels that earlier versions have checked, none.
    digest: str = ""
    # Of images alone: the quartiles of every channel's nonzero voxels.
    quartiles: tuple[Quartiles, ...] = ()
    label_values: dict[int, int] | None = None
    other_affines: tuple[Affine, ...] = ()

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Grid of the voxels as ITK reads it, and of every other place that the header states."""
        return tuple(Grid(self.shape, affine) for affine in (self.affine, *self.other_affines))

    def as_dict(self) -> dict[str, Any]:
        """Return the facts without ``path`` and ``label_values``, ready for JSON."""
        facts = asdict(self)
        del facts["path"], facts["label_values"]
        return facts

    @classmethod
    def from_dict(cls, path: Path, facts: Mapping[str, Any], label_values: dict[int, int] | None) -> Volume:
        """Return the volume of :meth:`as_dict`, whose tuples JSON has turned into lists; ValueError if it is none."""
        if differs := mismatch(facts, _SHAPE):
            raise ValueError(differs)
        return cls(path, **{name: _tuples(value) for name, value in facts.items()}, label_values=label_values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def probe_image(path: Path) -> tuple[Volume | None, list[Problem]]:
    """Read an image to its last byte; problems are returned, never raised.

    Returns:
        The facts, or None where the voxels cannot be read, and the problems. NaN and infinite voxels, and intensities
        that nnU-Net cannot normalize, are problems that come together with the facts.
    """
    content, problems = read_nifti(path)
    if content is None:
        return None, problems
    header, voxels = content
    survey = Survey.of(header, voxels)
    volume = replace(_volume(path, header, survey), digest=survey.digest, quartiles=survey.quartiles())
    return volume, survey.not_finite(str(path)) or survey.out_of_range(str(path))


def probe_channels(files: Sequence[Path]) -> tuple[Volume | None, list[Problem]]:
    """Read an image of one file, or of a file per channel, which must lie on one grid.

    Returns:
        as :func:`probe_image`, under the path of the first file.
    """
    if len(files) == 1:
        return probe_image(files[0])
    probed = [probe_image(file) for file in files]
    problems = [problem for _, found in probed for problem in found]
    volumes = [volume for volume, _ in probed if volume is not None]
    if len(volumes) < len(files):
        return None, problems
    first = volumes[0]
    for volume in volumes:
        if volume.channels > 1:
            what, fix = "file of one channel is 4D", "store one channel per file, in 3D"
            found = f"{volume.channels} channels"
            problems.append(Problem("data.channel-4d", what, str(volume.path), fix, "3D", found))
    problems += [problem for volume in volumes[1:] for problem in compare_grids(first, volume, "channel")]
    boxes = zip(*(volume.nonzero_box for volume in volumes), strict=True)
    x, y, z = (_join(ranges) for ranges in boxes)
    constant = tuple(channel for channel, volume in enumerate(volumes) if volume.constant_channels)
    joined = replace(
        first,
        channels=len(files),
        nonzero_box=(x, y, z),
        constant_channels=constant,
        digest="-".join(volume.digest for volume in volumes),
        quartiles=tuple(volume.quartiles[0] for volume in volumes),
    )
    return joined, problems


def _join(ranges: Iterable[Range]) -> Range:
    """Return the smallest range that holds all of ``ranges`` but the empty ones."""
    filled = [(low, high) for low, high in ranges if low < high]
    return (min(low for low, _ in filled), max(high for _, high in filled)) if filled else (0, 0)


def probe_label(path: Path, allowed: Collection[int]) -> tuple[Volume | None, list[Problem]]:
    """Read a label map to its last byte; its values must be whole numbers from ``allowed``.

    Returns:
        The facts, or None where the voxels cannot be read, and the problems; nothing is rounded.
    """
    content, problems = read_nifti(path)
    if content is None:
        return None, problems
    header, voxels = content
    where = str(path)
    if header.channels > 1:
        found = f"4D ({format_shape((*header.shape, header.channels))})"
        fix = "save one label map per case, with a whole number per voxel"
        return None, [Problem("label.not-3d", "label is not a 3D volume", where, fix, "3D", found)]
    survey = Survey.of(header, voxels)
    problems = survey.not_finite(where) or _fractional(header, voxels, where)
    if problems:
        return _volume(path, header, survey), problems
    values = _count_values(header, voxels)
    problems = _undeclared(values, allowed, where)
    volume = _volume(path, header, survey, values if len(values) <= MAX_VALUES else None)
    return replace(volume, digest=survey.digest), problems


def compare_grids(image: Volume, other: Volume, kind: Literal["label", "channel"] = "label") -> list[Problem]:
    """Refuse a label or channel that does not lie on the voxels of its image."""
    difference = difference_of(image.grids, other.grids, TRAINING_TOLERANCE_VOXELS)
    if difference is None:
        return []
    ours, theirs = image.grids[0], other.grids[0]
    command = repair_command(str(other.path), f"--like {shlex.quote(str(image.path))}")
    if theirs.turn_onto(ours, TRAINING_TOLERANCE_VOXELS):
        code = "label.other-axes" if kind == "label" else "data.channel-grids"
        what = f"{kind} and image are the same voxels in space, but are stored along other axes"
        fix = f"turn the {kind} to the axes of its image: {command}; and put the new file in its place"
        return [Problem(code, what, str(other.path), fix, str(ours), str(theirs))]
    if difference == "shape":
        code = "label.other-shape" if kind == "label" else "data.channel-grids"
        fix = f"resample the {kind} onto the voxels of {image.path}"
        shapes = (format_shape(volume.shape) for volume in (image, other))
        return [Problem(code, f"{kind} and image differ in shape", str(other.path), fix, *shapes)]
    resample = f"resample the {kind} onto {image.path}"
    may_belong = theirs.is_unplaced or theirs.runs_along(ours)
    return [
        Problem(
            "label.apart" if kind == "label" else "data.channel-grids",
            f"{kind} and image lie apart in space",
            str(other.path),
            f"if the voxels belong together: {command}; else {resample}" if may_belong else resample,
            str(ours),
            f"{theirs}, up to {ours.distance_mm(theirs):.4g} mm apart",
        )
    ]


def _volume(path: Path, header: Header, survey: Survey, values: dict[int, int] | None = None) -> Volume:
    x, y, z = (_span(axis) for axis in survey.occupied)
    first, *others = grids_of(header)
    return Volume(
        path=path,
        shape=header.shape,
        channels=header.channels,
        spacing_mm=header.geometry.spacing_mm,
        affine=first.affine,
        dtype=header.dtype.name,
        nonzero_box=(x, y, z),
        constant_channels=survey.constant_channels(),
        label_values=values,
        other_affines=tuple(grid.affine for grid in others),
    )


def _fractional(header: Header, voxels: Voxels, where: str) -> list[Problem]:
    count, first, example = 0, (0, 0, 0), 0.0
    for start, _, values in iter_chunks(header, voxels):
        if values.dtype.kind != "f":
            return []
        uneven = values != np.rint(values)
        if not count and uneven.any():
            x, y, z = first_index(uneven)
            first, example = (x, y, z + start), float(values[x, y, z])
        count += int(uneven.sum())
    if not count:
        return []
    scaling = f" (stored with scl_slope {header.slope:g})" if header.scaled else ""
    found = f"{count} voxels with a fraction, the first {example:.9g} at {first}{scaling}"
    fix = "save the label again as uint8, from before it was resampled or scaled"
    return [Problem("label.fractional", "fractional label values", where, fix, "whole numbers", found)]


def _count_values(header: Header, voxels: Voxels) -> dict[int, int]:
    """Count the voxels of every value, in the order of the values, up to too many values for a label map."""
    counts: dict[int, int] = {}
    for _, _, values in iter_chunks(header, voxels):
        if values.min() >= 0 and values.max() < 1 << 16:
            # Far faster than sorting all voxels.
            histogram = np.bincount(values.ravel(order="K").astype(np.intp))
            present = np.flatnonzero(histogram)
            amounts = histogram[present]
        else:
            present, amounts = np.unique(values, return_counts=True)
        for value, amount in zip(present.tolist(), amounts.tolist(), strict=True):
            counts[int(value)] = counts.get(int(value), 0) + amount
        if len(counts) > MAX_VALUES:
            break
    return dict(sorted(counts.items()))


def _undeclared(values: dict[int, int], allowed: Collection[int], where: str) -> list[Problem]:
    strange = [value for value in values if value not in allowed]
    if not strange:
        return []
    found = format_names((f"{value} ({values[value]} voxels)" for value in strange), limit=8)
    fix = "correct the label map, or declare the value under labels in dataset.json"
    if len(values) > MAX_VALUES:
        found, fix = f"more than {MAX_VALUES} different values", "replace this file by the label map"
    what, expected = "label values that dataset.json does not declare", "only " + ", ".join(map(str, sorted(allowed)))
    return [Problem("label.undeclared-values", what, where, fix, expected, found)]


def _span(occupied: npt.NDArray[np.bool_]) -> Range:
    where = np.flatnonzero(occupied)
    return (int(where[0]), int(where[-1]) + 1) if where.size else (0, 0)
