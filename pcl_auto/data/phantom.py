"""A synthetic decathlon task, for the demo and for tests.

Nothing here is anatomy, but it is as hard as anatomy in the respect that matters: classes share their
intensities with each other and with the background, so that only shape and position tell them apart.
"""

from __future__ import annotations

import gzip
import json
import math
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pcl_auto.errors import Problem, UsageError
from pcl_auto.workspace.atomic import publish, staging_folder
from pcl_auto.workspace.files import write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator

FloatArray = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Shape = tuple[int, ...]
TissueMap = npt.NDArray[np.uint8]

PHANTOM_NAME = "Task99_Phantom"
# Part of every dataset.json written here; to be raised when the same seed no longer draws the same voxels.
RELEASE = "1.0"


class _Tissue(IntEnum):
    """The tissue of a voxel; the last three are the classes 1, 2 and 3."""

    AIR = 0
    BODY = 1
    BONE = 2
    VESSEL = 3
    LUMEN = 4
    SHELL = 5
    CORE = 6
    HORNS = 7


_CLASS_OF_TISSUE = np.array([0, 0, 0, 0, 0, 1, 2, 3], dtype=np.uint8)

# Mean signal in T2 and ADC of air, body, bone, a bright material (shell, horns and vessels) and a middle one (core and
# lumen), which is close to the body.
_MATERIALS = np.array([(20, 20), (300, 330), (150, 110), (500, 520), (345, 300)], dtype=np.float32)
_MATERIAL_OF_TISSUE = np.array([0, 1, 2, 3, 4, 3, 4, 3])

# Standard deviations relative to the signal: a material's mean between cases (log), the structure inside a
# material, the slow change over the field of view (log), the receiver's noise (relative to the body).
_CONTRAST, _TEXTURE, _BIAS, _NOISE = 0.08, 0.08, 0.15, 0.10


def make_phantom(folder: Path, *, seed: int = 0, labeled: int = 2, unlabeled: int = 12, test: int = 6) -> Path:
    """Write the decathlon task ``Task99_Phantom`` into ``folder`` and return its path.

    Two channels, int16, about 48 x 48 x 12 voxels of 1 x 1 x 3 mm; the folder appears complete or not at all.
    The same arguments give the same bytes (one machine, one set of versions); a case's voxels depend on the
    seed and its place in its list alone, so more cases leave the others as they are. Labels of unlabeled
    cases are written nowhere; those of the test cases lie in ``labelsTs``, for evaluation only. A task that
    the same call has written before is returned as it is.

    Args:
        folder: the folder that gets the task; made if need be.
        seed: not negative.
        labeled: training cases with a label, at least one; they come first.
        unlabeled: training cases without one.
        test: cases in ``imagesTs``.

    Raises:
        UsageError: counts or seed out of range, or another task of that name is there.
    """
    _require_range("labeled", labeled, 1)
    for name, value in (("seed", seed), ("unlabeled", unlabeled), ("test", test)):
        _require_range(name, value, 0)
    training = [f"phantom_{number:03d}" for number in range(1, labeled + unlabeled + 1)]
    testing = [f"phantom_{len(training) + number:03d}" for number in range(1, test + 1)]
    description = _describe_phantom(training, testing, labeled=labeled, seed=seed)
    target = folder / PHANTOM_NAME
    if target.exists():
        described = target / "dataset.json"
        with suppress(OSError, ValueError):
            if described.is_file() and json.loads(described.read_bytes()) == description:
                return target
        fix = "choose another folder or remove it"
        raise UsageError(Problem("data.place-taken", "something else is there", str(target), fix))
    with staging_folder(target) as staging:
        task = staging / target.name
        for stream, (suffix, cases) in enumerate((("Tr", training), ("Ts", testing))):
            (task / f"images{suffix}").mkdir(parents=True)
            for index, case in enumerate(cases):
                image, label = _phantom_case(np.random.default_rng([seed, stream, index]))
                _write_nifti(task / f"images{suffix}" / f"{case}.nii.gz", image)
                if suffix == "Ts" or index < labeled:
                    _write_nifti(task / f"labels{suffix}" / f"{case}.nii.gz", label)
        write_json(task / "dataset.json", description)
        publish(task, target)
    return target


def _describe_phantom(training: Sequence[str], testing: Sequence[str], *, labeled: int, seed: int) -> dict[str, Any]:
    entries = [{"image": f"./imagesTr/{case}.nii.gz"} for case in training]
    for entry, case in zip(entries, training[:labeled], strict=False):
        entry["label"] = f"./labelsTr/{case}.nii.gz"
    return {
        "name": "Phantom",
        "description": "Synthetic organs that share their intensities; not for any medical use",
        "reference": f"pclauto phantom, seed {seed}",
        "license": "CC0 1.0",
        "release": RELEASE,
        "tensorImageSize": "4D",
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {"0": "background", "1": "shell", "2": "core", "3": "horns"},
        "numTraining": len(training),
        "numTest": len(testing),
        "training": entries,
        "test": [f"./imagesTs/{case}.nii.gz" for case in testing],
    }


