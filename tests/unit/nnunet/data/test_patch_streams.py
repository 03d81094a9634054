"""The stream of unlabeled patches reads the cases it is told to, and no other in their folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import blosc2
import numpy as np
import pytest
from refusal import refused

from pcl_auto.errors import ResourceError
from pcl_auto.nnunet.data import patch_streams
from pcl_auto.nnunet.data.store import save_label
from pcl_auto.nnunet.data.store_records import case_files

SHAPE = (4, 4, 4)


def test_only_the_cases_named_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    for number in range(3):
        image = np.full((1, *SHAPE), number, dtype=np.float32)
        blosc2.asarray(image, urlpath=str(case_files(tmp_path, f"case{number}")[0]))
        empty = np.zeros((1, *SHAPE), dtype=np.int16)
        save_label(tmp_path, f"case{number}", empty, {"class_locations": {1: []}}, SHAPE)
    model = SimpleNamespace(patch_size_was_2d=False, patch_size=SHAPE, final_patch_size=SHAPE, transforms=None)
    labels = SimpleNamespace(has_ignore_label=False, all_labels=[0, 1])

    stream = patch_streams.same_augmentation(
        SimpleNamespace(generator=model), tmp_path, ["case2", "case0"], 2, 0.0, labels, pin_memory=False
    )

    seen = {float(value) for _ in range(20) for value in np.unique(next(stream)["data"])}
    assert seen == {0.0, 2.0}


def test_a_worker_that_is_gone_at_the_start() -> None:
    words = "One or more background workers are no longer alive. Exiting."

    def fail() -> None:
        raise RuntimeError(words)

    with refused(ResourceError, "run.worker-gone") as refusal, patch_streams.starting():
        fail()
    assert refusal.problem.found == words
