"""Keep copies of labels where nnU-Net's validation looks for them, and see that it finds the labels that are meant."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pcl_auto.data.formats.nifti_bytes import GZIP_MAGIC
from pcl_auto.errors import Problem, StateError
from pcl_auto.workspace.atomic import atomic_path
from pcl_auto.workspace.files import file_digest, read_json, write_json
from pcl_auto.workspace.folders import DatasetFolder

FOLDER = "gt_segmentations"
# In our own folder: nnU-Net takes every file in its folders for a case.
RECORD = "gt_segmentations.json"


def keep_ground_truth(data: DatasetFolder, labels: Mapping[str, Path]) -> None:
    """Copy the labels of cases under the names that nnU-Net expects; a copy of the same bytes is left as it is."""
    before = _recorded(data)
    recorded = dict(before)
    for case, label in labels.items():
        target, digest = copy_of(data, case), file_digest(label)
        if _is_copy(recorded.get(case), digest, target):
            continue
        # nnU-Net's own copies, in a folder that it shares with us, have the label's bytes.
        if not target.is_file() or file_digest(target) != digest:
            with atomic_path(target) as temporary:
                content = label.read_bytes()
                # The header stays, and the ending may have capitals, which ITK reads in part.
                temporary.write_bytes(content if content[:2] == GZIP_MAGIC else gzip.compress(content, mtime=0))
        recorded[case] = {"label": digest, "copy": file_digest(target)}
    if recorded != before:
        write_json(data.pclauto_dir / RECORD, recorded)


def require_ground_truth(data: DatasetFolder, labels: Mapping[str, str]) -> None:
    """Make sure that the copies are those of these labels, by the digest of each case's.

    Another run may have been prepared since, with labels that were corrected meanwhile.

    Raises:
        StateError: copies of other labels, or none, all of them.
    """
    other = _other_copies(data, labels)
    fix = "put the label back that the run was trained with and repeat the command, or train again with --restart"
    if other:
        raise StateError(
            [
                Problem("run.label-changed", "the label is not the one that the run was started with", str(file), fix)
                for file in (copy_of(data, case) for case in other)
            ]
        )


def holds_ground_truth(data: DatasetFolder, labels: Mapping[str, str]) -> bool:
    """Tell whether the copies are those of these labels, by the digest of each case's."""
    return not _other_copies(data, labels)


def _other_copies(data: DatasetFolder, labels: Mapping[str, str]) -> list[str]:
    recorded = _recorded(data)
    return [case for case, label in labels.items() if not _is_copy(recorded.get(case), label, copy_of(data, case))]


def copy_of(data: DatasetFolder, case: str) -> Path:
    """Return where the copy of a case's label lies."""
    return data.path / FOLDER / f"{case}.nii.gz"


def _recorded(data: DatasetFolder) -> dict[str, Any]:
    file = data.pclauto_dir / RECORD
    try:
        found = read_json(file) if file.is_file() else {}
    except StateError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_copy(entry: Any, label: str, target: Path) -> bool:
    if not isinstance(entry, Mapping) or entry.get("label") != label:
        return False
    return target.is_file() and file_digest(target) == entry.get("copy")
