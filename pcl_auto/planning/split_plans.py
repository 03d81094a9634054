"""Prepare a split for training: its record, its plans, the case store and the views that nnU-Net trains on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcl_auto.data.labels import ignore_value
from pcl_auto.data.split import Split, read_split
from pcl_auto.errors import Problem, StateError
from pcl_auto.nnunet.data.store_records import is_made_from, is_sound, is_whole_view
from pcl_auto.nnunet.environment import available_cores, prepare_environment
from pcl_auto.planning.ground_truth import holds_ground_truth, keep_ground_truth
from pcl_auto.planning.inputs import check_inputs, known_checks, untouched
from pcl_auto.planning.make_plan import image_digests, preprocess_images
from pcl_auto.planning.plan import Plan, PlannedCase, store_key
from pcl_auto.recipe.settings import Network, Recipe
from pcl_auto.workspace.events import Listener
from pcl_auto.workspace.files import file_digest, read_kept, write_json
from pcl_auto.workspace.folders import DatasetFolder
from pcl_auto.workspace.processes import output_to

if TYPE_CHECKING:
    from pcl_auto.nnunet.data.store import Preprocessing


_INTENSITIES = "foreground_intensity_properties_per_channel"


@dataclass(frozen=True)
class PreparedSplit:
    """A split that can be trained on.

    ``plans``: nnU-Net's, without a name and our settings. ``store``: the name of the case store. ``labels``: the
    digest of each labeled and validation case's label.
    """

    plans: dict[str, Any]
    store: str
    labels: dict[str, str]


def record_split(split: Split, data: DatasetFolder) -> Path:
    """Write the record of a split before anything is trained with it, and return its file.

    Raises:
        StateError: the record of that name holds other cases.
    """
    file = data.split_file(split.name)
    if not file.is_file():
        write_json(file, split.as_dict())
    elif read_split(file) != split:
        raise StateError(
            Problem(
                code="split.recorded-otherwise",
                what=f"split {split.name} was recorded with other cases",
                where=str(file),
                fix="restore the file, or remove it and the runs made with it",
            )
        )
    return file


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
) -> PreparedSplit:
    """Make the case store and the views of a split.

    Between the checks of planning and an evaluation this alone opens labels: those of labeled and validation cases.

    Raises:
        StateError, DataError: see :func:`pcl_auto.planning.inputs.check_inputs`.
    """
    prepare_environment()
    from pcl_auto.nnunet.data import store

    opened = _open(plan, split, [*split.labeled, *split.validation])
    with untouched(opened):
        # Once more: whoever prepared another run just now may have taken an hour.
        labels = check_inputs(plan, split, data)
        with output_to(data.log_file):
            plans = _with_intensities(plan, split)
        key = preprocess_images(plan, plans, configuration, data, listener)
        how, folder = store.Preprocessing(plans, configuration, plan.dataset_json), data.store(key)
        images = image_digests(plan, known_checks(data))
        labeled_view = data.labeled_view(split.name, configuration)
        views = {labeled_view: split.labeled, data.validation_view(split.name, configuration): split.validation}
        with output_to(data.log_file):
            for view, cases in views.items():
                made_from = {case: {"image": images[case], "label": labels[case].digest} for case in cases}
                if cases:
                    _fill_view(view, _open(plan, split, cases), made_from, how, folder)
        keep_ground_truth(
            data, {case.id: case.label for case in opened if case.id not in split.corrected and case.label}
        )
    digests = {case: labels[case].digest for case in labels}
    return PreparedSplit(_plans_of(split, plans, recipe, data, configuration), key, digests)


def prepared_before(
    plan: Plan,
    split: Split,
    recipe: Recipe,
    data: DatasetFolder,
    *,
    configuration: str,
    intensities: Mapping[str, Any],
    labels: Mapping[str, str],
) -> PreparedSplit | None:
    """Return what :func:`prepare_split` would, if all that it makes lies there as it was made; else None.

    It only looks, and needs neither nnU-Net nor torch.

    Args:
        plan: the plan.
        split: whose images and labels have been checked.
        recipe: of the run.
        data: the folder of the data set.
        configuration: one of the plan.
        intensities: of the split's labeled foreground, as they were found before. Whoever asks makes sure that they
            are of these images and labels.
        labels: the digest of each labeled and validation case's label.
    """
    plans = {**copy.deepcopy(plan.nnunet), _INTENSITIES: dict(intensities)}
    key = store_key(plans, configuration)
    folder, images = data.store(key), image_digests(plan, known_checks(data))
    with ThreadPoolExecutor(available_cores()) as pool:
        if not all(pool.map(lambda case: is_sound(folder, case, images[case]), images)):
            return None
    views = {
        data.labeled_view(split.name, configuration): split.labeled,
        data.validation_view(split.name, configuration): split.validation,
    }
    for view, cases in views.items():
        made_from = {case: {"image": images[case], "label": labels[case]} for case in cases}
        if cases and not _is_filled(view, made_from, folder):
            return None
    if not holds_ground_truth(data, {case: labels[case] for case in labels if case not in split.corrected}):
        return None
    return PreparedSplit(_plans_of(split, plans, recipe, data, configuration), key, dict(labels))


def _plans_of(
    split: Split, plans: Mapping[str, Any], recipe: Recipe, data: DatasetFolder, configuration: str
) -> dict[str, Any]:
    """Return nnU-Net's ``plans`` with the recipe's network and batch, and the split's labeled cases to train on."""
    view = str(data.labeled_view(split.name, configuration).relative_to(data.path))
    chosen = with_recipe(plans["configurations"][configuration], recipe)
    return {**plans, "configurations": {configuration: {**chosen, "data_identifier": view}}}


