"""Estimate what a prediction would do and take: ``pclauto predict --dry-run``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcl_auto.data.formats.scans import Scan
from pcl_auto.inference.predict import NOWHERE, Outputs, Prediction, PredictionJob, attempt
from pcl_auto.workspace.processes import output_to
from pcl_auto.workspace.run_record import finished_folds, model_folder


@dataclass(frozen=True)
class MaskEstimate:
    """Expected outcome of a scan, and what segmenting it takes; None where nothing is to be segmented.

    ``memory_mb``: beside the image (2^20 bytes). ``wall_s``: of the network alone.
    """

    scan: Prediction
    memory_mb: int | None = None
    wall_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the estimate as plain values."""
        return {**self.scan.as_dict(), "memory_mb": self.memory_mb, "wall_s": self.wall_s}


def estimate_prediction(
    inputs: Sequence[Path],
    output: Path,
    model: Path,
    outputs: Outputs,
    *,
    device: str = "auto",
    mirroring: bool = True,
    overwrite: bool = False,
) -> list[MaskEstimate]:
    """Estimate what would become of every scan: ``done``, ``kept`` where its mask is there, ``failed``, ``skipped``.

    Every scan is read, so that what is wrong with one is known now; the network is tried with one patch.

    Raises:
        StateError, UsageError: see :class:`pcl_auto.inference.predict.PredictionJob`.
    """
    job = PredictionJob(inputs, output, model, outputs, device=device, mirroring=mirroring, overwrite=overwrite)
    with output_to(NOWHERE):
        from pcl_auto.nnunet.data.images import read_image

        seconds = job.predictor.patch_seconds()

        def estimate(scan: Scan, name: str) -> MaskEstimate:
            where = str(scan.files[0])
            demand = job.predictor.demand(*read_image(scan.files), where)
            slabs = demand.slabs_that_fit(where)
            # A scan in slabs has no confidence.
            patch_s = seconds.masks + (seconds.confidence if outputs.quality and slabs == 1 else 0.0)
            done = Prediction(scan.id, str(job.masks.folder / name), "done", slabs=slabs)
            return MaskEstimate(done, demand.needed_mb(slabs), round(patch_s * demand.patches(slabs), 1))

        found = [attempt(scan, lambda scan: job.decide(scan, estimate)) for scan in job.scans]
    return [entry if isinstance(entry, MaskEstimate) else MaskEstimate(entry) for entry in found]


def mask_commands(model: Path, output: Path, *, device: str, mirroring: bool) -> tuple[str, ...]:
    """Return what segments scans with ``model`` in stock nnU-Net, in a shell prepared by ``pclauto env --export``."""
    folds = [file.parent.name.removeprefix("fold_") for file in finished_folds(model)]
    folder = str(model_folder(model))
    command = ["nnUNetv2_predict_from_modelfolder", "-i", "SCANS", "-o", str(output), "-m", folder, "-f", *folds]
    return (shlex.join([*command, "-device", device, *([] if mirroring else ["--disable_tta"])]),)
