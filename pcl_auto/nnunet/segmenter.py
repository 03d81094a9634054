"""nnU-Net's sliding window over a network in training."""

from __future__ import annotations

from typing import Any

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, nn

from pcl_auto.nnunet.features import unwrapped
from pcl_auto.nnunet.precision import half_precision
from pcl_auto.nnunet.pseudo_labels import Segmenter


def segmenter(trainer: Any, network: nn.Module, *, mirroring: bool) -> Segmenter:
    """What turns preprocessed images of ``trainer`` into logits; not compiled, since its outputs change shape here."""
    predictor = nnUNetPredictor(
        use_mirroring=mirroring,
        perform_everything_on_device=trainer.device.type == "cuda",
        device=trainer.device,
        allow_tqdm=False,
    )
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
