"""The Dice curve of the validation patches, also where these have nothing to show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nnunetv2.training.logging.nnunet_logger import MetaLogger

from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised

# True positives, false positives and false negatives of two classes.
HALF_FOUND, NOTHING_THERE = ([2, 2], [2, 2], [2, 2]), ([0, 0], [0, 0], [0, 0])


def curves(folder: Path, *epochs: tuple[list[int], list[int], list[int]]) -> tuple[list[float], list[float]]:
    """Mean and smoothed Dice after epochs whose validation patches count so many voxels."""
    trainer = nnUNetTrainerPCLSupervised.__new__(nnUNetTrainerPCLSupervised)
    trainer.is_ddp, trainer.logger = False, MetaLogger(str(folder), resume=False)
    for epoch, (tp, fp, fn) in enumerate(epochs):
        trainer.current_epoch = epoch
        patch = {"tp_hard": np.array(tp), "fp_hard": np.array(fp), "fn_hard": np.array(fn), "loss": np.array(0.5)}
        trainer.on_validation_epoch_end([patch])
    return tuple(trainer.logger.get_value(key, step=None) for key in ("mean_fg_dice", "ema_fg_dice"))


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_an_epoch_without_foreground_leaves_the_curve_where_it_was(tmp_path: Path) -> None:
    mean, smoothed = curves(tmp_path, HALF_FOUND, NOTHING_THERE, HALF_FOUND)
    np.testing.assert_allclose(mean, [0.5, 0.5, 0.5])
    np.testing.assert_allclose(smoothed, [0.5, 0.5, 0.5])


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_nothing_was_found_yet(tmp_path: Path) -> None:
    mean, smoothed = curves(tmp_path, NOTHING_THERE, HALF_FOUND)
    np.testing.assert_allclose(mean, [0.0, 0.5])
    np.testing.assert_allclose(smoothed, [0.0, 0.05])
