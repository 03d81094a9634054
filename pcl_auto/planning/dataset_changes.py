"""Make sure that a data set's dataset.json still says of the cases in use what it said when they were planned."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pcl_auto.data.case import Case, Task
from pcl_auto.data.dataset.decathlon import read_task
from pcl_auto.data.labels import meaning
from pcl_auto.errors import Problem
from pcl_auto.planning.plan import Plan

_FIX = "run `pclauto plan` again, or restore dataset.json"


def changed_description(plan: Plan, used: Collection[str], labeled: Collection[str] = ()) -> list[Problem]:
    """Return what ``dataset.json`` says otherwise than when it was planned: names and values, and of the cases in use.

    Cases that were added since, and labels of cases that a split hides, are no difference. A file that is gone says
    nothing. No image and no label is opened.

    Args:
        plan: of the data set.
        used: the cases whose images are used.
        labeled: those whose labels are used.
    """
    file = plan.root / "dataset.json"
    if not file.is_file():
        return []
    settings = plan.settings
    task, problems = read_task(plan.root, use_test_images=settings.use_test_images, follow_links=settings.follow_links)
    if task is None:
        return problems
    # An entry that is refused for another reason, as when its file is gone, is told where the file is used.
    unlisted = {problem.where for problem in problems if problem.code == "data.label-not-listed"}
    found = [*_other_meaning(plan, task), *_other_cases(plan, task, unlisted, used, labeled)]
    what = "dataset.json changed since it was planned"
    return [Problem("plan.dataset-json-changed", what, str(file), _FIX, expected, now) for expected, now in found]


def _other_meaning(plan: Plan, task: Task) -> Iterator[tuple[str, str]]:
    """Name classes, regions and channels that are others: as planned, and now."""
    described: dict[str, Any] = {
        "labels": task.labels,
        "regions_class_order": task.regions_class_order or None,
        "channel_names": dict(enumerate(task.channels)),
    }
    before, now = meaning(plan.dataset_json), meaning(described)
    yield from ((f"{key}: {before[key]}", f"{key}: {now[key]}") for key in before if before[key] != now[key])


def _other_cases(
    plan: Plan, task: Task, unlisted: Collection[str], used: Collection[str], labeled: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Name cases in use that are test cases now, or that have another label, or none: as planned, and now."""
    planned, now = Plan(plan.content).cases, {case.id: case for case in task.cases}
    test = {_named(case.image) for case in task.test}
    for name in sorted({*used, *labeled}):
        before = planned[name]
        if before.source != "imagesTs" and _named(before.image) in test:
            yield f"{name}: a case to train on", f"{name}: a test case"
        elif name in labeled and name not in plan.corrected and before.label is not None:
            after = now.get(name)
            if after is None and str(before.label) in unlisted:
                yield f"{name}: {_label(before)}", f"{name}: not listed"
            elif after is not None and before.label.is_file() and _label(before) != _label(after):
                yield f"{name}: {_label(before)}", f"{name}: {_label(after)}"


def _label(case: Case) -> str:
    return f"{_named(case.image)} with {_named(case.label)}" if case.label else "no label"


def _named(file: Path) -> str:
    """Return a file's name with that of its folder: the data set may be reached by another path."""
    return f"{file.parent.name}/{file.name}"