def _phantom_case(rng: Generator) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """Draw the image (X, Y, Z, 2) of one case and its label (X, Y, Z), on one grid."""
    shape = tuple(int(size) for size in rng.integers((44, 44, 11), (53, 53, 14)))
    in_plane_mm = rng.uniform(0.94, 1.06)
    spacing_mm = (in_plane_mm, in_plane_mm, rng.uniform(2.8, 3.2))
    tissue = _draw_anatomy(shape, spacing_mm, rng)
    image = _paint(_MATERIAL_OF_TISSUE[tissue], _MATERIALS, spacing_mm, rng)
    affine = _scanner_affine(shape, spacing_mm, rng)
    return _nifti(image, affine), _nifti(_CLASS_OF_TISSUE[tissue], affine)


def _draw_anatomy(shape: Shape, spacing_mm: Sequence[float], rng: Generator) -> TissueMap:
    """Draw the tissue of every voxel (X, Y, Z): a body, distractors, three organs of varying size and position."""
    bodily_mm = _warped_grid(shape, spacing_mm, rng)
    organ_mm = _turned(bodily_mm, rng)
    size = rng.uniform(0.82, 1.18)
    tissue = np.full(shape, _Tissue.AIR, dtype=np.uint8)
    tissue[_ellipsoid(bodily_mm, (0, 0, 0), (21.5, 19, 60))] = _Tissue.BODY

    def place(kind: _Tissue, center_mm: Sequence[float], radii_mm: Sequence[float]) -> None:
        varied = size * np.asarray(radii_mm) * rng.uniform(0.88, 1.12, 3)
        tissue[_ellipsoid(organ_mm, size * np.asarray(center_mm), varied)] = kind

    for side in (-1, 1):
        tissue[_ellipsoid(bodily_mm, (side * 16, 2, 0), (3, 5, 14))] = _Tissue.BONE
    _scatter_distractors(tissue, bodily_mm, rng)
    for side in (-1, 1):
        place(_Tissue.HORNS, (side * 5.5, -7.5, 7), (5.5, 3.4, 6.5))
    place(_Tissue.SHELL, (0, 0, -3), (10, 7.5, 10.5))
    # The core reaches through the front of the shell: there its edge against the body can hardly be seen.
    place(_Tissue.CORE, (0, 2.8, -2.5), (6.2, 5.0, 7.5))
    return tissue


def _scatter_distractors(tissue: TissueMap, grid_mm: FloatArray, rng: Generator) -> None:
    """Put vessels, some with a lumen that looks like the core, around the organs into ``tissue``."""
    for _ in range(int(rng.integers(4, 8))):
        angle = rng.uniform(0, 2 * math.pi)
        center_mm = (13.5 * math.cos(angle), 13 * math.sin(angle), rng.uniform(-15, 15))
        radii_mm = rng.uniform((2, 2, 3), (5, 4.5, 9))
        tissue[_ellipsoid(grid_mm, center_mm, radii_mm)] = _Tissue.VESSEL
        if rng.random() < 0.4:
            tissue[_ellipsoid(grid_mm, center_mm, 0.55 * radii_mm)] = _Tissue.LUMEN


def _warped_grid(shape: Shape, spacing_mm: Sequence[float], rng: Generator) -> FloatArray:
    """Return coordinates (3, X, Y, Z) in mm about the body's center, shifted and smoothly deformed for one case."""
    axes = [(np.arange(size) - (size - 1) / 2) * step for size, step in zip(shape, spacing_mm, strict=True)]
    grid_mm = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    for axis, (shift_mm, warp_mm) in enumerate(((2.5, 1.2), (2.5, 1.2), (2.0, 1.0))):
        grid_mm[axis] += rng.uniform(-shift_mm, shift_mm)
        grid_mm[axis] += warp_mm * _smooth_noise(shape, spacing_mm, 12, rng)
    return grid_mm


def _turned(grid_mm: FloatArray, rng: Generator) -> FloatArray:
    """Turn the grid (3, X, Y, Z) in the plane by up to 15 degrees and shift it by up to 2 mm."""
    turn = Rotation.from_euler("z", rng.uniform(-15, 15), degrees=True).as_matrix()
    turned = np.einsum("ab,bxyz->axyz", turn, grid_mm) + rng.uniform(-2, 2, (3, 1, 1, 1))
    return np.asarray(turned, dtype=np.float32)


