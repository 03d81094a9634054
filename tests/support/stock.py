"""Masks as stock nnU-Net makes them of a model folder, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

# nnUNetv2_train, of a single step.
SHORT_TRAINING = """
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module

begin = module.nnUNetTrainer.__init__


def short(self, plans, configuration, fold, dataset_json, device):
    begin(self, plans, configuration, fold, dataset_json, device)
    self.num_epochs = self.num_iterations_per_epoch = self.num_val_iterations_per_epoch = 1


module.nnUNetTrainer.__init__ = short
from nnunetv2.run.run_training import run_training_entry

if __name__ == "__main__":
    run_training_entry()
"""


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
