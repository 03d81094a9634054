"""What a trained network sees in a whole scan: one vector, and how sure it is of its segmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcl_auto.errors import NumericalError, PclautoError, Problem
from pcl_auto.method.confidence import expected_dice
from pcl_auto.nnunet.data.cases import StoredCases
from pcl_auto.nnunet.inference.predictor import ModelPredictor
from pcl_auto.workspace.files import file_digest, read_json, write_json

# Of the checkpoint's SHA-256, in the name of a folder.
_DIGITS = 12


@dataclass(frozen=True)
class CaseFeatures:
    """What a network makes of a scan.

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
    """The features of stored ``cases``, three passes of the sliding window each, without mirroring.

    Args:
        model: the model folder.
        checkpoint: of a fold in it.
        store: the folder of preprocessed cases; no label is in it.
        cases: in it.
        kept: a folder for what is found, by the checkpoint's digest and by case: nothing is computed twice.
        device: for the network.
        progress: told how many are done, and of how many.

    Raises:
        StateError: no such model or case.
        NumericalError: the network's output is not finite.
    """
    folder = kept / file_digest(checkpoint)[:_DIGITS]
    images, predictor, found = StoredCases(str(store), list(cases)), None, {}
    for index, case in enumerate(cases):
        file = folder / f"{case}.json"
        features = _read(file)
        if features is None:
            predictor = predictor or ModelPredictor(model, device, mirroring=False, checkpoint=checkpoint)
            features = _look(predictor, case, images.load_case(case)[0][:])
            write_json(file, features.__dict__)
        found[case] = features
        progress(index + 1, len(cases))
    return found


def _read(file: Path) -> CaseFeatures | None:
    try:
        return CaseFeatures(**read_json(file)) if file.is_file() else None
    except (PclautoError, TypeError):  # damaged: it is made again
        return None


def _look(predictor: ModelPredictor, case: str, image: np.ndarray) -> CaseFeatures:
    """The features of a preprocessed image (C, z, y, x)."""
    sums: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Tensor) -> None:
        sums.append(output.float().flatten(2).mean(2).sum(0))  # of a batch of patches, or of slices

    hook = predictor.encoder.stages[-1].register_forward_hook(keep)
    try:
        logits = predictor.logits_without_mirroring(torch.from_numpy(image))
    except RuntimeError as error:
        if "Encountered inf" in str(error):
            raise _not_finite(case) from error
        raise
    finally:
        hook.remove()
    # What is no number would be taken for background, and for sure; one class after the other, to save memory.
    if not all(torch.isfinite(values).all() for values in logits):
        raise _not_finite(case)
    # Every patch is of one size.
    vector = torch.stack(sums).mean(0)
    sure = expected_dice(logits, regions=predictor.has_regions)
    return CaseFeatures(vector.tolist(), sure, predictor.consistency(image, logits))


def _not_finite(case: str) -> NumericalError:
    return NumericalError(
        Problem(
            code="number.output-not-finite",
            what="the network's output is no longer a number",
            where=case,
            fix="check the scan's intensities; if they are ordinary, train again",
        )
    )
