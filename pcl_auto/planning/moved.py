"""Tell a data set that was moved or copied from another one of the same name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcl_auto.data.case import Task
from pcl_auto.data.checks.check_files import Checks, image_stats, known_label
from pcl_auto.errors import Problem, UsageError, format_names
from pcl_auto.planning.plan import Plan
from pcl_auto.workspace.folders import DatasetFolder


def number_taken(taken: DatasetFolder, name: str, task: Task, found: str) -> Problem:
    """Say that the number of ``taken`` is not free for ``task``, which would be prepared under ``name``."""
    return Problem(
        code="plan.number-taken",
        what=f"number {taken.id} belongs to another data set",
        where=str(taken.path),
        expected=f"{name} made from {task.root}",
        found=found,
        fix="choose a free number with --dataset-id, or another folder with --workspace",
    )


def differing_at_a_glance(previous: Plan, task: Task) -> str:
    """Name what shows, before a file is read, that ``task`` is no copy of what was planned; empty if nothing does."""
    planned, now = previous.cases, {case.id: case for case in task.cases}
    if planned.keys() != now.keys():
        return f"{len(planned.keys() ^ now.keys())} cases are in one of them only"
    if unlike := [case for case, entry in planned.items() if (entry.label is None) != (now[case].label is None)]:
        return f"{len(unlike)} cases have a label in one of them only"
    resized = [case for case, entry in planned.items() if image_stats(*now[case].files)["size"] != entry.size]
    return f"other images ({format_names(resized)})" if resized else ""


def accept_moved(
    previous: Plan, task: Task, checks: Checks, known: Mapping[str, Any] | None, data: DatasetFolder
) -> Problem:
    """Make sure that ``task`` is the data set that was planned in another folder: it was moved, or copied.

    Returns:
        a warning that says so.

    Raises:
        UsageError: an image or a label has other bytes than the one that was planned.
    """
    other = [
        case
        for case, entry in previous.cases.items()
        if not checks.has_image_of(case, {"digest": entry.digest, "size": entry.size, "mtime_ns": entry.mtime_ns})
        or (entry.label is not None and not checks.has_label_of(case, known_label(known, case)))
    ]
    if other:
        found = f"{data.name} made from {previous.root}: other images or labels ({format_names(other)})"
        raise UsageError(number_taken(data, data.name, task, found))
    fix = "nothing: it has the same bytes, and what was made of it goes on"
    return Problem("plan.moved", "data set was planned in another folder", str(task.root), fix, str(previous.root))
