"""Make labeled cases in the shapes of unlabeled ones: image and label of a labeled case, moved to an unlabeled case.

Whatever the registration is worth, the label fits its image: both are moved alike (Zhao et al., CVPR 2019, learn such
deformations). They are learned from beside the labeled cases; no pseudo-label is in them.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

from pcl_auto.data.labels import all_values
from pcl_auto.data.split import Split, order_of_draw
from pcl_auto.method.atlas_fusion import move_labels
from pcl_auto.method.registration import move, register
from pcl_auto.nnunet import distributed
from pcl_auto.nnunet.data.cases import StoredCases
from pcl_auto.nnunet.data.labeled_cases import LabeledCases
from pcl_auto.nnunet.data.pseudo_label_files import read_labels, sampled_from
from pcl_auto.nnunet.data.store import publish_case, write_case
from pcl_auto.nnunet.data.store_records import case_files, is_stored
from pcl_auto.nnunet.data.stored_scans import read_scan, read_stored_image, registering_device
from pcl_auto.workspace.atomic import staging_folder
from pcl_auto.workspace.files import link_relative

if TYPE_CHECKING:
    from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised


class WarpedCases:
    """The labeled cases of a training, and as many warped ones as its recipe asks for."""

    def __init__(self, trainer: nnUNetTrainerPCLSupervised, split: Split, labeled: LabeledCases) -> None:
        """Work for ``trainer``: warp its ``labeled`` cases to unlabeled cases of ``split``."""
        self._trainer = trainer
        self._labeled = labeled
        self._store = trainer.data.store(trainer.settings.store)
        self._folder = trainer.run_folder / "warped"
        count = trainer.recipe.augmentation.warped_cases
        targets = order_of_draw(split.unlabeled, split.seed)
        sources = order_of_draw(labeled.cases, split.seed)
        # Every labeled case in turn, and no pair twice.
        self.pairs = [
            (sources[(number + number // len(targets)) % len(sources)], targets[number % len(targets)])
            for number in range(min(count, len(sources) * len(targets)))
        ]

    def make(self) -> None:
        """Make the warped cases; those that an interrupted try has made are kept. Several processes share them."""
        mine = distributed.share(self.pairs)
        for done, (source, target) in enumerate(mine, start=1):
            if not is_stored(self._folder, _name(source, target)):
                self.warp(source, target)
            self._trainer.events.notify("warped_case", done=done, total=len(mine))
        with distributed.rank_zero_first() as first:
            for case in self._labeled.cases if first else []:
                if not is_stored(self._folder, case):
                    for linked, file in zip(
                        case_files(self._folder, case), case_files(self._labeled.folder, case), strict=True
                    ):
                        link_relative(linked, file)

    def dataset(self) -> StoredCases:
        """Return the cases to learn from; half of the patches are of labeled cases as they are."""
        warped = [_name(source, target) for source, target in self.pairs]
        repeated = max(1, round(len(warped) / len(self._labeled.cases)))
        return StoredCases(str(self._folder), [*list(self._labeled.cases) * repeated, *warped])

    def forget(self) -> None:
        """Remove the warped cases: training is over."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def warp(self, source: str, target: str) -> None:
        """Move a labeled case to an unlabeled one, and store it."""
        trainer, labels = self._trainer, self._trainer.dataset_json["labels"]
        turned = trainer.plans_manager.transpose_forward
        device = registering_device(trainer.device, deterministic=trainer.settings.deterministic)
        places = register(
            read_scan(self._store, target, turned, device), read_scan(self._labeled.folder, source, turned, device)
        )
        image = torch.from_numpy(read_stored_image(self._labeled.folder, source)).to(device)
        moved = move(image, places).cpu().numpy()
        label = move_labels(read_labels(self._labeled.folder, source), places, all_values(labels))[None]
        properties = StoredCases(str(self._store), [target]).load_case(target)[3]
        properties["class_locations"] = DefaultPreprocessor._sample_foreground_locations(
            label, sampled_from(trainer.label_manager)
        )
        name, patch_voxels = _name(source, target), tuple(trainer.configuration_manager.patch_size)
        with staging_folder(self._folder) as staged:
            write_case(staged, name, moved, label, properties, patch_voxels)
            publish_case(staged, self._folder, name)


def _name(source: str, target: str) -> str:
    return f"{source}_as_{target}"