def prepare_masks(
    plan: Plan, prepared: PreparedSplit, masks: Mapping[str, Path], view: Path, data: DatasetFolder, configuration: str
) -> None:
    """Store masks of cases on the grids of their images, in the folder ``view``; labels of these cases stay closed."""
    from pcl_auto.nnunet.data import store

    made_from = _masks_made_from(plan, masks, data)
    cases = [replace(plan.cases[case], label=mask) for case, mask in masks.items()]
    how = store.Preprocessing(prepared.plans, configuration, plan.dataset_json)
    with output_to(data.log_file), untouched(cases):
        _fill_view(view, cases, made_from, how, data.store(prepared.store))


def holds_masks(plan: Plan, store: str, masks: Mapping[str, Path], view: Path, data: DatasetFolder) -> bool:
    """Tell whether ``view`` holds the masks as :func:`prepare_masks` leaves them, for the case store of that name."""
    return _is_filled(view, _masks_made_from(plan, masks, data), data.store(store))


def _masks_made_from(plan: Plan, masks: Mapping[str, Path], data: DatasetFolder) -> dict[str, Any]:
    images = image_digests(plan, known_checks(data))
    return {case: {"image": images[case], "label": file_digest(mask)} for case, mask in masks.items()}


def is_preprocessed(plan: Plan, split: Split, data: DatasetFolder, configuration: str) -> bool:
    """Tell whether every image is stored as the split needs it; for CT this opens labels of labeled cases."""
    prepare_environment()
    plans = _with_intensities(plan, split) if plan.depends_on_labels(configuration) else plan.nnunet
    folder = data.store(store_key(plans, configuration))
    images = image_digests(plan, known_checks(data))
    return all(is_made_from(folder, case, image) for case, image in images.items())


def _open(plan: Plan, split: Split, ids: Sequence[str]) -> list[PlannedCase]:
    """Return cases whose labels are about to be read; the split refuses those that it keeps closed."""
    split.refuse_closed_labels(ids)
    return [plan.cases[case] for case in ids]


def _with_intensities(plan: Plan, split: Split) -> dict[str, Any]:
    """Return nnU-Net's plans with the intensities of the split's labeled foreground."""
    from pcl_auto.nnunet.data import store

    plans = copy.deepcopy(plan.nnunet)
    plans[_INTENSITIES] = store.foreground_intensities(
        # Corrected later, a case changes nothing of how images are preprocessed: the network knows them so.
        _open(plan, split, [case for case in split.labeled if case not in split.corrected]),
        len(plan.dataset_json["channel_names"]),
        ignore_value(plan.dataset_json["labels"]),
    )
    return plans


def _fill_view(
    view: Path, cases: Sequence[PlannedCase], made_from: Mapping[str, Any], how: Preprocessing, folder: Path
) -> None:
    """Fill a view of the case store in ``folder`` with labeled cases, unless its record says that it holds them.

    ``made_from``: digest of image and label of each case.
    """
    from pcl_auto.nnunet.data import store

    if not _is_filled(view, made_from, folder):
        record_file = _record_file(view)
        record_file.unlink(missing_ok=True)
        files = store.fill_labeled_view(how, cases, folder, view)
        write_json(record_file, {**_record_of(made_from, folder), "files": files})


def _is_filled(view: Path, made_from: Mapping[str, Any], folder: Path) -> bool:
    """Tell whether a view holds these cases as its record says; one whose record cannot be read is made anew."""
    recorded = read_kept(_record_file(view), {}) or {}
    files = recorded.pop("files", None)
    return recorded == _record_of(made_from, folder) and is_whole_view(view, list(made_from), folder, files)


def _record_file(view: Path) -> Path:
    return view.with_name(f"{view.name}.json")


def _record_of(made_from: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return {"store": folder.name, "cases": dict(made_from)}
