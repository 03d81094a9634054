"""Read the record of a review: whose pseudo-labels were exported, on which images, and with which bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pcl_auto.data.formats.suffixes import is_other_volume, nifti_stem
from pcl_auto.errors import Problem, StateError
from pcl_auto.planning.plan import Plan
from pcl_auto.training.run_facts import RunFacts, read_run, run_folders
from pcl_auto.training.run_inputs import digest_of, recorded_meaning
from pcl_auto.workspace.files import file_digest, read_json
from pcl_auto.workspace.output import REVIEW_RECORD, visible

# Folders of a review.
PSEUDO_LABELS, CORRECTED = "pseudo_labels", "corrected"
_DIGESTS = {...: str}
# ``exporting``: what is about to take the place of an exported mask. ``images``: SHA-256 of the images that the masks
# lie on, and ``run``: :func:`run_key`; records of version 0.2 and before have neither.
_SHAPE = {"model?": str, "run?": str, "exported?": _DIGESTS, "exporting?": _DIGESTS, "images?": _DIGESTS}


def run_key(run: RunFacts) -> str:
    """Return what makes the masks of a run its own, wherever it lies: its cases, its classes, how it was trained."""
    settings = ("dataset", "configuration", "trainer", "split", "seed", "fold", "start")
    own = [run.identity.get(name) for name in settings]
    return digest_of([*own, run.identity["recipe"]["name"], recorded_meaning(run.folder, run.record)])


def read_review(folder: Path) -> dict[str, Any]:
    """Read the record of a review's folder; empty where there is none.

    Raises:
        StateError: it is damaged.
    """
    file = folder / REVIEW_RECORD
    return dict(read_json(file, _SHAPE)) if file.is_file() else {}


def earlier_record(folder: Path, name: str, model: Path, key: str | None = None) -> dict[str, Any]:
    """Read the record ``name`` in ``folder`` that an earlier command has left; empty where the folder is new or empty.

    Args:
        folder: to write into.
        name: of the record.
        model: whose folder it is to be.
        key: of its run; a record without one is not compared.

    Raises:
        StateError: the folder holds something else, or is of another ``model``.
    """
    if not visible(folder):
        return {}
    file = folder / name
    found = read_json(file, _SHAPE) if file.is_file() else {}
    # A run's own folders are its own, wherever the workspace was when they were written.
    same = found.get("model") == str(model) or (found and folder.resolve().is_relative_to(model.resolve()))
    if not same or found.get("run", key) != key:
        raise StateError(
            folder_taken(folder, found, "choose another folder with -o", f"an empty folder, or a {name} of this model")
        )
    return dict(found)


def folder_taken(folder: Path, record: Mapping[str, Any], fix: str, expected: str) -> Problem:
    """Return the problem with a folder that holds something else than what a model's review has put there."""
    found = str(record.get("model", "files of another kind"))
    return Problem("review.folder-taken", "the folder holds something else", str(folder), fix, expected, found)


def is_review_of(record: Mapping[str, Any], folder: Path, runs: Iterable[Path]) -> bool:
    """Tell whether a review's ``folder`` with this ``record`` has pseudo-labels of one of the ``runs``, by folder."""
    return any(_is_of(record, folder, run) for run in runs)


def _is_of(record: Mapping[str, Any], folder: Path, run: Path) -> bool:
    own = _key_of(run)
    if own is not None and "run" in record:
        return bool(record["run"] == own)
    named, model = Path(record.get("model", "")), run.parent
    if named == model or folder.resolve().is_relative_to(model.resolve()):
        return True
    if others := run_folders(named):  # perhaps the workspace was copied
        return own is not None and own in map(_key_of, others)
    return named.parts[-2:] == model.parts[-2:]  # it was moved


def _key_of(run: Path) -> str | None:
    try:
        return run_key(read_run(run))
    except StateError:  # gone or damaged
        return None


def edited_in_place(folder: Path, record: Mapping[str, Any]) -> dict[Path, str]:
    """Find the masks among a review's exported pseudo-labels that a person saved there; return the SHA-256 of each."""
    place = folder / PSEUDO_LABELS
    files = [file for file in visible(place) if nifti_stem(file.name) is not None or is_other_volume(file.name)]
    digests = {file: file_digest(file) for file in files if file.is_file()}
    return {file: digest for file, digest in digests.items() if digest not in exported_as(record, _case_of(file))}


def exported_as(record: Mapping[str, Any], case: str) -> Collection[str]:
    """Return the SHA-256 of what was exported of a case: the mask that is there, or the one that was to replace it."""
    return {entries[case] for name in ("exported", "exporting") if case in (entries := record.get(name, {}))}


def _case_of(file: Path) -> str:
    # Exported are CASE.nii.gz alone.
    return file.name.removesuffix(".nii.gz") if file.name.endswith(".nii.gz") else ""


def edited(masks: Iterable[Path], folder: Path, then: str) -> list[Problem]:
    """Return the problem with each mask that was edited where it was exported; ``then`` ends what is to be done."""
    what = "a pseudo-label was edited where it was exported"
    fix = f"move it into {folder / CORRECTED}, {then}"
    return [Problem("review.edited-in-place", what, str(mask), fix) for mask in masks]


def other_images(folder: Path, record: Mapping[str, Any], plan: Plan, cases: Iterable[str], fix: str) -> list[Problem]:
    """Return the problem with each case that was exported with another image than the one that is planned now."""
    images, planned = record.get("images", {}), plan.cases
    what = "the masks of the case there were made on another image"
    return [
        Problem("review.image-changed", what, str(folder), fix, "the image that is planned", f"another one of {case}")
        for case in cases
        if case in images and case in planned and planned[case].digest and planned[case].digest != images[case]
    ]
