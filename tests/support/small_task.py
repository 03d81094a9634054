"""Small decathlon folders of any task's kind: its channels, its classes, its anisotropy, a few thousand voxels."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from decathlon import DecathlonTask, Sizes

# The longest and the shortest axis of a small case at its target spacing, in voxels.
LONGEST, SHORTEST = 48, 18


def make_small_task(
    task: DecathlonTask, folder: Path, *, labeled: int = 2, unlabeled: int = 2, lacking: tuple[int, ...] = ()
) -> Path:
    """Write ``task`` in small, with one test case and that case's label in ``labelsTs``.

    Args:
        task: what kind of data.
        folder: the folder that gets the task.
        labeled: training cases with a label; they come first.
        unlabeled: training cases without one.
        lacking: classes that the first labeled case does not show.
    """
    root = folder / task.folder_name
    training: list[dict[str, str]] = []
    testing: list[str] = []
    for number in range(labeled + unlabeled + 1):
        suffix = "Tr" if number < labeled + unlabeled else "Ts"
        case = f"{task.name.lower()}_{number:03d}.nii.gz"
        image, label = _draw(task, number, lacking if number == 0 else ())
        (root / f"images{suffix}").mkdir(parents=True, exist_ok=True)
        (root / f"labels{suffix}").mkdir(exist_ok=True)
        nib.save(image, root / f"images{suffix}" / case)
        entry = {"image": f"./images{suffix}/{case}"}
        if number < labeled or suffix == "Ts":
            nib.save(label, root / f"labels{suffix}" / case)
            entry["label"] = f"./labels{suffix}/{case}"
        if suffix == "Tr":
            training.append(entry)
        else:
            testing.append(entry["image"])
    description = {
        "name": task.name,
        "modality": {str(index): name for index, name in enumerate(task.channels)},
        "labels": {"0": "background", **{str(value): name for value, name in enumerate(task.classes, start=1)}},
        "numTraining": len(training),
        "numTest": len(testing),
        "training": training,
        "test": testing,
    }
    (root / "dataset.json").write_text(json.dumps(description))
    return root


def _draw(task: DecathlonTask, number: int, lacking: tuple[int, ...]) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """An image (X, Y, Z) or (X, Y, Z, C) and its label (X, Y, Z): a body in air, in it the classes side by side."""
    rng = np.random.default_rng([task.number, number])
    spacing_mm, size = task.geometry(number, _small(task.resampled_size))
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, count) for count in size), indexing="ij")
    # The classes share out the angles about the body's axis, each case a little turned.
    angle = np.arctan2(y, x) + np.pi + rng.uniform(0, 0.3)
    classes = 1 + (angle / (2 * np.pi + 0.3) * len(task.classes)).astype(int)
    organs = (x / 0.6) ** 2 + (y / 0.6) ** 2 + (z / 0.8) ** 2 < 1
    label = np.where(organs & ~np.isin(classes, lacking), classes, 0)
    # Of a masked scan little more than half is left when the nonzero region is cut out.
    body = x**2 + y**2 < (0.75 if task.is_masked else 0.95) ** 2
    channels = [_signal(task, body, label, rng) for _ in task.channels]
    affine = np.diag([*spacing_mm[::-1], 1.0])
    voxels = np.stack([channel.T for channel in channels], axis=-1)
    return (
        nib.Nifti1Image(voxels if len(channels) > 1 else voxels[..., 0], affine),
        nib.Nifti1Image(label.T.astype(np.uint8), affine),
    )


def _signal(
    task: DecathlonTask, body: npt.NDArray[np.bool_], label: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.int16]:
    """One channel (Z, Y, X): Hounsfield units, or the signal of an MR scan, whose air may have been masked to 0."""
    air, soft, step, noise = (-1000, 40, 30, 12) if task.is_ct else (50, 400, 120, 30)
    signal = np.where(body, soft + step * label, air) + noise * rng.standard_normal(label.shape)
    if not task.is_ct:
        signal = np.where(body | (not task.is_masked), np.maximum(signal, 1), 0)
    return np.rint(signal).astype(np.int16)


def _small(size: Sizes) -> Sizes:
    shrink = LONGEST / max(size)
    small = [min(count, max(SHORTEST, round(count * shrink))) for count in size]
    return small[0], small[1], small[2]
