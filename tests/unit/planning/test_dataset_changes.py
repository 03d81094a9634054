"""What dataset.json says otherwise than when it was planned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import small_task

from pcl_auto.data.dataset.decathlon import read_task
from pcl_auto.planning.dataset_changes import changed_description
from pcl_auto.planning.plan import Plan, PlanSettings

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    task, problems = read_task(small_task(tmp_path / "Task09_Small", test=1))
    assert task is not None
    assert not problems
    cases = {
        case.id: {
            "image": str(case.image.relative_to(task.root)),
            "label": str(case.label.relative_to(task.root)) if case.label else None,
            "source": case.source, "size": 1, "mtime_ns": 1, "shape": [1, 1, 1],
        }
        for case in task.cases
    }  # fmt: skip
    channels = {str(index): name for index, name in enumerate(task.channels)}
    return Plan(
        {
            "task": {"root": str(task.root)},
            "settings": PlanSettings().as_dict(),
            "cases": cases,
            "dataset_json": {"labels": task.labels, "channel_names": channels},
        }
    )


def changed(plan: Plan, change: Change, *, labeled: bool = True) -> list[str]:
    """Return what is found after ``change`` of the content, with the first labeled case in use."""
    file = plan.root / "dataset.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    first = next(case.id for case in plan.cases.values() if case.label)
    problems = changed_description(plan, [first], [first] if labeled else [])
    assert {problem.code for problem in problems} <= {"plan.dataset-json-changed"}
    return [problem.found for problem in problems]


def exchange_classes(content: dict[str, Any]) -> None:
    values = sorted(content["labels"])
    names = [content["labels"][value] for value in values]
    content["labels"] = dict(zip(values, [names[0], *reversed(names[1:])], strict=True))


def move_to_test(content: dict[str, Any]) -> None:
    content["test"] = [*content.get("test", []), content["training"].pop(0)["image"]]
    content.pop("numTraining", None)
    content.pop("numTest", None)


def exchange_labels(content: dict[str, Any]) -> None:
    first, second = content["training"][:2]
    first["label"], second["label"] = second["label"], first["label"]


def withdraw_label(content: dict[str, Any]) -> None:
    del content["training"][0]["label"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (exchange_classes, "labels: "),
        (lambda content: content.update(modality={"0": "CT"}), "channel_names: "),
        (move_to_test, "a test case"),
        (exchange_labels, " with labelsTr/"),
        (withdraw_label, ": no label"),
        (lambda content: (content["training"].pop(0), content.pop("numTraining", None)), ": not listed"),
    ],
)
def test_f101_what_changed_is_named(plan: Plan, change: Change, found: str) -> None:
    assert any(found in each for each in changed(plan, change))


@pytest.mark.parametrize(
    "change",
    [
        lambda _content: None,
        lambda content: content.update(description="another text"),
        lambda content: content["training"][1].pop("label"),  # of a case that is not in use
        lambda content: content["training"].reverse(),
    ],
)
def test_what_concerns_no_case_in_use_is_no_change(plan: Plan, change: Change) -> None:
    assert changed(plan, change) == []


@pytest.mark.parametrize("change", [withdraw_label, exchange_labels])
def test_labels_that_are_not_used_may_change(plan: Plan, change: Change) -> None:
    assert changed(plan, change, labeled=False) == []


def test_a_description_that_cannot_be_read_is_told(plan: Plan) -> None:
    (plan.root / "dataset.json").write_text("{")
    assert [problem.code for problem in changed_description(plan, [])] == ["dataset-json.invalid"]
    (plan.root / "dataset.json").unlink()
    assert changed_description(plan, []) == []
