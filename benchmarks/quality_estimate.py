"""Measure how much the quality estimate of `pclauto predict` says of the true Dice, on scans with known labels.

    python benchmarks/quality_estimate.py MODEL Task04_Hippocampus/imagesTs Task04_Hippocampus/labelsTs

MODEL is a model folder of `pclauto train`. Every scan is segmented twice: as it is, and once spoiled, by one of the
ways in which scans go wrong (SPOILINGS, in turn). Printed are, for each group and both, Spearman's rank correlation of
confidence and Dice, and of the scans flagged for review how many are among the tenth with the lowest Dice (precision)
and how many of that tenth are flagged (recall); of the spoiled ones also how many lost a tenth of Dice, and how many of
those are flagged. `--json FILE` keeps every scan's numbers.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from prepared import machine, print_table
from scipy import ndimage
from scipy.stats import spearmanr

from pcl_auto.data.labels import all_values, foreground
from pcl_auto.errors import DataError
from pcl_auto.evaluation.metrics import evaluate, undeclared_values
from pcl_auto.inference.predict import predict
from pcl_auto.workspace.files import read_json

WORST = 0.1
LOST_DICE = 0.1


@dataclass(frozen=True)
class Scan:
    """A scan that was segmented: its Dice, and what was estimated without the label."""

    case: str
    spoiled: str
    dice: float
    confidence: float
    review: bool


def _noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image + rng.normal(0, 0.5 * image.std(), image.shape)


def _shading(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Shade the image as by a coil on one side: three times as bright there."""
    return image * np.linspace(0.5, 1.5, image.shape[0])[:, None, None]


def _ghost(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Add a ghost as if the patient moved: half the image again, a fifth of the field of view away."""
    return image + 0.5 * np.roll(image, image.shape[1] // 5, axis=1)


def _thick_slices(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Keep every fifth slice and interpolate the others."""
    every = np.arange(0, image.shape[2], 5)
    enlarged: np.ndarray = ndimage.zoom(image[..., every], (1, 1, image.shape[2] / len(every)), order=1)
    return enlarged[..., : image.shape[2]]


def _cut(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Void the signal over a third of the field of view."""
    return np.where(np.arange(image.shape[1])[None, :, None] < image.shape[1] // 3, image.min(), image)


def _other_contrast(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Invert the contrast, as of another sequence."""
    inverted: np.ndarray = image.max() - image
    return inverted


SPOILINGS: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "noise": _noise,
    "shading": _shading,
    "ghost": _ghost,
    "thick slices": _thick_slices,
    "signal void": _cut,
    "other contrast": _other_contrast,
}


def spoil(images: Path, folder: Path) -> dict[str, str]:
    """Write each scan of ``images`` spoiled into ``folder``; return the kind of spoiling by case."""
    names, rng, found = list(SPOILINGS), np.random.default_rng(0), {}
    for index, file in enumerate(sorted(images.glob("*.nii*"))):
        name = names[index % len(names)]
        image = nibabel.load(file)
        voxels = np.asanyarray(image.dataobj, dtype=np.float32)
        whole = voxels if voxels.ndim == 4 else voxels[..., None]  # channels last
        spoiled = np.stack([SPOILINGS[name](channel, rng) for channel in np.moveaxis(whole, -1, 0)], axis=-1)
        nibabel.save(
            nibabel.Nifti1Image(spoiled.reshape(voxels.shape).astype(np.float32), image.affine), folder / file.name
        )
        found[file.name.split(".nii")[0]] = name
    return found


def segmented(model: Path, images: Path, labels: Path, masks: Path, how: Mapping[str, str]) -> list[Scan]:
    """Segment ``images`` into ``masks`` and score them against ``labels``."""
    results = {result.id: result for result in predict([images], masks, model, listener=lambda *_: None)}
    declared = read_json(model / "dataset.json")["labels"]
    classes = foreground(declared)
    scores = evaluate(masks, labels, classes=classes, allow_missing=True)
    if problems := undeclared_values(scores.unscored_values, labels, all_values(declared)):
        raise DataError(problems)
    scans = []
    for case in scores.cases:
        quality: dict[str, Any] = results[case.id].quality or {}
        dice = float(np.nanmean(list(case.dice.values())))
        scans.append(Scan(case.id, how.get(case.id, ""), dice, quality["confidence"], quality["review"]))
    return scans


def summary(scans: list[Scan]) -> dict[str, float]:
    """Sum up what the estimate says of ``scans``."""
    dice, confidence = np.array([scan.dice for scan in scans]), np.array([scan.confidence for scan in scans])
    flagged = {scan.case + scan.spoiled for scan in scans if scan.review}
    order = sorted(scans, key=lambda scan: scan.dice)
    worst = {scan.case + scan.spoiled for scan in order[: math.ceil(WORST * len(scans))]}
    hits = len(flagged & worst)
    return {
        "scans": len(scans),
        "dice": float(dice.mean()),
        "dice_sd": float(dice.std()),
        "spearman": float(spearmanr(confidence, dice)[0]),
        "flagged": len(flagged),
        "precision": hits / len(flagged) if flagged else math.nan,
        "recall": hits / len(worst),
    }


def _row(name: str, scans: list[Scan]) -> list[str]:
    found = summary(scans)
    dice = f"{found['dice']:.3f} ± {found['dice_sd']:.3f}"
    rest = (f"{found[key]:.2f}" for key in ("spearman", "precision", "recall"))
    return [name, str(found["scans"]), dice, str(found["flagged"]), *rest]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model", type=Path)
    options.add_argument("images", type=Path)
    options.add_argument("labels", type=Path)
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "spoiled").mkdir()
        how = spoil(given.images, folder / "spoiled")
        plain = segmented(given.model, given.images, given.labels, folder / "masks", {})
        spoiled = segmented(given.model, folder / "spoiled", given.labels, folder / "spoiled_masks", how)
    print(", ".join(f"{name} {value}" for name, value in machine("cpu").items()))
    print_table(
        ["", "scans", "Dice", "flagged", "Spearman", "precision", "recall"],
        [_row("as they are", plain), _row("spoiled", spoiled), _row("both", [*plain, *spoiled])],
    )
    for name in SPOILINGS:
        those = [scan for scan in spoiled if scan.spoiled == name]
        share = sum(scan.review for scan in those) / max(1, len(those))
        print(f"  {name:<16} {len(those):>5} {np.mean([scan.dice for scan in those]):.3f}, {share:.0%} flagged")
    before = {scan.case: scan.dice for scan in plain}
    lost = [scan for scan in spoiled if before[scan.case] - scan.dice >= LOST_DICE]
    print(f"spoiled and {LOST_DICE} of Dice lost: {len(lost)}, of them flagged {sum(scan.review for scan in lost)}")
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(scan) for scan in [*plain, *spoiled]], indent=1))


if __name__ == "__main__":
    main()
