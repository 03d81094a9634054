"""``pclauto plan``: read, check, fingerprint, plan, preprocess."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pcl_auto.data.case import Task
from pcl_auto.data.checks.probe import Checks, check_cases, image_stats
from pcl_auto.data.dataset.decathlon import read_task
from pcl_auto.data.formats.nifti import Volume
from pcl_auto.errors import DataError, Problem, UsageError
from pcl_auto.nnunet.environment import available_cores, prepare_environment
from pcl_auto.planning.given_plans import find_plans, read_plans
from pcl_auto.planning.plan import (
    MIN_PATCHES,
    SCHEMA_VERSION,
    Plan,
    PlanSettings,
    choose_configuration,
    name_preprocessor,
    neutral_intensities,
    read_plan,
    store_key,
    write_plan,
)
from pcl_auto.workspace.events import Listener, silent
from pcl_auto.workspace.files import read_json, write_json
from pcl_auto.workspace.folders import DATASET_NAME, DatasetFolder, Workspace
from pcl_auto.workspace.processes import output_to

# --- The fingerprint of a data set, from its images alone.

ZYX = (2, 1, 0)


def make_fingerprint(images: Mapping[str, Volume], spacings_zyx_mm: Mapping[str, tuple[float, ...]]) -> dict[str, Any]:
    """nnU-Net's fingerprint of ``images``: geometry of every case, labeled or not; no intensity, no label.

    Args:
        images: what the checks found of each case's image.
        spacings_zyx_mm: voxel spacing of each case as nnU-Net reads it, in mm, axes z, y, x.
    """
    shapes, relative_sizes = [], []
    for case in sorted(images):
        image = images[case]
        # nnU-Net crops to the nonzero region with its holes filled; filling moves no border.
        box = [image.nonzero_box[axis] for axis in ZYX]
        shape = [max(high - low, 1) for low, high in box]
        shapes.append(shape)
        relative_sizes.append(float(np.prod(shape) / np.prod(image.shape)))
    return {
        "spacings": [list(spacings_zyx_mm[case]) for case in sorted(images)],
        "shapes_after_crop": shapes,
        "foreground_intensity_properties_per_channel": {},
        "median_relative_size_after_cropping": float(np.median(relative_sizes)),
    }


# --- ``pclauto plan``: read, check, fingerprint, plan, preprocess.

# Decathlon tasks have numbers below 100; folders without one get the first free number from here.
FIRST_FREE_ID = 500


@dataclass(frozen=True)
class PlanOutcome:
    """What ``pclauto plan`` did: the plan, where it lies, and whether anything had to be done."""

    plan: Plan
    data: DatasetFolder
    up_to_date: bool
    warnings: list[Problem] = field(default_factory=list)


def plan_task(
    root: Path,
    workspace: Workspace,
    settings: PlanSettings,
    *,
    dataset_id: int | None = None,
    force: bool = False,
    dry_run: bool = False,
    listener: Listener = silent,
) -> PlanOutcome:
    """Check a decathlon folder, plan for it and preprocess its images, label-free.

    A plan that is up to date is returned as it is. With ``dry_run`` nothing is written.

    Raises:
        DataError: the folder cannot be used; every problem of it is listed.
        UsageError: settings that do not fit the data.
        ResourceError: the workspace cannot be written.
    """
    task, problems = read_task(root, use_test_images=settings.use_test_images, follow_links=settings.follow_links)
    if task is None:
        raise DataError(problems)
    data = dataset_folder(task, workspace, dataset_id)
    previous = read_plan(data) if data.plan_file.is_file() else None
    known = read_json(data.checks_file) if data.checks_file.is_file() else None
    checks = check_cases(
        task,
        threads=available_cores(),
        known=known,
        progress=_counter(listener, "check", _file_count(task)),
    )
    problems, warnings = [*problems, *checks.problems], checks.warnings
    if settings.skip_bad_unlabeled:
        task, problems, left_out = _leave_out_bad(task, problems)
        warnings = warnings + left_out
    if problems:
        raise DataError(problems)
    shared = previous.content.get("shared", False) if previous is not None else _is_foreign(data)
    if not dry_run:
        workspace.activate()
        write_json(data.checks_file, checks.as_dict())

    if settings.plans_file is not None:
        settings = replace(settings, plans_file=str(find_plans(settings.plans_file, data)))
    described = _describe(task, checks, data, settings)
    if (
        previous is not None
        and not force
        and all(previous.content.get(key) == value for key, value in described.items())
    ):
        if not dry_run:
            _fill_store(previous, data, listener)
            workspace.remember(last_dataset=data.name)
        return PlanOutcome(previous, data, up_to_date=True, warnings=warnings)

    content = {**_plan(task, checks, data, settings, described), "shared": shared}
    if dry_run:
        return PlanOutcome(Plan(content), data, up_to_date=False, warnings=warnings)
    _forget_changed_images(previous, Plan(content), data)
    _fill_store(Plan(content), data, listener)
    plan = write_plan(data, content)
    workspace.remember(last_dataset=data.name)
    return PlanOutcome(plan, data, up_to_date=False, warnings=warnings)


def _leave_out_bad(task: Task, problems: list[Problem]) -> tuple[Task, list[Problem], list[Problem]]:
    """The task without unlabeled cases whose image has a problem, the problems that remain, and those as warnings."""
    of_image = {str(file): case.id for case in task.unlabeled for file in case.files}
    bad = {of_image[problem.where] for problem in problems if problem.where in of_image}
    remaining = [problem for problem in problems if problem.where not in of_image]
    left_out = [
        replace(problem, what=f"unlabeled scan left out: {problem.what}")
        for problem in problems
        if problem.where in of_image
    ]
    return replace(task, cases=tuple(case for case in task.cases if case.id not in bad)), remaining, left_out


def dataset_folder(task: Task, workspace: Workspace, dataset_id: int | None) -> DatasetFolder:
    """The folder that ``task`` is prepared in: by its number and name, or a free number from 500.

    Raises:
        UsageError: another data set has that number or that folder.
    """
    name = task.name.replace(" ", "_")
    existing = {folder.id: folder for folder in _dataset_folders(workspace)}
    if dataset_id is None and task.number is None:
        same = [number for number, folder in existing.items() if folder.name.split("_", 1)[1] == name]
        dataset_id = same[0] if same else max([FIRST_FREE_ID - 1, *existing]) + 1
    number = dataset_id if dataset_id is not None else task.number
    folder = DatasetFolder(workspace.preprocessed / f"Dataset{number:03d}_{name}")
    taken = existing.get(folder.id)
    # Results alone are ours to add to: a data set's preprocessed folder can be made again. What nnU-Net has made of the
    # same raw folder is shared.
    same_raw = task.root == (workspace.raw / folder.name).resolve()
    foreign = taken is not None and _is_foreign(taken) and not same_raw
    other_source = (
        taken is not None and taken.plan_file.is_file() and read_json(taken.plan_file)["task"]["root"] != str(task.root)
    )
    if taken is not None and (taken.name != folder.name or foreign or other_source):
        raise UsageError(
            Problem(
                code="plan.number-taken",
                what=f"number {folder.id} belongs to another data set",
                where=str(taken.path),
                expected=f"{folder.name} made from {task.root}",
                found=taken.name if not other_source else f"{taken.name} made from another folder",
                fix="choose a free number with --dataset-id, or another folder with --workspace",
            )
        )
    return folder


def _is_foreign(data: DatasetFolder) -> bool:
    """Whether a preprocessed folder is there that is not ours."""
    return data.path.is_dir() and not data.pclauto_dir.is_dir()


def _dataset_folders(workspace: Workspace) -> list[DatasetFolder]:
    """Every data set that nnU-Net would find by number, ours or not."""
    names = {
        path.name
        for parent in (workspace.raw, workspace.preprocessed, workspace.results)
        if parent.is_dir()
        for path in parent.iterdir()
        if DATASET_NAME.fullmatch(path.name)
    }
    return [DatasetFolder(workspace.preprocessed / name) for name in sorted(names)]


def _file_count(task: Task) -> int:
    return len(task.cases) + len(task.labeled)


def _counter(listener: Listener, event: str, total: int) -> Callable[[], None]:
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        listener(event, {"done": done, "total": total})

    return advance


def _describe(task: Task, checks: Checks, data: DatasetFolder, settings: PlanSettings) -> dict[str, Any]:
    """What a plan depends on; a plan with the same description is up to date. No label's content is in it."""
    cases = {}
    for case in task.cases:
        volume = checks.images[case.id]
        cases[case.id] = {
            "image": str(case.image.relative_to(task.root)),
            "further": [str(file.relative_to(task.root)) for file in case.further],
            "label": None if case.label is None else str(case.label.relative_to(task.root)),
            "source": case.source,
            "shape": list(volume.shape),
            **image_stats(*case.files),
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "task": {"root": str(task.root), "name": task.name, "number": task.number},
        "settings": settings.as_dict(),
        "given_plans": None if settings.plans_file is None else _digest(Path(settings.plans_file)),
        "cases": cases,
        "test_images": [str(case.image.relative_to(task.root)) for case in task.test],
        "dataset_json": {
            "name": data.name,
            "channel_names": {str(index): name for index, name in enumerate(task.channels)},
            "labels": task.labels,
            **({"regions_class_order": list(task.regions_class_order)} if task.regions_class_order else {}),
            # nnU-Net keeps a batch below five percent of the images that training shows: all of them here.
            "numTraining": len(task.cases),
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "SimpleITKIO",
        },
    }


