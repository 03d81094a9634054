"""Make sure that a run and the plan are of the same images, classes and channels, before one is shown by the other.

A data set may be planned anew after a run was trained: its pseudo-labels lie on the images of before, and its network
has the classes of before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcl_auto.data.labels import meaning
from pcl_auto.data.split import Split
from pcl_auto.errors import Problem, StateError, format_names
from pcl_auto.planning.plan import Plan, PlannedCase
from pcl_auto.training.run_facts import RunFacts
from pcl_auto.workspace.files import read_json, read_kept
from pcl_auto.workspace.folders import DatasetFolder
from pcl_auto.workspace.run_record import refuse_changes
from pcl_auto.workspace.shapes import DATASET


def digest_of(values: Any) -> str:
    """Return one short value for plain ``values``."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def used_cases(split: Split) -> list[str]:
    """List the cases whose images a run learns from."""
    return sorted({*split.labeled, *split.validation, *split.unlabeled})


def content_digest(split: Split, images: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Return one value for what is in the files that a run learns from, wherever and since when they lie there.

    ``images``: by case, as of :func:`planned_images`. ``labels``: the digest of each label that it learns or chooses
    with.
    """
    return digest_of([[(case, images.get(case)) for case in used_cases(split)], sorted(labels.items())])


def planned_images(cases: Mapping[str, PlannedCase]) -> dict[str, Any]:
    """Return the digest of each image as it was planned; of a plan of version 0.2, size and time."""
    return {name: case.digest or [case.size, case.mtime_ns] for name, case in cases.items()}


def recorded_meaning(folder: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the outputs of the network in ``folder`` (of a fold) mean, by its ``record``.

    Of earlier versions, by the model folder's dataset.json, which nnU-Net's trainer has written; None before it has.
    """
    identity, file = record["identity"], folder.parent / "dataset.json"
    if "labels" in identity:
        return {key: identity.get(key) for key in meaning({"labels": {}})}
    return meaning(read_json(file, DATASET)) if file.is_file() else None


def refuse_other_meaning(folder: Path, record: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> None:
    """Make sure that the run in ``folder`` has the classes, regions and channels of a planned data set.

    Raises:
        StateError: every name and value that differs.
    """
    fix = (
        "give classes and channels the names and values back in dataset.json and run `pclauto plan` again, or train "
        "anew: `pclauto train --restart`"
    )
    now = meaning(dataset_json)
    refuse_changes(recorded_meaning(folder, record) or now, now, folder, fix)


def refuse_other_inputs(run: RunFacts, plan: Plan, data: DatasetFolder) -> None:
    """Make sure that the plan has the images, classes and channels that ``run`` was trained on.

    All of its cases: what is corrected in one of them is learned together with the others. No file of an image is
    read; see :func:`pcl_auto.planning.inputs.require_planned_images`.

    Raises:
        StateError: other classes or channels; images that are others, or gone.
    """
    refuse_other_meaning(run.folder, run.record, plan.dataset_json)
    plan.require(used_cases(run.split))
    cases = plan.cases
    if changed := changed_images(run, planned_images(cases), data):
        exact = "images" in run.record
        what = "images are" if exact else "images, or labels, are"
        raise StateError(
            Problem(
                code="run.image-changed",
                what=f"{what} not those that the run was trained on",
                where=str(run.folder),
                expected="the images of the run's record",
                found=("" if exact else "some of ") + format_names(changed),
                fix="put them back and run `pclauto plan` again, or train anew: `pclauto train --restart`",
            )
        )


def changed_images(run: RunFacts, images: Mapping[str, Any], data: DatasetFolder) -> list[str]:
    """List the cases of ``run`` whose image is not the one that it was trained on.

    Early records have one value for all: where it differs, that may be any of the cases, and all are listed. Those of
    version 0.2 know nothing.

    Args:
        run: of which version ever.
        images: by case, as of :func:`planned_images`; one that is not known is taken to be the same.
        data: of the run.
    """
    used = used_cases(run.split)
    trained = run.record.get("images")
    if trained is not None:
        return [case for case in used if case in trained and images.get(case, trained[case]) != trained[case]]
    content, labels = run.identity.get("input_content"), _prepared_labels(run, data)
    if content is None or labels is None or not {*used} <= images.keys():
        return []
    return [] if content == content_digest(run.split, images, labels) else used


def changed_labels(run: RunFacts, data: DatasetFolder) -> list[str]:
    """List the cases that are prepared with another label now than the one that ``run`` has learned from, if known."""
    trained, prepared = run.record.get("labels", {}), _prepared_labels(run, data) or {}
    return [case for case in trained if prepared.get(case, trained[case]) != trained[case]]


def _prepared_labels(run: RunFacts, data: DatasetFolder) -> dict[str, str] | None:
    """Return the digests of the labels that the split of ``run`` was prepared with; None where they are not known."""
    configuration = run.identity["configuration"]
    views = [view(run.split.name, configuration) for view in (data.labeled_view, data.validation_view)]
    found: dict[str, str] = {}
    for view in views:
        record = read_kept(view.with_name(f"{view.name}.json"), {"cases": {...: {"label": str}}}) or {}
        found |= {case: entry["label"] for case, entry in record.get("cases", {}).items()}
    wanted: Sequence[str] = (*run.split.labeled, *run.split.validation)
    return {case: found[case] for case in wanted} if {*wanted} <= found.keys() else None
