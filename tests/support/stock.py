"""Masks as stock nnU-Net makes them of a model folder, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch


def stock_mask(
    model: Path, files: Sequence[Path], out: Path, *, folds: Sequence[int | str] = ("all",), mirroring: bool = False
) -> Path:
    """Return the mask that ``nnUNetv2_predict`` writes of one scan, given as a file per channel."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), tuple(folds), "checkpoint_final.pth")
    out.parent.mkdir(parents=True, exist_ok=True)
    predictor.predict_from_files_sequential([[str(file) for file in files]], [str(out)])
    return out.with_name(out.name + ".nii.gz")
