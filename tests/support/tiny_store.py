"""A case store of a few voxels."""

from __future__ import annotations

from pathlib import Path

import blosc2
import numpy as np

from pcl_auto.nnunet.data.store import save_label
from pcl_auto.nnunet.data.store_records import case_files

SHAPE = (4, 6, 8)


def make_store(folder: Path, *cases: str) -> Path:
    folder.mkdir(parents=True)
    for case in cases:
        image = np.zeros((1, *SHAPE), dtype=np.float32)
        image[0, 1] = 1
        blosc2.asarray(image, urlpath=str(case_files(folder, case)[0]))
        save_label(folder, case, np.zeros((1, *SHAPE), dtype=np.int16), {"class_locations": {1: []}}, SHAPE)
    return folder
