"""Prepare a split for training: its record, its plans, the case store and the views that nnU-Net trains on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcl_auto.data.checks.check_files import image_stats
from pcl_auto.data.labels import ignore_value
from pcl_auto.data.split import Split, from_dict
from pcl_auto.errors import Problem, StateError
from pcl_auto.nnunet.environment import prepare_environment
from pcl_auto.planning.make_plan import preprocess_images
from pcl_auto.planning.plan import Plan, PlannedCase, store_key
from pcl_auto.recipe.settings import Network, Recipe
from pcl_auto.workspace.atomic import atomic_path
from pcl_auto.workspace.events import Listener
from pcl_auto.workspace.files import read_json, write_json
from pcl_auto.workspace.folders import DatasetFolder
from pcl_auto.workspace.processes import output_to

if TYPE_CHECKING:
    from pcl_auto.nnunet.data.store import Preprocessing


def record_split(split: Split, data: DatasetFolder) -> Path:
    """Write the record of a split before anything is trained with it, and return its file.

    Raises:
        StateError: the record of that name holds other cases.
    """
    file = data.split_file(split.name)
    if not file.is_file():
        write_json(file, split.as_dict())
    elif from_dict(read_json(file)) != split:
        raise StateError(
            Problem(
                code="split.recorded-otherwise",
                what=f"split {split.name} was recorded with other cases",
                where=str(file),
                fix="restore the file, or remove it and the runs made with it",
            )
        )
    return file


def check_inputs_unchanged(plan: Plan, split: Split) -> None:
    """Make sure that the images are those that were planned; the labels of hidden cases are not looked at.

    Raises:
        StateError: images that are gone or differ in size or time, all of them listed.
    """
    problems = []
    cases = plan.cases
    for case in (*split.labeled, *split.validation, *split.unlabeled):
        planned = cases[case]
        if not all(file.is_file() for file in planned.files):
            finding = "the file is gone"
        elif image_stats(*planned.files) != {"size": planned.size, "mtime_ns": planned.mtime_ns}:
            finding = "another size or time"
        else:
            continue
        problems.append(
            Problem(
                code="plan.image-changed",
                what="image changed since it was planned",
                where=str(planned.image),
                found=finding,
                fix="restore the file, or run `pclauto plan` again",
            )
        )
    problems += [
        Problem(
            code="plan.label-gone",
            what="label is gone",
            where=str(label),
            fix="restore the file, or run `pclauto plan` again",
        )
        for label in (cases[case].label for case in (*split.labeled, *split.validation))
        if label is not None and not label.is_file()
    ]
    if problems:
        raise StateError(problems)


def with_recipe(configuration: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return a planned configuration with the recipe's batch size, network width and segmentation head."""
    changed = copy.deepcopy(configuration)
    if recipe.batch.patches:
        changed["batch_size"] = recipe.batch.patches
    if recipe.network != Network():
        network = changed["architecture"]["arch_kwargs"]
        # At least eight feature maps, in steps of eight: what GPUs compute fast.
        network["features_per_stage"] = [
            max(8, round(width * recipe.network.width / 8) * 8) for width in network["features_per_stage"]
        ]
    if recipe.contrast.head_convolutions:
        network = changed["architecture"]["arch_kwargs"]
        planned = network["n_conv_per_stage_decoder"]
        stages = [planned] * (network["n_stages"] - 1) if isinstance(planned, int) else planned
        # What the plan has stays c_θ of the paper; the head comes after it, at the resolution of the last stage.
        network["n_conv_per_stage_decoder"] = [*stages[:-1], stages[-1] + recipe.contrast.head_convolutions]
    return changed


def prepare_split(
    plan: Plan,
    split: Split,
    recipe: Recipe,
    data: DatasetFolder,
    *,
    configuration: str,
    listener: Listener,
) -> tuple[dict[str, Any], str]:
    """Make the case store and the views of a split.

    Between the checks of planning and an evaluation this alone opens labels: those of labeled and validation cases.

    Returns:
        the split's plans, without a name and our settings, and the name of the case store.
    """
    prepare_environment()
    from pcl_auto.nnunet.data import store

    with output_to(data.log_file):
        plans = _with_intensities(plan, split)
    key = preprocess_images(plan, plans, configuration, data, listener)
    prepared = store.Preprocessing(plans, configuration, plan.dataset_json), data.store(key)
    labeled_view = data.labeled_view(split.name, configuration)
    with output_to(data.log_file):
        _fill_view(labeled_view, _open(plan, split, split.labeled), *prepared)
        if split.validation:
            view = data.validation_view(split.name, configuration)
            _fill_view(view, _open(plan, split, split.validation), *prepared)
    for case in _open(plan, split, [*split.labeled, *split.validation]):
        if case.id not in split.corrected:
            _keep_ground_truth(case.label, data.path / "gt_segmentations" / f"{case.id}.nii.gz")
    chosen = with_recipe(plans["configurations"][configuration], recipe)
    plans["configurations"] = {configuration: {**chosen, "data_identifier": str(labeled_view.relative_to(data.path))}}
    return plans, key


def is_preprocessed(plan: Plan, split: Split, data: DatasetFolder, configuration: str) -> bool:
    """Tell whether every image is stored as the split needs it; for CT this opens labels of labeled cases."""
    prepare_environment()
    from pcl_auto.nnunet.data import store

    plans = _with_intensities(plan, split) if plan.depends_on_labels(configuration) else plan.nnunet
    folder = data.store(store_key(plans, configuration))
    return all(store.is_stored(folder, case) for case in plan.cases)


def _open(plan: Plan, split: Split, ids: Sequence[str]) -> list[PlannedCase]:
    """Return cases whose labels are about to be read; the split refuses those that it keeps closed."""
    split.refuse_closed_labels(ids)
    return [plan.cases[case] for case in ids]


def _with_intensities(plan: Plan, split: Split) -> dict[str, Any]:
    """Return nnU-Net's plans with the intensities of the split's labeled foreground."""
    from pcl_auto.nnunet.data import store

    plans = copy.deepcopy(plan.nnunet)
    plans["foreground_intensity_properties_per_channel"] = store.foreground_intensities(
        # Corrected later, a case changes nothing of how images are preprocessed: the network knows them so.
        _open(plan, split, [case for case in split.labeled if case not in split.corrected]),
        len(plan.dataset_json["channel_names"]),
        ignore_value(plan.dataset_json["labels"]),
    )
    return plans


def _fill_view(view: Path, cases: Sequence[PlannedCase], how: Preprocessing, folder: Path) -> None:
    """Fill a view of the case store in ``folder`` with labeled cases, unless its record says that it holds them."""
    from pcl_auto.nnunet.data import store

    record_file = view.with_name(f"{view.name}.json")
    record = {
        "store": folder.name,
        "images": {case.id: image_stats(*case.files) for case in cases},
        "labels": {case.id: image_stats(case.label) for case in cases if case.label is not None},
    }
    whole = store.holds_exactly(view, [case.id for case in cases])
    if not whole or not record_file.is_file() or read_json(record_file) != record:
        store.fill_labeled_view(how, cases, folder, view)
        write_json(record_file, record)


def _keep_ground_truth(label: Path | None, target: Path) -> None:
    """Copy a label to where nnU-Net's validation looks for it, in the format it expects."""
    import SimpleITK

    if label is None or (target.is_file() and target.stat().st_mtime_ns >= label.stat().st_mtime_ns):
        return
    with atomic_path(target) as temporary:
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(label)), str(temporary))