def _plan(
    task: Task, checks: Checks, data: DatasetFolder, settings: PlanSettings, described: dict[str, Any]
) -> dict[str, Any]:
    prepare_environment()
    from pcl_auto.nnunet.data import bias, images
    from pcl_auto.nnunet.planning import planner

    if settings.planner not in planner.PLANNERS:
        raise UsageError(
            Problem(
                code="plan.unknown-planner",
                what=f"no planner {settings.planner!r}",
                where="--planner",
                expected=" | ".join(planner.PLANNERS),
                fix="take one of these",
            )
        )
    spacings = {case.id: images.spacing_zyx_mm(case.image) for case in task.cases}
    fingerprint = make_fingerprint({case: checks.images[case] for case in spacings}, spacings)
    with output_to(Path("/dev/null")):
        if settings.plans_file is not None:
            plans = read_plans(Path(settings.plans_file), data, described["dataset_json"])
            memory_gb: Mapping[str, float | None] = dict.fromkeys(plans["configurations"])
        else:
            plans, memory_gb = planner.plan_network(
                data.name,
                described["dataset_json"],
                fingerprint,
                planner=settings.planner,
                memory_gb=settings.memory_gb,
                min_patches=MIN_PATCHES,
            )
    if settings.bias_correction:
        name_preprocessor(plans, bias.BiasCorrectingPreprocessor.__name__)
    plans["foreground_intensity_properties_per_channel"] = neutral_intensities(len(task.channels))
    configuration, reason = choose_configuration(settings.configuration, plans["configurations"], data.name)
    _refuse_tiny_images(plans["configurations"][configuration], task)
    return {
        **described,
        "configuration": configuration,
        "configuration_reason": reason,
        "step_memory_gb": memory_gb,
        "fingerprint": fingerprint,
        "nnunet_plans": plans,
    }


