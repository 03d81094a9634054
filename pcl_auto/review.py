"""``pclauto review`` and ``pclauto train --continue``: pseudo-labels out to be corrected, corrections in as labels."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pcl_auto.data.labels import all_values
from pcl_auto.data.nifti import compare_grids, probe_channels, probe_label
from pcl_auto.data.split import Correction, Split, with_corrections
from pcl_auto.errors import DataError, Problem, StateError, UsageError
from pcl_auto.models import options
from pcl_auto.planning.plan import PlannedCase, read_plan
from pcl_auto.recipe import Recipe, Schedule, from_dict
from pcl_auto.report.facts import Round, RunFacts, read_run, run_folder, run_folders
from pcl_auto.request import TrainRequest
from pcl_auto.run.atomic import atomic_path
from pcl_auto.run.files import file_digest, read_json, write_json, write_text
from pcl_auto.run.lock import sole_writer
from pcl_auto.run.ranks import started_rank
from pcl_auto.run.workspace import DatasetFolder, Workspace

RECORD = "review.json"
# In the run's own folder, where none is named.
FOLDER = "review"
SCHEMA_VERSION = 1
_GZIPPED, _PLAIN = ".nii.gz", ".nii"
# Beside the run's record: the folders that its pseudo-labels were exported to.
FOLDERS = "reviews.json"
_COLOURS = ((230, 75, 53), (77, 187, 213), (0, 160, 135), (243, 155, 127), (60, 84, 136), (145, 209, 194))
_README = """Pseudo-labels to look at, made by {model}, round {round}.

1. Open images/{image} with pseudo_labels/CASE.nii.gz as its segmentation:
   ITK-SNAP: itksnap -g images/{image} -s pseudo_labels/CASE.nii.gz -l itk-snap-labels.txt
   3D Slicer: load both, the mask as a segmentation or label map, slicer-colors.ctbl as its colour table.
2. Correct what is wrong, in every slice: the whole mask will stand for the case's label. Values: {values}.
3. Save it as corrected/CASE.nii.gz. What is not in corrected/ is not used.
4. pclauto train --continue{options}
"""


@dataclass(frozen=True)
class Continuation:
    """What ``train --continue`` comes to: the run that it goes on from, the corrected cases, and the training.

    ``folds``: of that run, whose first one the network comes from. ``wall_s``: how long it takes if its epochs and
    pseudo-labels go as the last ones of that run; None where nothing is known of them.
    """

    model: Path
    folds: int
    masks: dict[str, Path]
    split: Split
    recipe: Recipe
    request: TrainRequest
    wall_s: float | None


def worst_first(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The cases of a ledger in the order in which somebody should look at them.

    Those that the round did not use, then those with remarks, each by their Dice to the last round.
    """

    def order(row: Mapping[str, str]) -> tuple[Any, ...]:
        steady = row.get("agreement") or row.get("dice_to_last_round") or "1"
        return (row.get("used") == "1", not row.get("remarks"), float(steady), row["case"])

    return [row["case"] for row in sorted(rows, key=order)]