def _ellipsoid(grid_mm: FloatArray, center_mm: npt.ArrayLike, radii_mm: npt.ArrayLike) -> Mask:
    center, radii = (np.asarray(mm, dtype=np.float32).reshape(3, 1, 1, 1) for mm in (center_mm, radii_mm))
    return np.asarray((((grid_mm - center) / radii) ** 2).sum(axis=0) < 1)


def _scanner_affine(shape: Shape, spacing_mm: Sequence[float], rng: Generator) -> npt.NDArray[np.float64]:
    """Draw an affine (4, 4) as converters write it: x runs left, y to the front, slices are a little oblique."""
    turn = Rotation.from_euler("x", rng.uniform(-8, 8), degrees=True).as_matrix()
    affine = np.eye(4)
    # The same flip in every case: the organs then lie alike for readers that reorient and those that do not.
    affine[:3, :3] = turn @ np.diag([-1, 1, 1]) * np.asarray(spacing_mm)
    affine[:3, 3] = rng.uniform(-30, 30, 3) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def _paint(
    material: npt.NDArray[np.int64], means: FloatArray, spacing_mm: Sequence[float], rng: Generator
) -> npt.NDArray[np.int16]:
    """Paint a scan (X, Y, Z, C) of the materials (X, Y, Z), whose mean signals are ``means`` (materials, C)."""
    shape = material.shape
    image = np.empty((*shape, means.shape[1]), dtype=np.int16)
    varied = means * np.exp(_CONTRAST * rng.standard_normal(means.shape))
    for channel, scale in enumerate(means[1]):
        signal = varied.astype(np.float32)[material, channel]
        # Half a millimeter in the plane: voxels at an edge hold some of both sides.
        blur_voxels = [0.5 / spacing_mm[0], 0.5 / spacing_mm[1], 0]
        signal = ndimage.gaussian_filter(signal, blur_voxels, truncate=3)
        signal *= 1 + _TEXTURE * _smooth_noise(shape, spacing_mm, 2.5, rng)
        signal *= np.exp(_BIAS * _smooth_noise(shape, spacing_mm, 40, rng))
        real, imaginary = _NOISE * scale * rng.standard_normal((2, *shape), dtype=np.float32)
        # The magnitude of a complex signal, as in MR: noise lifts the air above zero.
        signal = np.hypot(signal + real, imaginary)
        gain, gamma = rng.uniform(0.7, 1.4), rng.uniform(0.9, 1.1)
        image[..., channel] = np.rint(gain * scale * (signal / scale) ** gamma)
    return image


def _smooth_noise(shape: Shape, spacing_mm: Sequence[float], scale_mm: float, rng: Generator) -> FloatArray:
    """Draw Gaussian noise (X, Y, Z) of unit variance that changes over about ``scale_mm``.

    A cubic spline over white noise on a coarse grid, axis by axis: far cheaper than filtering fine noise.
    """
    # The einsum letters: abc the knots, xyz the voxels.
    weights = [_spline_weights(size, step / scale_mm) for size, step in zip(shape, spacing_mm, strict=True)]
    knots = rng.standard_normal([axis.shape[1] for axis in weights], dtype=np.float32)
    return np.asarray(np.einsum("abc,xa,yb,zc->xyz", knots, *weights, optimize=True), dtype=np.float32)


def _spline_weights(size: int, step_knots: float) -> FloatArray:
    """Return cubic B-spline weights (size, knots), rows of unit norm: white noise keeps its variance."""
    position = np.arange(size) * step_knots
    distance = np.abs(position[:, None] - np.arange(-1, math.floor(position[-1]) + 3))
    near = 2 / 3 - distance**2 + distance**3 / 2
    weights = np.where(distance < 1, near, np.clip(2 - distance, 0, None) ** 3 / 6)
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True), dtype=np.float32)


def _nifti(voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> nib.Nifti1Image:
    """Return a NIfTI image of ``voxels``, in mm."""
    image = nib.Nifti1Image(voxels, affine, dtype=voxels.dtype)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_zooms((*image.header.get_zooms()[:3], 1)[: voxels.ndim])
    image.header.set_xyzt_units("mm")
    return image


def _write_nifti(path: Path, image: nib.Nifti1Image) -> None:
    """Write a ``.nii.gz`` whose bytes depend on the image alone: no time and no name in the gzip header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
    ):
        packed.write(image.to_bytes())


def _require_range(name: str, value: int, smallest: int) -> None:
    if value < smallest:
        allowed, found = f"{smallest} or more", str(value)
        raise UsageError(Problem("data.phantom-size", f"{name} out of range", "", f"give {allowed}", allowed, found))