def _refuse_tiny_images(chosen: dict[str, Any], task: Task) -> None:
    """nnU-Net makes a network of one or two stages for them, whose deep supervision divides by zero."""
    if chosen["architecture"]["arch_kwargs"]["n_stages"] < 3:
        raise DataError(
            Problem(
                code="plan.images-too-small",
                what="the images are too small for a network",
                where=str(task.root),
                expected="a patch of 16 voxels or more along some axis",
                found=" x ".join(str(int(size)) for size in chosen["patch_size"]),
                fix="do not crop the images, or resample them to a finer spacing",
            )
        )


def _forget_changed_images(previous: Plan | None, plan: Plan, data: DatasetFolder) -> None:
    """Drop the stored form of images that are not what they were when they were stored."""
    if previous is None or not (data.pclauto_dir / "store").is_dir():
        return
    from pcl_auto.nnunet.data.store import remove_case

    now = plan.cases
    changed = [case for case, before in previous.cases.items() if now.get(case) != before]
    for store in (data.pclauto_dir / "store").iterdir():
        for case in changed:
            remove_case(store, case)


def _fill_store(plan: Plan, data: DatasetFolder, listener: Listener) -> None:
    """Preprocess what does not wait for a split."""
    if not plan.depends_on_labels(plan.configuration):
        fill_store(plan, plan.nnunet, plan.configuration, data, listener)


def fill_store(plan: Plan, plans: dict[str, Any], configuration: str, data: DatasetFolder, listener: Listener) -> str:
    """Preprocess every image of the pool that is not stored yet, and return the name of the store."""
    prepare_environment()
    from pcl_auto.nnunet.data.store import Preprocessing
    from pcl_auto.nnunet.data.store import fill_store as fill

    key = store_key(plans, configuration)
    cases = plan.cases
    voxels = float(sum(_product(case.shape) for case in cases.values()))
    with output_to(data.log_file):
        fill(
            Preprocessing(plans, configuration, plan.dataset_json),
            {case.id: case.files for case in cases.values()},
            data.store(key),
            voxels=voxels * len(plan.dataset_json["channel_names"]),
            processes=available_cores(),
            progress=lambda done, total: listener("preprocess", {"done": done, "total": total}),
        )
    return key


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
