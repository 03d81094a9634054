"""Find the masks that a training is to begin with, and check them as labels are checked.

They come from any other tool: a foundation model, an older network, an atlas. They teach as pseudo-labels do, never as
labels: the first round replaces them.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pcl_auto.data.checks.check_files import equal_labels
from pcl_auto.data.checks.shown_classes import absent_classes
from pcl_auto.data.split import Split
from pcl_auto.errors import DataError, Problem, StateError, UsageError, format_names
from pcl_auto.nnunet.environment import available_cores
from pcl_auto.planning.plan import Plan
from pcl_auto.recipe.settings import Recipe
from pcl_auto.training.mask_folder import judge_mask, masks_in, refuse_shared_files, warn_of_passed_over
from pcl_auto.workspace.files import file_digest
from pcl_auto.workspace.run_record import FINAL, RECORD

OPTION = "--initial-pseudo-labels"


@dataclass(frozen=True)
class InitialMasks:
    """Masks of unlabeled cases, and the SHA-256 of their files, by case; ``warnings`` of what was passed over."""

    files: Mapping[str, Path] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()

    @property
    def digest(self) -> str:
        """One short value for all of them."""
        return hashlib.sha256(json.dumps(dict(self.digests), sort_keys=True).encode()).hexdigest()[:6]

    def require_unchanged(self) -> None:
        """Make sure that the files are those that were checked.

        Raises:
            StateError: some are others, or gone.
        """
        changed = [case for case, file in self.files.items() if _digest_of(file) != self.digests[case]]
        if changed:
            what, fix = "masks changed while they were read", "wait until nothing writes them, and repeat the command"
            where = str(self.files[changed[0]].parent)
            raise StateError(Problem("mask.changed-meanwhile", what, where, fix, found=format_names(changed)))


def _digest_of(file: Path) -> str:
    """Return the digest of a file; nothing of one that cannot be read: who reads it next says why."""
    try:
        return file_digest(file) if file.is_file() else ""
    except OSError:
        return ""


def find_initial_masks(folder: Path, plan: Plan, split: Split, known: Mapping[str, Any] | None = None) -> InitialMasks:
    """Find the masks CASE.nii.gz of unlabeled cases in ``folder`` and check each on its image; nothing is written.

    ``known``: what the checks of ``pclauto plan`` have found, so that images that they know are not read again.

    Raises:
        UsageError: no such folder.
        DataError: masks that cannot be labels of their cases, all of them; or no mask of an unlabeled case.
    """
    if not folder.is_dir():
        fix = f"name a folder with masks CASE.nii.gz with {OPTION}"
        raise UsageError(Problem("mask.no-folder", "no folder of masks", str(folder), fix))
    masks, passed_over = masks_in(folder)
    warnings = warn_of_passed_over(folder, passed_over)
    files = {case: masks[case] for case in sorted(masks) if case in split.unlabeled}
    if others := sorted(masks.keys() - files.keys()):
        what = "masks that are not of unlabeled cases are passed over"
        fix = "nothing, if they were made along the way; else name them after unlabeled cases"
        warnings.append(Problem("mask.of-other-case", what, str(folder), fix, found=format_names(others, limit=5)))
    if not files:
        found = format_names([path.name for path in (*masks.values(), *passed_over)], limit=5) or "no file"
        fix = "name the masks after unlabeled cases"
        expected = f"{split.unlabeled[0]}.nii.gz, …" if split.unlabeled else "a split with unlabeled cases"
        raise DataError(Problem("mask.of-no-case", "no mask of an unlabeled case", str(folder), fix, expected, found))
    plan.require(files)
    cases = plan.cases
    opened = {case: cases[case] for case in (*split.labeled, *split.validation)}
    # Before one is opened: it may be the label of a hidden case.
    if problems := [*refuse_shared_files(files, opened, cases)]:
        raise DataError(problems)
    digests = {case: _digest_of(file) for case, file in files.items()}
    with ThreadPoolExecutor(available_cores()) as pool:
        labels = plan.dataset_json["labels"]
        judged = list(pool.map(lambda case: judge_mask(files[case], cases[case], labels, known), files))
    if problems := [problem for _, found_here in judged for problem in found_here]:
        raise DataError(problems)
    contents = {
        case: label.digest for case, (label, _) in zip(files, judged, strict=True)
        if label is not None and any(label.label_values or ())
    }  # fmt: skip
    counts = [label.label_values or {} for label, _ in judged if label is not None]
    warnings += [_never_shown(name, folder) for name in absent_classes(counts, labels)]
    return InitialMasks(files, digests, (*warnings, *equal_labels(contents, str(folder))))


def _never_shown(name: str, folder: Path) -> Problem:
    what = f"no mask shows class {name}, so that in the supervised epochs it is taught as background where it is"
    fix = "nothing, if these cases have none; else name masks that show it"
    return Problem("mask.class-absent", what, str(folder), fix, "1 voxel or more", "none")


def warn_of_other_masks(model: Path, masks: InitialMasks) -> list[Problem]:
    """Warn of unfinished models that differ from ``model`` in the ``masks`` alone: it begins anew beside them."""
    if not masks.files:
        return []
    named = glob.escape(model.name).replace(f"masks{masks.digest}", "masks*")
    others = [
        other.name for other in sorted(model.parent.glob(named))
        if other != model and any(not (record.parent / FINAL).is_file() for record in other.glob(f"fold_*/{RECORD}"))
    ]  # fmt: skip
    if not others:
        return []
    what = "the masks are not those that an unfinished training began with, so that another model begins"
    fix = "nothing, if they were to change; else restore the masks, and repeat the command"
    return [Problem("mask.others-before", what, str(model.parent), fix, found=format_names(others))]


def refuse_unused_masks(recipe: Recipe, *, supervised_only: bool, started: bool) -> None:
    """Refuse a training that would not learn from the masks it is given.

    Raises:
        UsageError: why it would not.
    """
    method = recipe.unlabeled_loss.method
    reasons = {
        "with --supervised-only labels alone teach": (supervised_only, "leave out one of the two"),
        "with --start-from a network makes the first pseudo-labels": (started, "leave out one of the two"),
        f"{method} has no pseudo-labels of a round": (method != "pseudo_labels", "choose another recipe"),
        "the recipe has no rounds": (not recipe.schedule.rounds, "choose another recipe"),
    }
    problems = [
        Problem("mask.not-learned-from", f"the masks would not be learned from: {why}", OPTION, fix)
        for why, (applies, fix) in reasons.items()
        if applies
    ]
    if problems:
        raise UsageError(problems)
