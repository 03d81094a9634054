"""Tasks on disk for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import label_map, ramp, save, write_description


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a task of labeled (l...) and unlabeled (u...) cases and returns its folder.

    Keyword arguments replace keys of dataset.json; None removes a key.
    """

    def make(labeled: int = 2, unlabeled: int = 1, folder: str = "Task07_Toy", **changes: Any) -> Path:
        root = tmp_path / folder
        training: list[dict[str, str]] = []
        for number in range(labeled):
            name = f"l{number}.nii.gz"
            save(root / "imagesTr" / name, ramp() + number)
            save(root / "labelsTr" / name, np.roll(label_map(), number, axis=2))
            training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
        for number in range(unlabeled):
            save(root / "imagesTr" / f"u{number}.nii.gz", ramp() + 10 + number)
        content = {
            "name": "Toy",
            "modality": {"0": "MRI"},
            "labels": {"0": "background", "1": "core", "2": "rim"},
            "numTraining": len(training),
            "training": training,
            "test": [],
        }
        content.update(changes)
        if "training" in changes and "numTraining" not in changes:
            del content["numTraining"]
        write_description(root, {key: value for key, value in content.items() if value is not None})
        return root

    return make
