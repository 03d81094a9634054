"""Images painted on real label maps, for tests that need a real task's geometry."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage


def paint_labels(label_folder: Path, description: dict[str, object], task: Path) -> Path:
    """Write a decathlon task of the label maps that ``description`` lists, each with an image of its geometry."""
    modality, training = description["modality"], description["training"]
    assert isinstance(modality, dict)
    assert isinstance(training, list)
    (task / "imagesTr").mkdir(parents=True)
    (task / "labelsTr").mkdir()
    entries = []
    for number, entry in enumerate(training):
        name = Path(entry["label"]).name
        source = next(path for path in (label_folder / name, label_folder / f"{name}.gz") if path.is_file())
        label = nib.load(source)
        classes = np.asarray(label.dataobj).astype(np.float32)
        noise = np.random.default_rng(number).normal(0, 60, (*classes.shape, len(modality)))
        signal = ndimage.gaussian_filter(300 + 100 * classes, (1, 1, 0))
        image = nib.Nifti1Image((signal[..., None] + noise).astype(np.int16), label.affine, label.header)
        image.set_data_dtype(np.int16)
        target = f"{source.name.removesuffix('.gz').removesuffix('.nii')}.nii.gz"
        nib.save(image, task / "imagesTr" / target)
        shutil.copyfile(source, task / "labelsTr" / source.name)
        entries.append({"image": f"imagesTr/{target}", "label": f"labelsTr/{source.name}"})
    content = {**description, "numTraining": len(entries), "numTest": 0, "training": entries, "test": []}
    (task / "dataset.json").write_text(json.dumps(content))
    return task
