"""From a split and a recipe to the plans file and the view that nnU-Net trains on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcl_auto.data.checks.probe import image_stats
from pcl_auto.data.labels import ignore_value
from pcl_auto.data.split import Split, from_dict
from pcl_auto.errors import Problem, StateError
from pcl_auto.nnunet.environment import prepare_environment
from pcl_auto.planning.make_plan import fill_store
from pcl_auto.planning.plan import Plan
from pcl_auto.recipe.settings import Network, Recipe
from pcl_auto.workspace.atomic import atomic_path
from pcl_auto.workspace.events import Listener
from pcl_auto.workspace.files import read_json, write_json
from pcl_auto.workspace.folders import DatasetFolder
from pcl_auto.workspace.processes import output_to


def record_split(split: Split, data: DatasetFolder) -> Path:
    """Write a split down, before anything is trained with it; one of that name must say the same.

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
    """A planned configuration with the recipe's batch size and network width."""
    changed = copy.deepcopy(configuration)
    if recipe.batch.patches:
        changed["batch_size"] = recipe.batch.patches
    if recipe.network != Network():
        network = changed["architecture"]["arch_kwargs"]
        # At least eight feature maps, in steps of eight: what GPUs compute fast.
        network["features_per_stage"] = [
            max(8, round(width * recipe.network.width / 8) * 8) for width in network["features_per_stage"]
        ]
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

    The only place before evaluation that opens labels, and it opens those of labeled and validation cases.

    Returns:
        the split's plans, without a name and our settings, and the name of the case store.
    """
    prepare_environment()
    from pcl_auto.nnunet.data import store

    cases = plan.cases
    labeled = labeled_files(plan, split.labeled)
    plans = copy.deepcopy(plan.nnunet)
    with output_to(data.log_file):
        plans["foreground_intensity_properties_per_channel"] = store.foreground_intensities(
            # Corrected later, a case changes nothing of how images are preprocessed: the network knows them so.
            [entry for entry in labeled if entry.case not in split.corrected],
            len(plan.dataset_json["channel_names"]),
            ignore_value(plan.dataset_json["labels"]),
        )
    key = fill_store(plan, plans, configuration, data, listener)
    how = store.Preprocessing(plans, configuration, plan.dataset_json)
    views = {data.labeled_view(split.name, configuration): labeled}
    if split.validation:
        views[data.validation_view(split.name, configuration)] = labeled_files(plan, split.validation)
    for view, files in views.items():
        record = {
            "store": key,
            "images": {entry.case: image_stats(*entry.images) for entry in files},
            "labels": {entry.case: image_stats(entry.label) for entry in files},
        }
        record_file = view.with_name(f"{view.name}.json")
        if store.holds_exactly(view, [entry.case for entry in files]) and (
            record_file.is_file() and read_json(record_file) == record
        ):
            continue
        with output_to(data.log_file):
            store.fill_labeled_view(how, files, data.store(key), view)
        write_json(record_file, record)
    for case in (*split.labeled, *split.validation):
        if case not in split.corrected:
            _keep_ground_truth(cases[case].label, data.path / "gt_segmentations" / f"{case}.nii.gz")
    plans["configurations"] = {configuration: with_recipe(plans["configurations"][configuration], recipe)}
    plans["configurations"][configuration]["data_identifier"] = str(
        data.labeled_view(split.name, configuration).relative_to(data.path)
    )
    return plans, key


def labeled_files(plan: Plan, ids: Sequence[str]) -> list[Any]:
    """The files of labeled cases, as the case store takes them."""
    from pcl_auto.nnunet.data.store import LabeledFiles

    cases = plan.cases
    found = []
    for case in ids:
        label = cases[case].label
        if label is None:
            raise ValueError(f"case {case} has no label")
        found.append(LabeledFiles(case, cases[case].files, label))
    return found


def _keep_ground_truth(label: Path | None, target: Path) -> None:
    """A copy of a label where nnU-Net's validation looks for it, in the format it expects."""
    import SimpleITK

    if label is None or (target.is_file() and target.stat().st_mtime_ns >= label.stat().st_mtime_ns):
        return
    with atomic_path(target) as temporary:
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(label)), str(temporary))
