"""An nnU-Net trainer that learns from the cases of a split, or of a fold of them, and is validated on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from pcl_auto.data.split import cross_validation
from pcl_auto.nnunet.cases import StoredCases
from pcl_auto.nnunet.settings import read_settings
from pcl_auto.nnunet.trusted import require_trusted
from pcl_auto.recipe import Recipe
from pcl_auto.run.files import write_json
from pcl_auto.run.workspace import DatasetFolder


class SplitTrainer(nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's trainer on the labelled cases that the plans' split names."""

    preprocessed_dataset_folder: str
    is_ddp: bool
    network: Any

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature, which it inspects)
    ) -> None:
        require_trusted(plans, dataset_json, plans.get("dataset_name", ""))
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.settings = read_settings(self.configuration_manager.configuration, self.plans_manager.plans_name)
        self.data = DatasetFolder(Path(self.preprocessed_dataset_folder_base))
        self.run_folder = Path(self.output_folder)
        self.labeled_view = Path(self.preprocessed_dataset_folder)
        self.validation_view = self.data.validation_view(self.settings.split, self.configuration_name)
        # In a cross-validation the held-out cases judge a model; they must not choose it too.
        self.chooses_best = self.fold == "all" and self.validation_view.is_dir()

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return self.settings.recipe

    @property
    def has_validation(self) -> bool:
        """Whether the split, or the fold, holds out labelled cases."""
        return self.chooses_best or self.fold != "all"

    def initialize(self) -> None:
        """Build what nnU-Net builds; its validation too reads stored cases without running code from them."""
        super().initialize()
        self.dataset_class = StoredCases

    def do_split(self) -> tuple[list[str], list[str]]:
        """Labelled cases to learn from, and held-out ones: of the fold or of the split, else the same again."""
        labeled: list[str] = StoredCases.get_identifiers(str(self.labeled_view))
        if self.fold != "all":
            return cross_validation(labeled, self.settings.folds)[int(self.fold)]
        held_out = StoredCases.get_identifiers(str(self.validation_view)) if self.chooses_best else labeled
        return labeled, held_out

    def get_tr_and_val_datasets(self) -> tuple[StoredCases, StoredCases]:
        """What :meth:`do_split` says, from where it lies."""
        labeled, held_out = self.do_split()
        view = str(self.validation_view) if self.chooses_best else str(self.labeled_view)
        return StoredCases(str(self.labeled_view), labeled), StoredCases(view, held_out)

    def validate(self) -> None:
        """Segment held-out cases as they were scanned, as nnU-Net does at the end of a training; or say there are none.

        Labelled cases that were learned from show nothing, and take their time.
        """
        if self.has_validation:
            self.perform_actual_validation()
            return
        if self.local_rank != 0:
            return
        # nnU-Net's export of a model asks for the file.
        write_json(
            self.run_folder / "validation" / "summary.json",
            {"metric_per_case": [], "mean": {}, "foreground_mean": {}, "pclauto": "no case was held out"},
        )

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:  # noqa: FBT001, FBT002 (nnU-Net's)
        """nnU-Net's validation, of the split's validation cases where it has some."""
        self.preprocessed_dataset_folder = str(self.validation_view if self.chooses_best else self.labeled_view)
        try:
            super().perform_actual_validation(save_probabilities)
        finally:
            self.preprocessed_dataset_folder = str(self.labeled_view)
