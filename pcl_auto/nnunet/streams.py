"""The streams of patches that training reads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA


def loader_of(stream: Any) -> nnUNetDataLoader:
    """The loader that a stream of either kind draws from."""
    return stream.generator if hasattr(stream, "generator") else stream.data_loader


def same_augmentation(
    stream: Any,
    folder: Path,
    cases: Sequence[str],
    patches: int,
    oversample_foreground: float,
    label_manager: Any,
    *,
    pin_memory: bool,
) -> Any:
    """A stream of ``patches`` from ``cases`` in ``folder``, cut and augmented as those of ``stream``."""
    model = loader_of(stream)
    # A loader turns 2D patches into slices of depth one and would do it again.
    first = 1 if model.patch_size_was_2d else 0
    loader = nnUNetDataLoader(
        nnUNetDatasetBlosc2(str(folder), list(cases)),
        patches,
        model.patch_size[first:],
        model.final_patch_size[first:],
        label_manager,
        oversample_foreground_percent=oversample_foreground,
        probabilistic_oversampling=True,
        transforms=model.transforms,
    )
    workers = get_allowed_n_proc_DA()
    if workers == 0:
        return SingleThreadedAugmenter(loader, None)
    stream = NonDetMultiThreadedAugmenter(
        data_loader=loader,
        transform=None,
        num_processes=workers,
        num_cached=max(6, workers // 2),
        seeds=None,
        pin_memory=pin_memory,
        wait_time=0.002,
    )
    next(stream)
    return stream


def close(stream: Any) -> None:
    """End the worker processes of ``stream``, if it has any."""
    if isinstance(stream, NonDetMultiThreadedAugmenter):
        # It reports on stdout.
        with open(os.devnull, "w", encoding="utf-8") as void, contextlib.redirect_stdout(void):  # noqa: PTH123
            stream._finish()
