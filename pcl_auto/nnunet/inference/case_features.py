"""Describe whole scans by what a trained network makes of them: one vector, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pcl_auto.errors import Problem, StateError
from pcl_auto.nnunet.data import store_records
from pcl_auto.nnunet.data.cases import StoredCases
from pcl_auto.nnunet.inference.predictor import ModelPredictor
from pcl_auto.workspace.files import file_digest, read_kept, write_json

# Of the checkpoint's SHA-256, in the name of a folder.
_DIGITS = 12


@dataclass(frozen=True)
class CaseFeatures:
    """Features of a scan.

    ``vector``: the encoder's deepest features (F,), mean over the scan. ``expected_dice``: by the network itself.
    ``consistency``: Dice of its segmentation to those of the scan blurred and brightened.
    """

    vector: list[float]
    expected_dice: float
    consistency: float


def features_of(
    model: Path,
    checkpoint: Path,
    store: Path,
    cases: Sequence[str],
    kept: Path,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> dict[str, CaseFeatures]:
    """Return the features of stored ``cases``, from three passes of the sliding window each, without mirroring.

    Args:
        model: the model folder.
        checkpoint: of a fold in it.
        store: the folder of preprocessed cases; no label is in it.
        cases: in it.
        kept: a folder for what is found, by the digests of checkpoint and image: nothing is computed twice.
        device: for the network.
        progress: called with how many are done, and of how many.

    Raises:
        StateError: no such model or case, or a network without an encoder of stages.
        NumericalError: the network's output is not finite.
    """
    folder = kept / file_digest(checkpoint)[:_DIGITS]
    images, predictor, found = StoredCases(str(store), list(cases)), None, {}
    for index, case in enumerate(cases):
        file = folder / f"{case}.json"
        # A case may have been stored anew, of another image.
        image = store_records.read_record(Path(store), case).get("image", "")
        features = _read(file, image)
        if features is None:
            predictor = predictor or ModelPredictor(model, device, mirroring=False, checkpoint=checkpoint)
            features = _look(predictor, case, images.load_case(case)[0][:])
            write_json(file, {"image": image, **features.__dict__})
        found[case] = features
        progress(index + 1, len(cases))
    return found


def _read(file: Path, image: str) -> CaseFeatures | None:
    found = read_kept(file, {"vector": [float], "expected_dice": float, "consistency": float, "image?": str})
    if found is None or found.get("image", "") != image:
        return None
    return CaseFeatures(found["vector"], found["expected_dice"], found["consistency"])


def _look(predictor: ModelPredictor, case: str, image: np.ndarray) -> CaseFeatures:
    """Return the features of a preprocessed image (C, z, y, x)."""
    sums: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Tensor) -> None:
        sums.append(output.float().flatten(2).mean(2).sum(0))  # of a batch of patches, or of slices

    window = predictor.first_fold()
    hook = _deepest_stage(window.network).register_forward_hook(keep)
    try:
        logits = window.logits(torch.from_numpy(image), case)
    finally:
        hook.remove()
    # Every patch is of one size.
    vector = torch.stack(sums).mean(0)
    return CaseFeatures(vector.tolist(), *window.certainty_and_consistency(image, logits))


def _deepest_stage(network: Any) -> nn.Module:
    stages: nn.ModuleList | None = getattr(getattr(network, "encoder", None), "stages", None)
    if stages is None:
        raise StateError(
            Problem(
                code="model.features-unreachable",
                what="the network's features cannot be reached",
                where=type(network).__name__,
                expected="a U-Net with encoder.stages",
                fix="plan with --planner default, resenc-m or resenc-l",
            )
        )
    return stages[-1]
