"""A run and the plan are of the same images, classes and channels, or neither is shown by the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusal import refused
from report_files import write_run
from toy_plans import toy_plan
from toys import ramp, save

from pcl_auto.annotation.review import export_review
from pcl_auto.annotation.suggest import suggest_cases
from pcl_auto.data.checks.check_files import image_stats
from pcl_auto.data.labels import meaning
from pcl_auto.errors import StateError
from pcl_auto.nnunet.data.store_records import write_record
from pcl_auto.planning.plan import PlannedCase, write_plan
from pcl_auto.report.scans import changed_scans, labeled_panels, pseudo_label_panels
from pcl_auto.training.continuation import continuation
from pcl_auto.training.request import TrainRequest
from pcl_auto.training.run_facts import read_run
from pcl_auto.training.run_inputs import changed_images, changed_labels, content_digest, planned_images
from pcl_auto.workspace.events import silent
from pcl_auto.workspace.files import read_json, write_json
from pcl_auto.workspace.folders import DatasetFolder, Workspace

CASES = ("a", "b", "c", "d", "e")
IMAGES = {case: f"image of {case}" for case in CASES}
LABELS = {"a": "label of a", "b": "label of b"}
CLASSES = {"background": 0, "core": 1, "shell": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "work", "test")


@pytest.fixture
def data(workspace: Workspace) -> DatasetFolder:
    """A data set as it was planned when the run was trained."""
    found = DatasetFolder(workspace.preprocessed / "Dataset001_X")
    plan(found)
    place = found.labeled_view("L2_s0", "3d_fullres")
    entries = {case: {"image": IMAGES[case], "label": label} for case, label in LABELS.items()}
    write_json(place.with_name(f"{place.name}.json"), {"cases": entries})
    for case, image in IMAGES.items():
        write_record(found.store("s"), case, image, {})
    return found


def plan(
    data: DatasetFolder, images: dict[str, str] | None = None, labels: dict[str, Any] | None = None, **more: Any
) -> None:
    root = data.path.parent.parent / "Task01_X"
    cases = {}
    for case, digest in (images or IMAGES).items():
        file = root / "imagesTr" / f"{case}.nii.gz"
        if not file.is_file():
            save(file, ramp())
        cases[case] = {
            "image": f"imagesTr/{case}.nii.gz", "label": None, "source": "training", "shape": [5, 6, 7],
            **image_stats(file), **({"digest": digest} if digest else {}),
        }  # fmt: skip
    description = {"channel_names": {"0": "T2"}, "labels": labels or CLASSES, **more}
    content = toy_plan(root, "Dataset001_X", cases, description)
    write_plan(data, content)


def trained(workspace: Workspace, **record: Any) -> Path:
    """A finished run; ``record`` is added to its record, that of ``identity`` to its identity."""
    model = write_run(workspace.results, **record.pop("identity", {}))
    (model / "fold_all" / "checkpoint_final.pth").touch()
    file = model / "fold_all" / "run.json"
    write_json(file, {**read_json(file), **record})
    return model


def uses(model: Path, workspace: Workspace, elsewhere: Path) -> list[Callable[[], object]]:
    return [
        lambda: export_review(model, workspace, elsewhere),
        lambda: suggest_cases(model, workspace, elsewhere, device="cpu", listener=silent),
        lambda: continuation(model, workspace, TrainRequest(), write=False),
    ]


def test_f70_cases_whose_image_is_another_one_since_are_named(
    workspace: Workspace, data: DatasetFolder, tmp_path: Path
) -> None:
    model = trained(workspace, images=IMAGES)
    before = sorted(tmp_path.rglob("*"))
    plan(data, {**IMAGES, "b": "another", "d": "yet another"})
    for use in uses(model, workspace, tmp_path / "out"):
        with refused(StateError, "run.image-changed") as refusal:
            use()
        assert refusal.problem.found == "b, d"
    assert sorted(tmp_path.rglob("*")) == before
    plan(data)
    with refused(StateError, "review.no-correction"):  # it comes as far as that
        uses(model, workspace, tmp_path / "out")[2]()


def test_f70_a_case_that_is_planned_no_more(workspace: Workspace, data: DatasetFolder, tmp_path: Path) -> None:
    plan(data, {case: digest for case, digest in IMAGES.items() if case != "d"})
    for use in uses(trained(workspace, images=IMAGES), workspace, tmp_path / "out"):
        with refused(StateError, "plan.unknown-case") as refusal:
            use()
        assert refusal.problem.found == "d"


def test_f70_one_value_for_all_images_tells_that_some_have_changed(workspace: Workspace, data: DatasetFolder) -> None:
    split = read_run(trained(workspace) / "fold_all").split
    file = workspace.results.rglob("run.json").__next__()
    record = read_json(file)
    record["identity"]["input_content"] = content_digest(split, IMAGES, LABELS)
    write_json(file, record)
    run = read_run(file.parent)
    assert changed_images(run, IMAGES, data) == []
    assert changed_images(run, {**IMAGES, "d": "another"}, data) == list(CASES)
    model = file.parent.parent
    plan(data, {**IMAGES, "d": "another"})
    with refused(StateError, "run.image-changed"):
        continuation(model, workspace, TrainRequest(), write=False)
    # What it cannot know it does not refuse.
    view = data.labeled_view("L2_s0", "3d_fullres")
    view.with_name(f"{view.name}.json").unlink()
    assert changed_images(run, {**IMAGES, "d": "another"}, data) == []


def test_f70_runs_and_plans_of_version_02_know_no_digests(workspace: Workspace, data: DatasetFolder) -> None:
    old = trained(workspace)
    plan(data, {**IMAGES, "b": "another"})
    with refused(StateError, "review.no-correction"):
        continuation(old, workspace, TrainRequest(), write=False)


def test_f70_what_a_plan_knows_of_an_image() -> None:
    def case(digest: str) -> PlannedCase:
        return PlannedCase(
            id="a", image=Path("a"), label=None, source="training", size=7, mtime_ns=8, shape=(1,), digest=digest
        )

    assert planned_images({"a": case("d")}) == {"a": "d"}
    assert planned_images({"a": case("")}) == {"a": [7, 8]}


def test_f70_the_report_shows_no_image_that_the_run_has_not_seen(workspace: Workspace, data: DatasetFolder) -> None:
    run = read_run(trained(workspace, images=IMAGES, labels=LABELS) / "fold_all")
    assert changed_scans(run, data) == changed_labels(run, data) == []

    def hidden() -> list[str]:
        panels = [*pseudo_label_panels(run, data, 3)[1], *labeled_panels(run, data, 3)]
        return [panel.case for panel in panels if "no longer the one that the run was trained on" in panel.problem]

    assert hidden() == []
    for case in ("a", "c"):
        write_record(data.store("s"), case, "another", {})
    assert (changed_scans(run, data), hidden()) == (["a", "c"], ["c", "a"])
    view = data.labeled_view("L2_s0", "3d_fullres")
    write_json(
        view.with_name(f"{view.name}.json"),
        {"cases": {case: {"label": "other" if case == "b" else LABELS[case]} for case in LABELS}},
    )
    assert (changed_labels(run, data), hidden()) == (["b"], ["c", "a", "b"])


@pytest.mark.parametrize(
    ("labels", "more", "differing"),
    [
        ({"background": 0, "core": 2, "shell": 1}, {}, ["labels.core", "labels.shell"]),
        ({**CLASSES, "horns": 3}, {}, ["labels.horns"]),
        ({"background": 0, "core": 1, "rind": 2}, {}, ["labels.rind", "labels.shell"]),
        (CLASSES, {"channel_names": {"0": "CT"}}, ["channel_names.0"]),
        (CLASSES, {"channel_names": {"0": "T2", "1": "ADC"}}, ["channel_names.1"]),
        (REGIONS, {"regions_class_order": [1, 2]}, ["labels", "regions_class_order"]),
    ],
)
def test_f39_a_run_of_other_classes_or_channels_is_neither_shown_nor_gone_on_with(
    workspace: Workspace,
    data: DatasetFolder,
    tmp_path: Path,
    labels: dict[str, Any],
    more: dict[str, Any],
    differing: list[str],
) -> None:
    model = trained(workspace)
    for use in uses(model, workspace, tmp_path / "out")[2:]:
        with refused(StateError, "review.no-correction"):
            use()
    before = sorted(tmp_path.rglob("*"))
    plan(data, None, labels, **more)
    for use in uses(model, workspace, tmp_path / "out"):
        with refused(StateError, *["run.settings-changed"] * len(differing)) as refusal:
            use()
        assert [problem.what.removeprefix("the run there has another ") for problem in refusal.problems] == differing
    assert sorted(tmp_path.rglob("*")) == before


def test_f39_classes_in_another_order_are_the_same_and_regions_are_not() -> None:
    def of(labels: dict[str, Any], order: list[int] | None = None) -> dict[str, Any]:
        return meaning(json.loads(json.dumps({"labels": labels, "regions_class_order": order})))

    assert of(CLASSES) == of(dict(reversed(CLASSES.items()))) == of({**CLASSES, "core": [1]}, [1, 2])
    assert of(REGIONS, [1, 2]) != of(dict(reversed(REGIONS.items())), [2, 1])
    assert of(REGIONS, [1, 2]) != of(REGIONS, [2, 1])
