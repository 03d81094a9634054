"""Run a network over preprocessed images with nnU-Net's sliding window, and refuse output that is not finite."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from pcl_auto.data.labels import foreground
from pcl_auto.errors import NumericalError, Problem
from pcl_auto.method import confidence as measures
from pcl_auto.method.agreement import agreement, draw_transforms
from pcl_auto.nnunet.environment import variables_set
from pcl_auto.nnunet.inference.export import labels_from
from pcl_auto.nnunet.network import half_precision, unwrapped

# Logits (K, z, y, x) of a preprocessed image (C, z, y, x).
Segmenter = Callable[[torch.Tensor], torch.Tensor]
# How far the segmentations of a case's preprocessed image agree under transforms.
AgreementCheck = Callable[[str, np.ndarray], float]


class SlidingWindow:
    """Segment preprocessed images, shape (C, z, y, x), patch by patch."""

    def __init__(
        self,
        network: nn.Module,
        plans: PlansManager,
        configuration: ConfigurationManager,
        dataset_json: dict[str, Any],
        device: torch.device,
        mirror_axes: Sequence[int] | None,
        *,
        mirroring: bool,
        fold_weights: list[dict[str, Tensor]] | None = None,
    ) -> None:
        """Wrap nnU-Net's predictor.

        Args:
            network: it is not compiled: its weights are loaded under their own names, and its outputs change shape.
            plans: of the network.
            configuration: of the network.
            dataset_json: names the classes.
            device: for the network.
            mirror_axes: along which an image may be mirrored.
            mirroring: whether it is.
            fold_weights: of a model's folds, whose logits are averaged exactly as nnU-Net does; None for the network
                with the weights that it has, in the precision in which the device is fast.
        """
        self.network = network
        self._device, self._averages_folds = device, fold_weights is not None
        self._configuration, self._classes = configuration, foreground(dataset_json.get("labels", {}))
        with redirect_stdout(io.StringIO()):  # it says on any other device than CUDA what was not asked for
            self._nnunet = nnUNetPredictor(
                use_mirroring=mirroring,
                perform_everything_on_device=device.type == "cuda",
                device=device,
                allow_tqdm=False,
            )
        if torch.are_deterministic_algorithms_enabled():
            # nnU-Net's predictor lets cuDNN choose its kernels by timing them, in the training around it too: two runs
            # would choose, and round, differently.
            torch.backends.cudnn.benchmark = False
        with variables_set(nnUNet_compile="f"):  # exported, it holds for the steps of a training
            self._nnunet.manual_initialization(
                network, plans, configuration, fold_weights, dataset_json, "nnUNetTrainer", mirror_axes
            )

    def logits(self, image: Tensor, where: str = "a preprocessed image") -> Tensor:
        """Return the logits (K, z, y, x) of an image.

        Raises:
            NumericalError: they are not finite; it says ``where``.
        """
        try:
            if self._averages_folds:
                logits: Tensor = self._nnunet.predict_logits_from_preprocessed_data(image)
            else:
                with half_precision(self._device):
                    logits = self._nnunet.predict_sliding_window_return_logits(image)
            # nnU-Net looks for infinity, not for NaN. One class after the other: the search takes several times the
            # memory of what it looks at.
            if all(torch.isfinite(values).all() for values in logits):
                return logits
        except RuntimeError as error:
            if "Encountered inf" not in str(error):  # logits beyond half precision
                raise
        raise NumericalError(
            Problem(
                code="number.output-not-finite",
                what="the network's output is no longer a number",
                where=where,
                fix="check the scan's intensities; if they are ordinary, train again",
            )
        )

    def labels(self, logits: Tensor) -> np.ndarray:
        """Return the label map (z, y, x) of logits."""
        return labels_from(self._nnunet.label_manager, logits)

    def confidence(self, image: np.ndarray) -> float:
        """Return how far the segmentation of an image can be trusted; 0 where the network's output is not finite.

        See :func:`pcl_auto.method.confidence.confidence`. Without mirroring, scans can be compared with those that the
        training has looked at.
        """
        try:
            return measures.confidence(
                self._logits_of, self.labels, image, self._classes, regions=self._has_regions, in_plane=self._in_plane
            )
        except NumericalError:
            return 0.0

    def certainty_and_consistency(self, image: np.ndarray, logits: Tensor) -> tuple[float, float]:
        """Return the two parts of :meth:`confidence` for an image whose ``logits`` are known.

        Returns:
            the Dice that the network itself expects, and the mean Dice to the segmentations of the image blurred and
            brightened, 0 where the network's output for one of these is not finite.
        """
        sure = measures.expected_dice(logits, regions=self._has_regions)
        try:
            found = measures.consistency(
                self.labels(logits), self._logits_of, self.labels, image, self._classes, in_plane=self._in_plane
            )
        except NumericalError:
            return sure, 0.0
        return sure, float(np.mean(found))

    def _logits_of(self, image: np.ndarray) -> Tensor:
        return self.logits(torch.from_numpy(image))

    @property
    def _has_regions(self) -> bool:
        return bool(self._nnunet.label_manager.has_regions)

    @property
    def _in_plane(self) -> bool:
        return len(self._configuration.patch_size) == 2


def window_of(trainer: Any, network: nn.Module, *, mirroring: bool) -> SlidingWindow:
    """Return the sliding window of a network that ``trainer`` trains, as it is at the time of each call."""
    return SlidingWindow(
        unwrapped(network),
        trainer.plans_manager,
        trainer.configuration_manager,
        trainer.dataset_json,
        trainer.device,
        trainer.inference_allowed_mirroring_axes,
        mirroring=mirroring,
    )


def segmenter(trainer: Any, network: nn.Module, *, mirroring: bool) -> Segmenter:
    """Return a function from preprocessed images of ``trainer`` to finite logits."""
    return window_of(trainer, network, mirroring=mirroring).logits


def agreement_check(trainer: Any, segment: Segmenter) -> AgreementCheck:
    """Return a check of how far the segmentations of a case agree under two transforms, the same in every round."""
    last_axis = len(trainer.configuration_manager.patch_size) - 1
    mirror = last_axis in (trainer.inference_allowed_mirroring_axes or ())
    segmented = partial(label_map, segment, trainer.label_manager)

    def check(case: str, image: np.ndarray) -> float:
        transforms = draw_transforms(case, trainer.settings.seed, mirror=mirror)
        return agreement(segmented, image, transforms, foreground(trainer.dataset_json["labels"]))

    return check


def label_map(segment: Segmenter, labels_of: LabelManager, image: np.ndarray) -> np.ndarray:
    """Segment a preprocessed image (C, z, y, x); of regions the values they are written with, shape (z, y, x)."""
    return labels_from(labels_of, segment(torch.from_numpy(image)))
