"""``pclauto plan``: read a data set, check it, measure it, choose network and patch, preprocess, record.

:func:`plan_task` does these steps one after the other; the rest of this file is what they need.
"""

from __future__ import annotations

import itertools
import math
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pcl_auto.data.case import Task
from pcl_auto.data.checks.check_files import Checks, check_cases, known_image
from pcl_auto.data.dataset.decathlon import read_task
from pcl_auto.data.formats.nifti import Volume
from pcl_auto.data.identity import Identity, identify
from pcl_auto.errors import DataError, Problem, StateError, UsageError
from pcl_auto.nnunet.environment import available_cores, prepare_environment
from pcl_auto.nnunet.pretrained.find import find_source
from pcl_auto.nnunet.trusted_plans import FILE_NAME
from pcl_auto.planning.inputs import known_checks
from pcl_auto.planning.moved import accept_moved, differing_at_a_glance, number_taken
from pcl_auto.planning.one_planner import claim, hold_models, is_foreign, sole_planner
from pcl_auto.planning.plan import (
    LABEL_DEPENDENT_SCHEMES,
    MIN_PATCHES,
    SCHEMA_VERSION,
    Plan,
    PlannedCase,
    PlanSettings,
    read_plan,
    require_whole,
    store_key,
    write_plan,
)
from pcl_auto.workspace.events import Listener, silent
from pcl_auto.workspace.files import file_digest, read_kept, write_json
from pcl_auto.workspace.folders import DATASET_NAME, DatasetFolder, Workspace
from pcl_auto.workspace.lock import sole_writer
from pcl_auto.workspace.processes import output_to