def export_review(
    model: Path, workspace: Workspace, output: Path | None, *, number: int = 5, cases: Sequence[str] = ()
) -> tuple[Path, list[str]]:
    """Write images and pseudo-labels, on the images' own grids, where an editor of masks can open them.

    Args:
        model: a model folder of a run with rounds.
        workspace: where its data set is planned.
        output: the folder; None for :data:`FOLDER` in the run's own.
        number: so many, the worst first.
        cases: these instead.

    Returns:
        the folder, and the cases in it, worst first.

    Raises:
        StateError: no pseudo-labels; a folder with other content, or with pseudo-labels that were edited in place.
        UsageError: cases without a pseudo-label.
    """
    run = read_run(run_folder(model))
    last, stored = last_round(run)
    ranked = worst_first(last.rows)
    if unknown := [case for case in cases if case not in ranked]:
        raise UsageError(
            Problem("no pseudo-label", ", ".join(unknown), "name unlabelled cases of the run", f"one of {len(ranked)}")
        )
    chosen = list(cases) or ranked[:number]
    folder = (output or run.folder / FOLDER).resolve()
    record = {"schema_version": SCHEMA_VERSION, "model": str(run.folder.parent), "round": last.number}
    exported: dict[str, str] = {}
    if folder.is_dir() and any(folder.iterdir()):
        refuse_other_content(folder, RECORD, str(run.folder.parent))
        exported = read_json(folder / RECORD).get("exported", {})
        _refuse_edited(folder, chosen, exported)
    data = workspace.dataset(run.identity["dataset"])
    planned = read_plan(data).cases
    from pcl_auto.nnunet.review import write_pseudo_label

    # First, so that the folder is known as ours from then on, and without the digests of what is about to change: an
    # export that is killed is no edit.
    exported = {case: digest for case, digest in exported.items() if case not in chosen}
    write_json(folder / RECORD, {**record, "exported": exported})
    for case in chosen:
        _copy_image(planned[case], folder / "images")
        mask = write_pseudo_label(
            run.folder.parent, run.identity["configuration"], stored, case, folder / "pseudo_labels"
        )
        exported[case] = file_digest(mask)
    (folder / "corrected").mkdir(exist_ok=True)
    _write_colours(run.classes, folder)
    readme = _README.format(
        model=run.folder.parent.name,
        round=last.number,
        values=", ".join(f"{value} {name}" for name, value in {"background": 0, **run.classes}.items()),
        image=_image_name("CASE", planned[chosen[0]].files, 0),
        options=options(workspace, run.folder.parent),
    )
    write_text(folder / "README.txt", readme)
    write_json(folder / RECORD, {**record, "exported": exported})
    known = _review_folders(run.folder)
    write_json(run.folder / FOLDERS, {"folders": sorted({*known, str(folder)})})
    return folder, chosen


def _refuse_edited(folder: Path, cases: Sequence[str], exported: Mapping[str, str]) -> None:
    """An editor saves where it has read: what is not as it was exported is somebody's work."""
    masks = {case: folder / "pseudo_labels" / f"{case}{_GZIPPED}" for case in cases if case in exported}
    edited = [mask for case, mask in masks.items() if mask.is_file() and file_digest(mask) != exported[case]]
    if edited:
        fix = f"move it into {folder / 'corrected'}, then `pclauto train --continue`; or choose another folder with -o"
        raise StateError(
            [Problem("a pseudo-label was edited where it was exported", str(mask), fix) for mask in edited]
        )


def last_round(run: RunFacts) -> tuple[Round, Path]:
    """The last round whose pseudo-labels are there, and their folder.

    Raises:
        StateError: the run has come to none.
    """
    for last in reversed(run.rounds):
        stored = last.ledger.parent / "cases"
        if stored.is_dir() and last.rows:
            return last, stored
    raise StateError(
        Problem(
            what="the run has no pseudo-labels",
            where=str(run.folder),
            fix="name a run that has come to its first round with --model; a baseline makes none",
        )
    )


def refuse_other_content(folder: Path, name: str, model: str) -> None:
    """Make sure that the record ``name`` in a ``folder`` that is not empty is of the same ``model``.

    Raises:
        StateError: it is not.
    """
    file = folder / name
    found = read_json(file) if file.is_file() else {}
    if found.get("model") != model:
        raise StateError(
            Problem(
                what="the folder holds something else",
                where=str(folder),
                expected=f"an empty folder, or a {name} of the same model",
                found=str(found.get("model", "files of another kind")),
                fix="choose another folder with -o",
            )
        )


def _image_name(case: str, files: Sequence[Path], index: int) -> str:
    channel = f"_{index:04d}" if len(files) > 1 else ""
    return f"{case}{channel}{_GZIPPED if files[index].name.endswith('.gz') else _PLAIN}"


def _copy_image(case: PlannedCase, folder: Path) -> None:
    for index, file in enumerate(case.files):
        target = folder / _image_name(case.id, case.files, index)
        if not target.is_file():
            with atomic_path(target) as temporary:
                shutil.copyfile(file, temporary)


