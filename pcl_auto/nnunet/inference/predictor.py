"""Segment scans as ``nnUNetv2_predict`` does, in this process, without running code from the model folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from pcl_auto.data.formats.usable_voxels import refuse_unusable, remarks_on
from pcl_auto.data.formats.volume import Source
from pcl_auto.data.labels import foreground, values_of
from pcl_auto.errors import Problem, StateError
from pcl_auto.method.confidence import PASSES
from pcl_auto.nnunet.checkpoint_files import read_checkpoint
from pcl_auto.nnunet.checkpoint_settings import CheckpointSettings, checkpoint_settings, refuse_other_weights
from pcl_auto.nnunet.data.bias_field import preprocessor_of
from pcl_auto.nnunet.data.images import Properties, read_image
from pcl_auto.nnunet.data.orientation import require_nibabels_view, require_reader, turn_for
from pcl_auto.nnunet.data.thin_scans import spacing_to_keep
from pcl_auto.nnunet.errors import memory_errors
from pcl_auto.nnunet.inference.confidence import read_reference
from pcl_auto.nnunet.inference.export import dtype_of_masks, mask_inside, mask_of, on_scan
from pcl_auto.nnunet.inference.memory_demand import InferenceDemand, split_into_slabs
from pcl_auto.nnunet.inference.sliding_window import SlidingWindow
from pcl_auto.nnunet.network import refuse_unrunnable
from pcl_auto.nnunet.trusted_plans import require_trusted
from pcl_auto.workspace.files import read_json
from pcl_auto.workspace.run_record import FINAL, finished_folds, is_fold, model_folder, refuse_other_model


class Segmentation(NamedTuple):
    """A mask (z, y, x) on the scan's own grid, and the geometry to write it with.

    ``confidence``: None where nobody asked for it, or where the scan was cut; ``slabs``: into how many parts;
    ``remarks``: what is odd about the scan.
    """

    mask: np.ndarray
    properties: Properties
    confidence: float | None
    slabs: int = 1
    remarks: tuple[str, ...] = ()


class PatchSeconds(NamedTuple):
    """Seconds per patch: of a mask, with all folds and mirroring, and of a confidence."""

    masks: float
    confidence: float


class ModelPredictor:
    """A trained model, ready to segment images."""

    def __init__(
        self, model: Path, device: torch.device, *, mirroring: bool = True, checkpoint: Path | None = None
    ) -> None:
        """Load the finished folds that ``model`` holds, the one whose folder it is, or the one ``checkpoint`` in it.

        Raises:
            StateError: the folder holds no trained model, one whose weights do not fit its plans, or one that has
                changed since it was trained.
        """
        checkpoints = [checkpoint] if checkpoint is not None else finished_folds(model)
        if not checkpoints:
            raise StateError(
                Problem(
                    code="model.missing",
                    what="no trained model",
                    where=str(model),
                    expected=FINAL if is_fold(model) else f"fold_*/{FINAL}",
                    fix="finish the training (repeat its command), or name another model with --model",
                )
            )
        for file in checkpoints:
            if file.name == FINAL:
                refuse_other_model(file.parent)
        model = model_folder(model)
        folds = [read_checkpoint(path) for path in checkpoints]
        # Of several folds the first one speaks for all.
        self.reference = read_reference(checkpoints[0].parent)
        plans, self.dataset_json = read_json(model / "plans.json"), read_json(model / "dataset.json")
        require_trusted(plans, self.dataset_json, model)
        self._reader: str = plans["image_reader_writer"]
        require_reader(self._reader, model)
        self.plans = PlansManager(plans)
        chosen = checkpoint_settings(dict(zip(checkpoints, folds, strict=True)), self.plans)
        self.configuration = self.plans.get_configuration(chosen.configuration)
        self.channels: int = determine_num_input_channels(self.plans, self.configuration, self.dataset_json)
        _refuse_unfit(self.configuration, self.channels, model)
        self._labels = self.plans.get_label_manager(self.dataset_json)
        network = self._network_of(chosen, model)
        refuse_other_weights(folds, checkpoints, network)
        network.load_state_dict(folds[0]["network_weights"])
        self._network, self._weights = network, [fold["network_weights"] for fold in folds]
        settings = (network, self.plans, self.configuration, self.dataset_json, device, chosen.mirror_axes)
        self._window = SlidingWindow(*settings, mirroring=mirroring, fold_weights=self._weights)
        self._unmirrored = SlidingWindow(*settings, mirroring=False)

    def _network_of(self, chosen: CheckpointSettings, model: Path) -> torch.nn.Module:
        """Build the network as the model's trainer does.

        Raises:
            StateError: the plans describe none that can be built.
        """

        def build() -> torch.nn.Module:
            network: torch.nn.Module = chosen.trainer.build_network_architecture(
                self.plans,
                self.configuration,
                self.channels,
                self._labels.num_segmentation_heads,
                enable_deep_supervision=False,
            )
            return network

        fix = "restore plans.json from the model's source"
        heads, patch_voxels = self._labels.num_segmentation_heads, self.configuration.patch_size
        refuse_unrunnable(build, self.channels, heads, patch_voxels, model, fix)
        return build()

    @property
    def classes(self) -> dict[str, tuple[int, ...]]:
        """Values that each class, or region, has in a mask."""
        return {name: values_of(value) for name, value in foreground(self.dataset_json["labels"]).items()}

    def segment(self, files: Sequence[Source], *, confidence: bool = False) -> Segmentation:
        """Segment one scan: one 4D volume, or one 3D volume per channel; its ``confidence`` takes longer.

        Raises:
            DataError: the scan cannot be read, or not as the model's reader does.
            StateError, ResourceError, NumericalError: see :meth:`segment_image`.
        """
        image, properties = read_image(files)
        require_nibabels_view(self._reader, files, image.shape[1:], properties)
        return self.segment_image(image, properties, str(files[0]), confidence=confidence)

    def segment_image(
        self, image: np.ndarray, properties: Properties, where: str, *, confidence: bool = False
    ) -> Segmentation:
        """Segment an image, turned for the network as the model's reader turns it.

        Args:
            image: shape (C, z, y, x), finite.
            properties: with its ``spacing`` along z, y and x in mm, as nnU-Net has it, and the geometry of its grid.
            where: the scan's name in messages.
            confidence: whether to say how sure the network is, which takes longer.

        Raises:
            DataError: nothing is to be seen in a channel, or nothing that nnU-Net can normalize; or the model's reader
                turns scans, and nothing says how this one lies in space.
            StateError: the model wants another number of channels.
            ResourceError: the scan would need more memory than is free, in slabs too.
            NumericalError: the network's output is not finite.
        """
        demand = self.demand(image, properties, where)
        count, remarks = demand.slabs_that_fit(where), remarks_on(image)
        turn, grid = turn_for(self._reader, properties, where), properties
        image, spacing_mm = turn.forth(image), turn.of_lengths(grid["spacing"])
        properties = {**grid, "spacing": spacing_to_keep(image, spacing_mm, self.plans, self.configuration)}
        # On a GPU nnU-Net tries a second time with the results in the memory of the machine.
        with memory_errors(lambda: where, "free memory, or predict with --device cpu, or with --no-mirroring"):
            if count > 1:
                mask = self._in_slabs(image, properties, count, demand.margin_rows, where)
                return Segmentation(turn.back(mask), grid, None, count, remarks)
            data, properties = self._preprocessed(image, properties, self.configuration)
            logits = self._window.logits(torch.from_numpy(data), where)
            mask = mask_of(logits, self.plans, self.configuration, self._labels, properties)
            del logits
            sure = self.first_fold().confidence(data) if confidence else None
        return Segmentation(turn.back(mask), grid, sure, remarks=remarks)

    def demand(self, image: np.ndarray, properties: Properties, where: str) -> InferenceDemand:
        """Return what segmenting an image takes; the arguments are those of :meth:`segment_image`.

        Raises:
            DataError, StateError: see :meth:`segment_image`.
        """
        if len(image) != self.channels:
            names = self.dataset_json.get("modality", self.dataset_json.get("channel_names", {}))
            raise StateError(
                Problem(
                    code="data.channel-count",
                    what="wrong number of channels",
                    where=where,
                    expected=f"{self.channels} ({', '.join(names.values())})",
                    found=str(len(image)),
                    fix="give one 4D file, or files or folders of one DICOM series that end in _0000, _0001, …",
                )
            )
        refuse_unusable(image, where)
        heads = self._labels.num_segmentation_heads
        turn = turn_for(self._reader, properties, where)
        spacing_mm = turn.of_lengths(properties["spacing"])
        return InferenceDemand(turn.forth(image), spacing_mm, self.plans, self.configuration, heads)

    def first_fold(self) -> SlidingWindow:
        """Return the sliding window of the first fold, without mirroring, as a training looks at its cases."""
        self._network.load_state_dict(self._weights[0])
        return self._unmirrored

    def patch_seconds(self) -> PatchSeconds:
        """Return how long the network takes for a patch on this machine, tried with one."""
        patch = self.configuration.patch_size
        image = torch.zeros((self.channels, *[1] * (3 - len(patch)), *patch))
        self._window.logits(image)  # the first one is slower
        begun = monotonic()
        self._window.logits(image)
        masks_s = monotonic() - begun
        self.first_fold().logits(image)
        return PatchSeconds(masks_s, PASSES * (monotonic() - begun - masks_s))

    def _preprocessed(
        self, image: np.ndarray, properties: Properties, configuration: ConfigurationManager
    ) -> tuple[np.ndarray, Properties]:
        data, _, properties = preprocessor_of(configuration).run_case_npy(
            image, None, properties, self.plans, configuration, self.dataset_json
        )
        return data, properties

    def _in_slabs(self, image: np.ndarray, properties: Properties, count: int, margin: int, where: str) -> np.ndarray:
        """Segment an image whose slabs are brought to the network's grid and back one after the other.

        Its intensities are normalized as a whole, as those of the training were.
        """
        spacing_mm = [float(properties["spacing"][axis]) for axis in self.plans.transpose_forward]
        kept = len(spacing_mm) - len(self.configuration.spacing)
        # On the scan's own grid nothing is resampled.
        own = ConfigurationManager({**self.configuration.configuration, "spacing": spacing_mm[kept:]})
        data, properties = self._preprocessed(image, properties, own)
        target_mm = [*spacing_mm[:kept], *self.configuration.spacing]
        inside = np.zeros(data.shape[1:], dtype=dtype_of_masks(self._labels))
        for slab in split_into_slabs(data.shape[1], count, margin):
            part = data[:, slab.begin : slab.end]
            shape = part.shape[1:]
            grid = np.maximum(compute_new_shape(shape, spacing_mm, target_mm), 1)
            resampled = self.configuration.resampling_fn_data(part, grid, spacing_mm, target_mm)
            logits = self._window.logits(torch.from_numpy(np.ascontiguousarray(resampled)), where)
            found = mask_inside(logits, shape, spacing_mm, self.configuration, self._labels)
            inside[slab.first : slab.last] = found[slab.first - slab.begin : slab.last - slab.begin]
        return on_scan(inside, self.plans, properties)


def _refuse_unfit(configuration: ConfigurationManager, channels: int, model: Path) -> None:
    """Refuse the second stage of a cascade, and normalization for other channels than the model has.

    Raises:
        StateError: see above.
    """
    if configuration.previous_stage_name is not None:
        raise StateError(
            Problem(
                code="model.cascade",
                what="the second stage of a cascade, which takes the masks of the first one too",
                where=str(model),
                found=f"previous_stage {configuration.previous_stage_name}",
                fix="segment with nnUNetv2_predict and -prev_stage_predictions, or name a model of one stage",
            )
        )
    schemes = configuration.normalization_schemes
    if len(schemes) != channels:
        raise StateError(
            Problem(
                code="model.channels",
                what="plans and dataset.json of the model name other channels",
                where=str(model),
                expected=f"{channels}, as dataset.json has",
                found=f"{len(schemes)} normalization_schemes",
                fix="restore both files from the model's source",
            )
        )
