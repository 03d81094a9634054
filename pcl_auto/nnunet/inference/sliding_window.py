"""nnU-Net's sliding window over a network in training, and how far what it finds agrees under transforms."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, nn

from pcl_auto.data.labels import foreground
from pcl_auto.method.agreement import agreement, draw_transforms
from pcl_auto.nnunet.data.pseudo_labels import AgreementCheck, Segmenter, label_map
from pcl_auto.nnunet.environment import variables_set
from pcl_auto.nnunet.network import half_precision, unwrapped


def segmenter(trainer: Any, network: nn.Module, *, mirroring: bool) -> Segmenter:
    """What turns preprocessed images of ``trainer`` into logits; not compiled, since its outputs change shape here."""
    predictor = nnUNetPredictor(
        use_mirroring=mirroring,
        perform_everything_on_device=trainer.device.type == "cuda",
        device=trainer.device,
        allow_tqdm=False,
    )
    with variables_set(nnUNet_compile="f"):  # exported, it holds for the steps of a training
        predictor.manual_initialization(
            unwrapped(network),
            trainer.plans_manager,
            trainer.configuration_manager,
            None,
            trainer.dataset_json,
            type(trainer).__name__,
            trainer.inference_allowed_mirroring_axes,
        )

    def segment(image: Tensor) -> Tensor:
        with half_precision(trainer.device):
            return predictor.predict_sliding_window_return_logits(image)  # type: ignore[no-any-return]

    return segment


def agreement_check(trainer: Any, segment: Segmenter) -> AgreementCheck:
    """Segment a scan under two transforms, the same in every round, so that rounds can be compared."""
    last_axis = len(trainer.configuration_manager.patch_size) - 1
    mirror = last_axis in (trainer.inference_allowed_mirroring_axes or ())
    segmented = partial(label_map, segment, trainer.label_manager)

    def check(case: str, image: np.ndarray) -> float:
        transforms = draw_transforms(case, trainer.settings.seed, mirror=mirror)
        return agreement(segmented, image, transforms, foreground(trainer.dataset_json["labels"]))

    return check