def _write_colours(classes: Mapping[str, int], folder: Path) -> None:
    """The classes' names and colours, in the formats of ITK-SNAP and 3D Slicer."""
    rows = [(value, name, *_COLOURS[index % len(_COLOURS)]) for index, (name, value) in enumerate(classes.items())]
    snap = ['0 0 0 0 0 0 0 "Clear Label"', *(f'{value} {r} {g} {b} 1 1 1 "{name}"' for value, name, r, g, b in rows)]
    write_text(folder / "itk-snap-labels.txt", "\n".join(snap) + "\n")
    slicer = ["0 background 0 0 0 0"]
    slicer += [f"{value} {name.replace(' ', '_')} {r} {g} {b} 255" for value, name, r, g, b in rows]
    write_text(folder / "slicer-colors.ctbl", "\n".join(slicer) + "\n")


def _review_folders(run: Path) -> list[str]:
    file = run / FOLDERS
    return list(read_json(file)["folders"]) if file.is_file() else []


def continuation(
    model: Path, workspace: Workspace, given: TrainRequest, *, corrected: Path | None = None, write: bool = True
) -> Continuation:
    """Take corrected masks up as labels, and say how the training of ``model`` goes on with them.

    The masks are checked as labels are when a data set is planned, and copied into the workspace. The run that they
    correct stays as it is: its network is the start of a new one, which has the rounds that were left of it, or where
    it is finished all of them again.

    Args:
        model: the run whose pseudo-labels were corrected.
        workspace: where its data set is planned.
        given: device and the like; ``epochs`` for all rounds together.
        corrected: a folder of :func:`export_review`; None for those that the run has on record.
        write: whether masks are copied; otherwise nothing is written.

    Raises:
        StateError: nothing is corrected, or the run has no round.
        DataError: masks that cannot be labels, all problems at once.
        LockedError: the run is still being trained.
    """
    run = read_run(run_folder(model))
    last_round(run)  # there is one
    data = workspace.dataset(run.identity["dataset"])
    # Of several processes of this command the first one asks.
    with sole_writer(run.folder.parent) if started_rank() == 0 else nullcontext():
        start = last_checkpoint(run.folder)
    masks = {case: mask for case, mask in _corrected_masks(run, corrected).items() if _is_new(run.split, case, mask)}
    if not masks:
        raise StateError(
            Problem(
                what="no corrected mask that is new",
                where=str(run.folder.parent),
                expected="corrected/CASE.nii.gz in a folder of `pclauto review`",
                fix="run `pclauto review`, save corrected masks there, and repeat the command",
            )
        )
    _check_masks(masks, data, run.split)
    round_number = run.rounds[-1].number
    corrections = [
        Correction(case, _digest(mask), run.split.name, run.folder.parent.name, round_number)
        for case, mask in sorted(masks.items())
    ]
    for entry in corrections if write else []:
        _keep(masks[entry.case], data.correction_file(entry.case, entry.mask))
    recipe = remaining(from_dict(run.identity["recipe"]), _epochs_done(run), given.epochs)
    split = with_corrections(run.split, corrections)
    request = replace(
        given,
        dataset=run.identity["dataset"],
        split=split,
        seed=run.identity["seed"],
        recipe=recipe,
        epochs=None,
        configuration=run.identity["configuration"],
        deterministic=run.identity["deterministic"],
        start_from=start,
    )
    folds = len(run_folders(run.folder.parent))
    seconds = _seconds_of(recipe.schedule, run)
    return Continuation(run.folder.parent, folds, masks, split, recipe, request, seconds)