# Decathlon tasks have numbers below 100; folders without one get the first free number from here.
FIRST_FREE_ID = 500
# nnU-Net blurs patches with kernels that reach up to six voxels far, reflected at the borders.
MIN_PATCH_VOXELS = 7
# nnU-Net makes networks of one or two stages for tiny images; their deep supervision divides by zero.
MIN_STAGES = 3
# Letters of a name that had to be made plain: paths of models hold it together with much else.
_MAX_NAME = 100
ZYX = (2, 1, 0)
_NEUTRAL_INTENSITIES = {
    "mean": 0.0, "median": 0.0, "std": 1.0, "min": 0.0, "max": 0.0, "percentile_99_5": 0.0, "percentile_00_5": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class PlanOutcome:
    """A plan, the folder that it lies in, and whether it was up to date already."""

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
    """Check a data set, plan for it and preprocess its images, without a look at labels.

    A plan that is up to date is returned as it is. With ``dry_run`` nothing is written.

    Raises:
        DataError: the folder cannot be used; every problem of it is listed.
        UsageError: settings that do not fit the data, or a workspace that cannot be one.
        ResourceError: the workspace cannot be written.
        LockedError: another process plans the data set, or trains on what would change.
    """
    workspace.require_usable()
    task, problems = read_task(root, use_test_images=settings.use_test_images, follow_links=settings.follow_links)
    if task is None:
        raise DataError(problems)

    def choose() -> DatasetFolder:
        return dataset_folder(task, workspace, dataset_id)

    how: dict[str, Any] = {"force": force, "dry_run": dry_run, "listener": listener}
    if dry_run:
        return _plan_in(choose(), task, problems, workspace, settings, ExitStack(), **how)
    with sole_planner(workspace, choose) as (data, held):
        return _plan_in(data, task, problems, workspace, settings, held, **how)


def _plan_in(
    data: DatasetFolder,
    task: Task,
    problems: list[Problem],
    workspace: Workspace,
    settings: PlanSettings,
    held: ExitStack,
    *,
    force: bool,
    dry_run: bool,
    listener: Listener,
) -> PlanOutcome:
    """Do what :func:`plan_task` does in the folder ``data``, and add the locks that it takes to those ``held``."""
    previous, unknown = _previous(data, force=force)
    shared = is_foreign(data) if previous is None else previous.content.get("shared", False)
    known = known_checks(data)
    task, checks, warnings = _check(task, problems, known, settings, listener)
    if previous is not None and previous.root != task.root:
        warnings = [*warnings, accept_moved(previous, task, checks, known, data)]
    if not dry_run:
        claim(data, shared=shared)
        write_json(data.checks_file, checks.as_dict())
    _refuse_two_networks(settings)
    if settings.plans_file is not None:
        settings = replace(settings, plans_file=str(find_plans(settings.plans_file, data)))
    if settings.pretrained is not None:  # with the revision that a hub has now
        settings = replace(settings, pretrained=find_source(settings.pretrained).address)
    inputs = _describe_inputs(task, checks, data, settings, previous)
    up_to_date = previous is not None and not force and previous.is_made_from(inputs)
    if previous is not None and up_to_date:
        plan = Plan({**previous.content, **inputs})
    else:
        chosen = _choose_network(task, checks, data, settings, inputs["dataset_json"])
        plan = Plan({**inputs, **chosen, "shared": shared})
    if not dry_run:
        if data.plan_file.exists() and (previous is None or not plan.equals(previous)):
            hold_models(held, workspace, data)
        held.enter_context(sole_writer(data.pclauto_dir / "prepare", wait=True))
        if unknown:  # what was stored may be of other images
            shutil.rmtree(data.stores, ignore_errors=True)
        if not plan.depends_on_labels(plan.configuration):
            preprocess_images(plan, plan.nnunet, plan.configuration, data, listener)
        if previous is None or plan.content != previous.content:
            write_plan(data, plan.content)
        workspace.remember(last_dataset=data.name)
    return PlanOutcome(plan, data, up_to_date, warnings)


def _previous(data: DatasetFolder, *, force: bool) -> tuple[Plan | None, bool]:
    """Return the plan that is there, and whether there is one that cannot be read, which ``force`` replaces.

    Raises:
        StateError: it cannot be read, without ``force``.
    """
    if not data.plan_file.exists():
        return None, False
    try:
        plan = read_plan(data)
        require_whole(plan, data)
    except StateError:
        if not force:
            raise
        return None, True
    return plan, False


def dataset_folder(task: Task, workspace: Workspace, dataset_id: int | None) -> DatasetFolder:
    """Return the folder to prepare ``task`` in, by its number and name, or a free number from 500.

    Raises:
        UsageError: another data set has that number or that folder.
    """
    name = _plain_name(task)
    # Every data set that nnU-Net would find by number, ours or not.
    parents = [folder for folder in (workspace.raw, workspace.preprocessed, workspace.results) if folder.is_dir()]
    names = {path.name for parent in parents for path in parent.iterdir() if DATASET_NAME.fullmatch(path.name)}
    existing = {
        folder.id: folder for folder in (DatasetFolder(workspace.preprocessed / each) for each in sorted(names))
    }
    number = task.number if dataset_id is None else dataset_id
    if number is None:
        same = [number for number, folder in existing.items() if folder.name.split("_", 1)[1] == name]
        number = same[0] if same else max([FIRST_FREE_ID - 1, *existing]) + 1
    folder = DatasetFolder(workspace.preprocessed / f"Dataset{number:03d}_{name}")
    taken = existing.get(folder.id)
    if taken is None:
        return folder
    known = read_kept(taken.plan_file, {"task": {"root": str}})  # a damaged plan is refused, or replaced, later
    read_from = task.root if known is None else Path(known["task"]["root"])
    # Results alone are ours to add to: a data set's preprocessed folder can be made again. What nnU-Net has made of the
    # same raw folder is shared.
    foreign = is_foreign(taken) and task.root != (workspace.raw / folder.name).resolve()
    if taken.name != folder.name or foreign:
        raise UsageError(number_taken(taken, folder.name, task, taken.name))
    if read_from != task.root and (found := differing_at_a_glance(read_plan(taken), task)):
        raise UsageError(number_taken(taken, folder.name, task, f"{taken.name} made from {read_from}: {found}"))
    return folder


def _plain_name(task: Task) -> str:
    """Return the name of a data set in that of nnU-Net's folder, whatever letters its own folder's has."""
    name = task.name.replace(" ", "_")
    if FILE_NAME.fullmatch(f"Dataset{task.number or FIRST_FREE_ID:03d}_{name}"):
        return name
    return re.sub(r"[^A-Za-z0-9+-]+", "_", name).strip("_")[:_MAX_NAME].strip("_") or "data"


def _check(
    task: Task,
    problems: list[Problem],
    known: Mapping[str, Any] | None,
    settings: PlanSettings,
    listener: Listener,
) -> tuple[Task, Checks, list[Problem]]:
    """Check every file of the training pool.

    Returns:
        the task, without the unlabeled cases that are left out; what was found; and the warnings.

    Raises:
        DataError: problems that were known already, or are found now.
    """
    done, total = itertools.count(1), len(task.cases) + len(task.labeled)
    checks = check_cases(
        task,
        threads=available_cores(),
        known=known,
        progress=lambda: listener("check", {"done": next(done), "total": total}),
    )
    problems, warnings = [*problems, *checks.problems], checks.warnings
    if settings.skip_bad_unlabeled:
        of_image = {str(file): case.id for case in task.unlabeled for file in case.files}
        left_out = [problem for problem in problems if problem.where in of_image]
        problems = [problem for problem in problems if problem.where not in of_image]
        bad = {of_image[problem.where] for problem in left_out}
        task = replace(task, cases=tuple(case for case in task.cases if case.id not in bad))
        warnings = warnings + [
            replace(problem, what=f"unlabeled scan left out: {problem.what}") for problem in left_out
        ]
    if problems:
        raise DataError(problems)
    return task, checks, warnings


def _refuse_two_networks(settings: PlanSettings) -> None:
    """Refuse settings that ask for the networks of two sources.

    Raises:
        UsageError: they do, or for the spacing of none.
    """
    given = {
        "--plans": settings.plans_file is not None,
        "--planner": settings.planner != PlanSettings.planner,
    }
    both = [option for option, is_given in given.items() if is_given]
    if settings.pretrained is not None and both:
        what, fix = "two networks to plan", "keep one of them"
        raise UsageError(Problem("pretrained.two-plans", what, " and ".join(["--for", *both]), fix))
    if settings.pretrained is None and settings.pretrained_spacing:
        what, fix = "the spacing of no pre-training", "name the weights with --for, or leave it out"
        raise UsageError(Problem("pretrained.spacing-of-none", what, "--pretrained-spacing", fix))


def find_plans(name: str, data: DatasetFolder) -> Path:
    """Return the plans file called ``name``: a path, or nnU-Net's name of plans of this data set.

    Raises:
        UsageError: there is no such file; the plans that are there are named.
    """
    for candidate in (Path(name), data.plans_file(name)):
        if candidate.is_file():
            return candidate.resolve()
    there = sorted(file.stem for file in data.path.glob("*.json") if "plans" in file.stem.lower())
    raise UsageError(
        Problem(
            code="plan.unknown-plans",
            what=f"no plans {name!r}",
            where=str(data.path),
            expected=" | ".join(there) or "a plans file",
            fix="name one of these, or a file, with --plans",
        )
    )


def _describe_inputs(
    task: Task, checks: Checks, data: DatasetFolder, settings: PlanSettings, previous: Plan | None
) -> dict[str, Any]:
    """Describe everything that a plan depends on; no label's content is in it.

    Images that have the bytes of a ``previous`` plan keep its times: runs are known by them.
    """
    planned = {} if previous is None else previous.cases

    def relative(file: Path) -> str:
        return str(file.relative_to(task.root))

    cases = {
        case.id: {
            "image": relative(case.image),
            "further": [relative(file) for file in case.further],
            "label": None if case.label is None else relative(case.label),
            "source": case.source,
            "shape": list(checks.images[case.id].shape),
            **_image_facts(checks.image_identity(case.id), planned.get(case.id)),
        }
        for case in task.cases
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "task": {"root": str(task.root), "name": task.name, "number": task.number},
        "settings": settings.as_dict(),
        "given_plans": None if settings.plans_file is None else file_digest(Path(settings.plans_file)),
        **({} if settings.pretrained is None else {"pretrained": find_source(settings.pretrained).digest}),
        "cases": cases,
        "test_images": [relative(case.image) for case in task.test],
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


def _image_facts(image: Identity, planned: PlannedCase | None) -> dict[str, Any]:
    same = planned is not None and planned.digest == image.digest
    mtime_ns = planned.mtime_ns if planned is not None and same else image.state.mtime_ns
    return {"size": image.state.size, "mtime_ns": mtime_ns, "digest": image.digest}


def _choose_network(
    task: Task, checks: Checks, data: DatasetFolder, settings: PlanSettings, dataset_json: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fingerprint, nnU-Net's plans for it, the configuration to train, and why."""
    prepare_environment()
    from pcl_auto.nnunet.data import bias_field
    from pcl_auto.nnunet.planning import planner, pretrained_planner
    from pcl_auto.nnunet.pretrained import source

    fingerprint = make_fingerprint({case.id: checks.images[case.id] for case in task.cases})
    memory_gb: Mapping[str, float | None]
    with output_to(Path("/dev/null")):
        if settings.plans_file is not None:
            plans = planner.read_plans(Path(settings.plans_file), data.name, dataset_json)
            memory_gb = dict.fromkeys(plans["configurations"])
        elif settings.pretrained is not None:
            found = find_source(settings.pretrained)
            plans, memory_gb = pretrained_planner.plan_for(
                source.read_source(found.file, found.address),
                data.name,
                dataset_json,
                fingerprint,
                memory_gb=settings.memory_gb,
                min_patches=MIN_PATCHES,
                its_spacing=settings.pretrained_spacing,
            )
        else:
            plans, memory_gb = planner.plan_network(
                data.name,
                dataset_json,
                fingerprint,
                planner=settings.planner,
                memory_gb=settings.memory_gb,
                min_patches=MIN_PATCHES,
            )
    if settings.bias_correction:
        name_preprocessor(plans, bias_field.BiasCorrectingPreprocessor.__name__)
    plans["foreground_intensity_properties_per_channel"] = neutral_intensities(len(task.channels))
    configuration, reason = choose_configuration(settings.configuration, plans["configurations"], data.name)
    chosen = plans["configurations"][configuration]
    if chosen["architecture"]["arch_kwargs"]["n_stages"] < MIN_STAGES:
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
    return {
        "configuration": configuration,
        "configuration_reason": reason,
        "step_memory_gb": memory_gb,
        "fingerprint": fingerprint,
        "nnunet_plans": plans,
    }


def make_fingerprint(images: Mapping[str, Volume]) -> dict[str, Any]:
    """Return nnU-Net's fingerprint of ``images``, labeled or not: their geometry, no intensity, no label."""
    shapes, relative_sizes = [], []
    for case in sorted(images):
        image = images[case]
        # nnU-Net crops to the nonzero region with its holes filled; filling moves no border.
        box = [image.nonzero_box[axis] for axis in ZYX]
        shape = [max(high - low, 1) for low, high in box]
        shapes.append(shape)
        relative_sizes.append(float(np.prod(shape) / np.prod(image.shape)))
    return {
        "spacings": [[images[case].spacing_mm[axis] for axis in ZYX] for case in sorted(images)],
        "shapes_after_crop": shapes,
        "foreground_intensity_properties_per_channel": {},
        "median_relative_size_after_cropping": float(np.median(relative_sizes)),
    }


def neutral_intensities(channels: int) -> dict[str, dict[str, float]]:
    """Return intensity statistics of no label: nnU-Net reads them for every channel, uses them for CT alone."""
    return {str(channel): dict(_NEUTRAL_INTENSITIES) for channel in range(channels)}


def name_preprocessor(plans: Mapping[str, Any], name: str) -> None:
    """Name a preprocessor that corrects the bias field in every configuration of ``plans``.

    Raises:
        UsageError: the images are CT, whose intensities mean something as they are.
    """
    for configuration in plans["configurations"].values():
        if LABEL_DEPENDENT_SCHEMES & set(configuration["normalization_schemes"]):
            raise UsageError(
                Problem(
                    code="plan.ct-bias-correction",
                    what="CT has no bias field",
                    where="--bias-correction",
                    expected="images of MR alone",
                    fix="leave out --bias-correction",
                )
            )
        configuration["preprocessor_name"] = name


def choose_configuration(wanted: str, planned: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Return the configuration to train and the reason for it.

    Raises:
        UsageError: the one wanted was not planned, or its patches are too thin.
    """
    if wanted == "auto":
        if "3d_fullres" not in planned:
            return "2d", "the images have a single slice"
        if thin := _thinnest(planned["3d_fullres"]):
            return "2d", f"in 3D a patch would be {thin} voxels thin, less than nnU-Net's augmentation can blur"
        reason = "the images have more than one slice: 3D at full resolution"
        if "3d_lowres" in planned:
            seen, seen_in_lowres = (_share_seen(planned[name]) for name in ("3d_fullres", "3d_lowres"))
            reason += f" (a patch sees {seen:.0%} of the median image; 3d_lowres, planned too, {seen_in_lowres:.0%})"
        return "3d_fullres", reason
    if wanted not in planned:
        reasons = {
            "3d_lowres": "nnU-Net plans 3d_lowres where a patch sees less than a quarter of the median image",
            "3d_fullres": "the images have a single slice",
            "3d_cascade_fullres": "cascades are not trained: they learn from a first stage's masks of every case",
        }
        raise UsageError(
            Problem(
                code="plan.unknown-configuration",
                what=f"no configuration {wanted!r} for this data set",
                where=where,
                expected=" | ".join(planned),
                found=reasons.get(wanted, ""),
                fix="take one of these, or auto",
            )
        )
    if thin := _thinnest(planned[wanted]):
        raise UsageError(
            Problem(
                code="plan.patch-too-thin",
                what=f"patches of {wanted} are too thin",
                where=where,
                expected=f"{MIN_PATCH_VOXELS} voxels or more along every axis: nnU-Net's augmentation blurs them",
                found=str(thin),
                fix="take --configuration 2d",
            )
        )
    return wanted, "asked for"


def _share_seen(configuration: Mapping[str, Any]) -> float:
    """Return how much of the median image a patch covers."""
    return float(math.prod(configuration["patch_size"]) / math.prod(configuration["median_image_size_in_voxels"]))


def _thinnest(configuration: Mapping[str, Any]) -> int:
    """Return the shortest axis of a patch in voxels, if it is too short; else 0."""
    shortest = int(min(configuration["patch_size"]))
    return shortest if shortest < MIN_PATCH_VOXELS else 0


def image_digests(plan: Plan, known: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the digest of each case's image as it was planned; of a plan of version 0.2, as it is now."""

    def now(case: PlannedCase) -> str:
        try:
            return identify(case.files, known_image(known, case.id)).digest
        except OSError:
            return ""  # of no image

    return {case.id: case.digest or now(case) for case in plan.cases.values()}


def preprocess_images(
    plan: Plan, plans: Mapping[str, Any], configuration: str, data: DatasetFolder, listener: Listener
) -> str:
    """Preprocess every image of the pool that is not in its case store yet, and return the name of the store.

    Stored cases of another image, or with damaged files, are made anew.

    Args:
        plan: the plan, whose cases are taken.
        plans: nnU-Net's plans, those of ``plan`` or of a split of it.
        configuration: one of ``plans``.
        data: where the store lies.
        listener: hears of every case (``preprocess``).

    Raises:
        StateError: an image is not the one that was planned.
    """
    prepare_environment()
    from pcl_auto.nnunet.data.store import Preprocessing, fill_store

    key, cases = store_key(plans, configuration), plan.cases.values()
    with output_to(data.log_file):
        fill_store(
            Preprocessing(plans, configuration, plan.dataset_json),
            list(cases),
            image_digests(plan, known_checks(data)),
            data.store(key),
            voxels=sum(math.prod(case.shape) for case in cases) * len(plan.dataset_json["channel_names"]),
            processes=available_cores(),
            progress=lambda done, total: listener("preprocess", {"done": done, "total": total}),
        )
    return key
