"""Export pseudo-labels to be corrected in an editor of masks: ``pclauto review``."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pcl_auto.data.formats.suffixes import split_suffix
from pcl_auto.data.palette import rgb
from pcl_auto.errors import Problem, StateError, UsageError
from pcl_auto.planning.inputs import require_planned_images
from pcl_auto.planning.plan import Plan, PlannedCase, read_plan
from pcl_auto.training.review_record import (
    CORRECTED,
    PSEUDO_LABELS,
    earlier_record,
    edited,
    exported_as,
    other_images,
    run_key,
)
from pcl_auto.training.run_facts import (
    RunFacts,
    last_round,
    read_confidences,
    read_unchanged_run,
    review_folders,
    run_folder,
)
from pcl_auto.training.run_inputs import refuse_other_inputs
from pcl_auto.workspace.atomic import atomic_path
from pcl_auto.workspace.files import file_digest, write_json, write_text
from pcl_auto.workspace.folders import DatasetFolder, Workspace, require_writable
from pcl_auto.workspace.lock import sole_writer
from pcl_auto.workspace.output import REVIEW_RECORD, refuse_input_folder, sole_writer_in
from pcl_auto.workspace.run_record import REVIEW, REVIEWS, is_fold

RECORD = REVIEW_RECORD
SCHEMA_VERSION = 1
_README = """Pseudo-labels to look at, made by {model}, round {round}.

1. Open images/{image} with pseudo_labels/CASE.nii.gz as its segmentation:
   ITK-SNAP: itksnap -g images/{image} -s pseudo_labels/CASE.nii.gz -l itk-snap-labels.txt
   3D Slicer: load both, the mask as a segmentation or label map, slicer-colors.ctbl as its color table.