def remaining(recipe: Recipe, epochs_done: int, epochs: int | None) -> Recipe:
    """The recipe of what follows: the rounds that are left, or after the last one all of them again.

    Args:
        recipe: of the run so far.
        epochs_done: of it.
        epochs: for all of the rounds together; None for as many as the recipe has.
    """
    schedule = recipe.schedule
    done = max(0, epochs_done - schedule.supervised_epochs) // schedule.epochs_per_round
    left = schedule.rounds - done if done < schedule.rounds else schedule.rounds
    name = recipe.name
    if epochs is not None:
        left = min(left, epochs)
        schedule = replace(schedule, epochs_per_round=epochs // left)
        name = f"{name}_e{epochs}"
    # The network knows the classes already: its last layer is not begun anew.
    contrast = replace(recipe.contrast, restart_head=False)
    return replace(recipe, name=name, schedule=replace(schedule, supervised_epochs=0, rounds=left), contrast=contrast)


def _seconds_of(schedule: Schedule, run: RunFacts) -> float | None:
    epochs, labeled = run.epochs, run.happened("pseudo_labels")
    if not epochs or not labeled:
        return None
    epoch_s, round_s = float(epochs[-1]["seconds"]), float(labeled[-1].get("seconds", 0))
    return schedule.epochs * epoch_s + schedule.rounds * round_s


def _epochs_done(run: RunFacts) -> int:
    return max((int(event["epoch"]) for event in run.epochs), default=0)


def last_checkpoint(folder: Path) -> Path:
    """The checkpoint that the run in ``folder`` (that of a fold) has come to.

    Raises:
        StateError: there is none.
    """
    for name in ("checkpoint_final.pth", "checkpoint_latest.pth"):
        if (folder / name).is_file():
            return folder / name
    raise StateError(Problem("no checkpoint", str(folder), "train first: `pclauto train`"))


def _corrected_masks(run: RunFacts, given: Path | None) -> dict[str, Path]:
    """The masks in ``corrected`` of every review folder of the run, by case."""
    # Those of the runs that it goes on from too: somebody may have corrected more since.
    before = [run.folder.parent.parent / entry.model / run.folder.name for entry in run.split.history]
    on_record = [folder for place in dict.fromkeys([*before, run.folder]) for folder in _review_folders(place)]
    folders = [given] if given is not None else [Path(folder) for folder in on_record]
    found = {}
    for folder in folders:
        found.update(_masks_in(folder / "corrected"))
    return found


def _masks_in(folder: Path) -> dict[str, Path]:
    """The masks in a folder, by case.

    Raises:
        DataError: files in a format that no label has, such as an editor's own.
    """
    files = sorted(file for file in folder.iterdir() if not file.name.startswith(".")) if folder.is_dir() else []
    found = {file.name.removesuffix(_GZIPPED).removesuffix(_PLAIN): file for file in files}
    if others := [file for case, file in found.items() if case == file.name]:
        fix = "save the mask from the editor as NIfTI, CASE.nii.gz, and remove this file"
        raise DataError([Problem("no NIfTI", str(file), fix) for file in others])
    return found


def _is_new(split: Split, case: str, mask: Path) -> bool:
    return split.corrected.get(case) != _digest(mask)


def _check_masks(masks: Mapping[str, Path], data: DatasetFolder, split: Split) -> None:
    """As labels are checked before planning: every problem at once, before anything is written."""
    plan = read_plan(data)
    allowed, cases = tuple(all_values(plan.dataset_json["labels"])), plan.cases
    problems: list[Problem] = []
    for case, mask in masks.items():
        if case not in split.unlabeled and case not in split.corrected:
            has_label = case in (*split.labeled, *split.validation)
            what = "the case has a label of its own" if has_label else "no such case"
            fix = (
                "correct the label in the data set and plan again" if has_label else "name masks after unlabelled cases"
            )
            problems.append(Problem(what, str(mask), fix))
            continue
        label, found = probe_label(mask, allowed)
        image, _ = probe_channels(cases[case].files)
        problems += found
        if label is not None and image is not None:
            problems += compare_grids(image, label)
        if label is not None and not any(value and count for value, count in (label.label_values or {}).items()):
            problems.append(Problem("the mask is empty", str(mask), "save the corrected mask, not a new one"))
    if problems:
        raise DataError(problems)


def _digest(mask: Path) -> str:
    """SHA-256 of a mask as it is kept: gzipped."""
    return file_digest(mask) if mask.name.endswith(_GZIPPED) else hashlib.sha256(_gzipped(mask)).hexdigest()


def _gzipped(mask: Path) -> bytes:
    return gzip.compress(mask.read_bytes(), mtime=0)


def _keep(mask: Path, target: Path) -> None:
    if target.is_file():
        return
    with atomic_path(target) as temporary:
        temporary.write_bytes(mask.read_bytes() if mask.name.endswith(_GZIPPED) else _gzipped(mask))
