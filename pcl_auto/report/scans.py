"""Choose the scans of a report and read their masks; labels that the split hides are never among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pcl_auto.data.formats.suffixes import find_volume
from pcl_auto.data.formats.volume import read_volume
from pcl_auto.errors import PclautoError
from pcl_auto.evaluation.scores import is_as_scored
from pcl_auto.inference.mask_record import MaskEntry, is_same_file, read_record, recorded_sources
from pcl_auto.nnunet.data.cases import StoredCases
from pcl_auto.nnunet.data.images import read_image
from pcl_auto.nnunet.data.labeled_cases import stored_spacing_mm
from pcl_auto.nnunet.data.pseudo_label_files import read_labels, round_folder
from pcl_auto.nnunet.data.store_records import is_stored
from pcl_auto.nnunet.data.store_records import read_record as read_stored
from pcl_auto.report.baseline import case_dice
from pcl_auto.report.overlays import PlanePictures, Volume, draw_planes
from pcl_auto.report.rounds import round_uses, why_unused
from pcl_auto.report.tables import BY_DICE, BY_NAME, STABLE, first_middle_last, heading
from pcl_auto.training.run_facts import Round, RunFacts
from pcl_auto.training.run_inputs import changed_images, changed_labels, used_cases
from pcl_auto.workspace.folders import DatasetFolder

MAX_LABELED = 2
PSEUDO_LABEL, PREDICTION, LABEL = "pseudo-label", "prediction", "label"


@dataclass(frozen=True)
class Panel:
    """A scan of the report: its ``role`` (best, …), the facts known of it, and its planes or the problem with them."""

    role: str
    case: str
    facts: str
    planes: list[PlanePictures]
    problem: str = ""


def pseudo_label_panels(run: RunFacts, data: DatasetFolder, max_slices: int) -> tuple[Round | None, list[Panel]]:
    """Show the most stable, median and least stable of the last round whose pseudo-labels are still there."""
    there = [(each, round_folder(run.folder, each.number).cases) for each in run.rounds]
    there = [(each, folder) for each, folder in there if folder.is_dir()]
    if not there:
        return None, []
    *earlier, (last, folder) = there
    panels, changed = [], changed_scans(run, data)
    is_used = not why_unused(round_uses(run), last.number)
    for role, row in first_middle_last(last.ranked(), STABLE if last.judged_by else BY_NAME):
        case = row["case"]
        judged = f"{heading(last.judged_by)} {float(row[last.judged_by]):.2f}, " if last.judged_by else ""
        facts = f"{judged}{'used' if is_used and row.get('used') == '1' else 'not used'}"
        first = next(((each.number, cases) for each, cases in earlier if is_stored(cases, case)), None)
        read = partial(_stored, folder, case, run, PSEUDO_LABEL, changed, first)
        panels.append(_panel(role, case, facts, run, read, max_slices))
    return last, panels


def labeled_panels(run: RunFacts, data: DatasetFolder, max_slices: int) -> list[Panel]:
    """Show the first labeled cases with the labels that the run learned from."""
    folder = data.labeled_view(run.split.name, run.identity["configuration"])
    changed = [*changed_scans(run, data), *changed_labels(run, data)]
    return [
        _panel("labeled", case, "", run, partial(_stored, folder, case, run, LABEL, changed), max_slices)
        for case in run.split.labeled[:MAX_LABELED]
    ]


def evaluated_panels(run: RunFacts, scores: Mapping[str, Any] | None, max_slices: int) -> list[Panel]:
    """Show the best, median and worst prediction of an evaluation, with the labels that it scored them by."""
    if scores is None:
        return []
    masks, labels = Path(scores["predictions"]), Path(scores["labels"])
    try:
        record = read_record(masks)
    except PclautoError:
        return []
    scans = {} if record is None else record.scans
    # A hidden label stays closed here even after somebody has scored by it.
    dice = {case: value for case, value in case_dice(scores).items() if case not in run.split.hidden}
    ranked = sorted((-value, case) for case, value in dice.items() if not math.isnan(value))
    panels = []
    for role, row in first_middle_last([{"case": case} for _, case in ranked], BY_DICE):
        case = row["case"]
        read = partial(_scored, case, masks, labels, scans, scores)
        panels.append(_panel(role, case, f"mean Dice {dice[case]:.3f}", run, read, max_slices))
    return panels


def _panel(role: str, case: str, facts: str, run: RunFacts, read: Callable[[], Volume], max_slices: int) -> Panel:
    """Draw a panel, or say why it cannot be shown: that files were moved since spoils no report."""
    try:
        volume = read()
        # Over the last pseudo-label the first one, over a prediction the truth.
        outlined = [LABEL, *list(volume.masks)[1:]]
        shown = draw_planes(volume, list(run.classes.values()), outlined, max_slices=max_slices)
    except (PclautoError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        return Panel(role, case, facts, [], f"cannot be shown: {_in_words(error)}")
    return Panel(role, case, facts, shown)


def _in_words(error: Exception) -> str:
    """Return what is wrong without the path of a file: paths stand in the record alone, and show names of users."""
    if isinstance(error, PclautoError):
        return error.problems[0].what
    if isinstance(error, OSError):
        return error.strerror or "a file cannot be read"
    return str(error) if isinstance(error, ValueError) else "its files are damaged"


def changed_scans(run: RunFacts, data: DatasetFolder) -> list[str]:
    """List the cases that are stored of another image now than the one that ``run`` was trained on."""
    found = {case: read_stored(data.store(run.store), case).get("image") for case in used_cases(run.split)}
    return changed_images(run, {case: image for case, image in found.items() if image}, data)


def _stored(
    folder: Path,
    case: str,
    run: RunFacts,
    name: str,
    changed: Collection[str],
    first: tuple[int, Path] | None = None,
) -> Volume:
    """Read a preprocessed case, its axes as in the scan's file, and its pseudo-label of the ``first`` round."""
    if case in changed:
        raise ValueError("scan or label is no longer the one that the run was trained on")
    image, _, _, properties = StoredCases(str(folder), [case]).load_case(case)
    back = np.argsort(run.plans["transpose_forward"])
    spacing = np.array(stored_spacing_mm(run.configuration["spacing"], run.plans))[back]
    masks = {name: read_labels(folder, case)}
    if first is not None:
        number, its_folder = first
        masks[f"{name} of round {number}"] = read_labels(its_folder, case)
    labels = {mask: values.transpose(back) for mask, values in masks.items()}
    direction = properties["sitk_stuff"]["direction"]
    return Volume(image[:].transpose(0, *(back + 1)), labels, spacing.tolist(), direction)


def _scored(case: str, masks: Path, labels: Path, scans: Mapping[str, MaskEntry], scores: Mapping[str, Any]) -> Volume:
    if not is_as_scored(scores, case, masks / scans[case].mask, find_volume(labels, case)):
        raise ValueError("mask or label is no longer the one that was scored")
    if not all(is_same_file(Path(path), state) for files in scans[case].files for path, *state in files):
        raise ValueError("the scan is no longer the one that was segmented")
    mask = read_volume(masks / scans[case].mask)
    image, _ = read_image(recorded_sources(scans[case]))
    arrays = {PREDICTION: mask.voxels[0], LABEL: read_volume(find_volume(labels, case)).voxels[0]}
    return Volume(image, arrays, list(reversed(mask.geometry.spacing_mm)), mask.geometry.direction)