2. Correct what is wrong, in every slice: the whole mask will stand for the case's label. Values: {values}.
3. Save it as corrected/CASE.nii.gz. What is not in corrected/ is not used.
4. pclauto continue{options}
"""


def worst_first(
    rows: Sequence[Mapping[str, str]], confidences: Mapping[str, float] = MappingProxyType({})
) -> list[str]:
    """Return the cases of a ledger, those first that most need a look.

    Those that the round did not use come first, then those with remarks; among them the least consistent first, by
    their Dice to the last round, or after the first round by the finished network's ``confidences``.
    """

    def order(row: Mapping[str, str]) -> tuple[Any, ...]:
        consistency = row.get("agreement") or row.get("dice_to_last_round") or confidences.get(row["case"], 1)
        return (row.get("used") == "1", not row.get("remarks"), float(consistency), row["case"])

    return [row["case"] for row in sorted(rows, key=order)]


def export_review(
    model: Path, workspace: Workspace, output: Path | None, *, number: int = 5, cases: Sequence[str] = ()
) -> tuple[Path, list[str]]:
    """Write images and pseudo-labels, on the images' own grids, where an editor of masks can open them.

    Args:
        model: a model folder of a run with rounds.
        workspace: where its data set is planned.
        output: the folder; None for ``review`` in the run's own.
        number: so many, the worst first.
        cases: these instead.

    Returns:
        the folder, and the cases in it, worst first.

    Raises:
        StateError: no pseudo-labels; a folder with other content, or with pseudo-labels that were edited in place;
            images or classes that are not the run's; files of the run that are not as its training left them.
        UsageError: cases without a pseudo-label, or a folder that others read.
        LockedError: another process writes into the folder.
    """
    run = read_unchanged_run(run_folder(model))
    last, _ = last_round(run)
    ranked = worst_first(last.rows, read_confidences(run.folder).cases)
    if unknown := [case for case in cases if case not in ranked]:
        fix, expected = "name unlabeled cases of the run", f"one of {len(ranked)}"
        raise UsageError(
            Problem("review.no-pseudo-label", "no pseudo-label", ", ".join(unknown), fix, expected=expected)
        )
    chosen = list(cases) or ranked[:number]
    folder = output_folder(output, run.folder / REVIEW, review=True)
    earlier_record(folder, RECORD, run.folder.parent, run_key(run))  # not even a lock goes into a folder of others
    data = workspace.dataset(run.identity["dataset"])
    plan = read_plan(data)
    refuse_other_inputs(run, plan, data)
    require_writable(run.folder, "review a copy of the model: its folder remembers where its pseudo-labels went")
    with sole_writer_in(folder):
        _export(
            run, plan, data, folder, chosen, _options(workspace, run.folder if is_fold(model) else run.folder.parent)
        )
    # Another review of this run may go elsewhere at this moment.
    with sole_writer(run.folder / REVIEWS, wait=True):
        write_json(run.folder / REVIEWS, {"folders": sorted({*review_folders(run.folder), str(folder)})})
    return folder, chosen


def output_folder(given: Path | None, default: Path, *, review: bool = False) -> Path:
    """Return the folder to write into: the ``default`` in the run's own, or one that was ``given``.

    Raises:
        UsageError: it is one that others read.
    """
    if given is not None and given.resolve() != default.resolve():
        refuse_input_folder(given, review=review)
    return (given or default).resolve()


def _export(run: RunFacts, plan: Plan, data: DatasetFolder, folder: Path, chosen: Sequence[str], options: str) -> None:
    """Write images and pseudo-labels of the cases that were ``chosen``; ``options`` are of what the user does next."""
    last, stored = last_round(run)
    earlier = earlier_record(folder, RECORD, run.folder.parent, run_key(run))
    _refuse_edited(folder, chosen, earlier)
    plan.require(chosen)
    planned = plan.cases
    require_planned_images(plan, chosen, data)
    if others := other_images(folder, earlier, plan, chosen, "choose another folder with -o"):
        raise StateError(others)
    from pcl_auto.nnunet.data.images import write_mask
    from pcl_auto.nnunet.data.pseudo_label_files import refuse_damaged
    from pcl_auto.nnunet.inference.export import pseudo_label

    refuse_damaged(stored.parent, chosen)

    exported, exporting, images = (dict(earlier.get(name, {})) for name in ("exported", "exporting", "images"))
    record = {
        "schema_version": SCHEMA_VERSION, "model": str(run.folder.parent), "run": run_key(run), "round": last.number,
        "exported": exported, "exporting": exporting, "images": images,
    }  # fmt: skip
    write_json(folder / RECORD, record)  # first: the folder is known as ours from now on
    (folder / CORRECTED).mkdir(exist_ok=True)
    for case in chosen:
        _copy_image(planned[case], folder / "images")
        if planned[case].digest:
            images[case] = planned[case].digest
        mask, properties = pseudo_label(run.folder.parent, run.identity["configuration"], stored, case)
        target = folder / PSEUDO_LABELS / f"{case}.nii.gz"
        with atomic_path(target) as temporary:
            write_mask(mask, temporary, properties)
            digest = file_digest(temporary)
            _refuse_edited(folder, [case], earlier, digest)  # an editor may have saved meanwhile
            # Both masks go on record: a kill leaves one of them, and neither is an edit.
            if target.is_file():
                exported[case] = file_digest(target)
            exporting[case] = digest
            write_json(folder / RECORD, record)
        exported[case] = exporting.pop(case)
    _write_colors(run.classes, folder)
    readme = _README.format(
        model=run.folder.parent.name,
        round=last.number,
        values=", ".join(f"{value} {name}" for name, value in {"background": 0, **run.classes}.items()),
        image=_image_name("CASE", planned[chosen[0]].files, 0),
        options=options,
    )
    write_text(folder / "README.txt", readme)
    write_json(folder / RECORD, record)


def _refuse_edited(folder: Path, cases: Sequence[str], record: Mapping[str, Any], new: str | None = None) -> None:
    """Refuse to write over masks of ``cases`` that are not as they were exported.

    Args:
        folder: of the review.
        cases: about to be exported.
        record: of what was exported before.
        new: SHA-256 of what is exported now. A mask that is not on record is refused if it is another one; without it,
            such a mask is left to a later look.
    """
    masks = {folder / PSEUDO_LABELS / f"{case}.nii.gz": exported_as(record, case) for case in cases}
    changed = [
        mask for mask, known in masks.items()
        if (known or new) and mask.is_file() and file_digest(mask) not in {*known, new}
    ]  # fmt: skip
    if changed:
        raise StateError(edited(changed, folder, "then `pclauto continue`; or choose another folder with -o"))


def _options(workspace: Workspace, model: Path) -> str:
    """Return the options that name this model from anywhere, and after other trainings."""
    root = workspace.preprocessed.parent
    option = f" --workspace {shlex.quote(str(root))}" if Workspace.at(root, workspace.origin) == workspace else ""
    return f"{option} --model {shlex.quote(str(model))}"


def _image_name(case: str, files: Sequence[Path], index: int) -> str:
    channel = f"_{index:04d}" if len(files) > 1 else ""
    return f"{case}{channel}{split_suffix(files[index].name)[1]}"


def _copy_image(case: PlannedCase, folder: Path) -> None:
    for index, file in enumerate(case.files):
        target = folder / _image_name(case.id, case.files, index)
        if not target.is_file() or file_digest(target) != file_digest(file):
            with atomic_path(target) as temporary:
                shutil.copyfile(file, temporary)


def _write_colors(classes: Mapping[str, int], folder: Path) -> None:
    """Write the classes' names and colors in the formats of ITK-SNAP and 3D Slicer."""
    rows = [(value, name, *rgb(index)) for index, (name, value) in enumerate(classes.items())]
    snap = ['0 0 0 0 0 0 0 "Clear Label"', *(f'{value} {r} {g} {b} 1 1 1 "{name}"' for value, name, r, g, b in rows)]
    write_text(folder / "itk-snap-labels.txt", "\n".join(snap) + "\n")
    slicer = ["0 background 0 0 0 0"]
    slicer += [f"{value} {name.replace(' ', '_')} {r} {g} {b} 255" for value, name, r, g, b in rows]
    write_text(folder / "slicer-colors.ctbl", "\n".join(slicer) + "\n")
