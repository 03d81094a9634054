"""Do one run of a benchmark: train, segment the test scans, score them."""

from __future__ import annotations

import math
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcl_auto.benchmark.pretrained_arm import with_pretraining
from pcl_auto.benchmark.test_cases import HeldOut
from pcl_auto.data.labels import values_of
from pcl_auto.errors import DataError, Problem, format_names
from pcl_auto.evaluation.metrics import CaseScore, Evaluation, evaluate, undeclared_values
from pcl_auto.evaluation.statistics import mean
from pcl_auto.inference.predict import predict
from pcl_auto.method.label_maps import Classes
from pcl_auto.training.request import TrainRequest
from pcl_auto.training.run_facts import read_events
from pcl_auto.training.train import train
from pcl_auto.workspace.events import Listener
from pcl_auto.workspace.folders import Workspace


@dataclass(frozen=True)
class Job:
    """Everything that a run needs to know.

    ``masks``: a folder for the masks while they are scored. ``ignored``: the value of label voxels to leave out.
    """

    request: TrainRequest
    workspace: Workspace
    held_out: HeldOut
    classes: Classes
    mirroring: bool
    masks: Path
    ignored: int | None = None


def do_job(job: Job, listener: Listener) -> dict[str, Any]:
    """Train, segment and score; return the scores by case, the cost and the folder of the model.

    The masks are removed once they are scored.

    Raises:
        DataError: a test scan or its label cannot be used.
        PclautoError: see :func:`pcl_auto.training.train.train`.
    """
    run = train(with_pretraining(job.request, job.workspace, listener), job.workspace, listener)
    files = [file for scan in job.held_out.scans for file in scan.paths]
    predictions = predict(
        files,
        job.masks,
        run.model,
        device=job.request.device,
        mirroring=job.mirroring,
        overwrite=True,
        listener=listener,
    )
    fix = "repair the scan, or take it and its label out of the test folders"
    problems = [
        Problem("benchmark.test-scan-failed", "test scan cannot be segmented", entry.id, fix, found=entry.error or "")
        for entry in predictions
        if entry.status == "failed"
    ]
    if problems:
        raise DataError(problems)
    found = evaluate(
        job.masks,
        job.held_out.labels,
        classes=job.classes,
        ignored=job.ignored,
        # The folder of the pool holds labels of other cases too, and what joins the others now is no test case yet.
        allow_missing=True,
    )
    _refuse_unscored(job, found)
    shutil.rmtree(job.masks)
    with suppress(OSError):  # masks of a run that failed lie there too
        job.masks.parent.rmdir()
    cases = [case_entry(case) for case in found.cases]
    return {
        "mean": {metric: mean(case[metric] for case in cases) for metric in ("dice", "hd95_mm")},
        "undefined": found.undefined,
        **cost(run.folder / "events.jsonl"),
        "model": str(run.model),
        "split": run.split.as_dict(),
        "labels": dict(run.labels),
        "cases": cases,
    }


def _refuse_unscored(job: Job, found: Evaluation) -> None:
    """Refuse scores that leave out a test case, or count values of no class as background.

    Labels of the pool are opened here for the first time; others may have changed since they were checked.

    Raises:
        DataError: they do.
    """
    labels, scored = job.held_out.labels, {case.id for case in found.cases}
    problems = undeclared_values(found.unscored_values, labels, {0, *_values(job)})
    if gone := sorted({scan.id for scan in job.held_out.scans} - scored):
        what, fix = "test cases without a label", "put their labels back, and repeat the command"
        problems.append(Problem("benchmark.test-label-gone", what, str(labels), fix, found=format_names(gone)))
    if problems:
        raise DataError(problems)


def _values(job: Job) -> set[int]:
    return {value for each in job.classes.values() for value in values_of(each)}


def case_entry(case: CaseScore) -> dict[str, Any]:
    """Return a case's means over its classes, and every class; NaN stands for a value that does not exist."""
    per_class = {name: {"dice": case.dice[name], "hd95_mm": case.hd95_mm[name]} for name in case.dice}
    return {
        "id": case.id,
        "dice": mean(case.dice.values()),
        "hd95_mm": mean(case.hd95_mm.values()),
        "per_class": per_class,
    }


def cost(events: Path) -> dict[str, float]:
    """Read the seconds and the memory of a training, its shared start included; NaN for what is not on record."""
    trained: list[dict[str, Any]] = [event for event in read_events(events) if event["event"] == "trained"]
    last = trained[-1] if trained else {}
    return {key: last.get(key, math.nan) for key in ("seconds", "memory_mb")}
