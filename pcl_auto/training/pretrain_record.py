"""Read the records of pre-trainings, and find finished ones; needs neither torch nor the data set's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pcl_auto.errors import PclautoError
from pcl_auto.workspace.files import read_json
from pcl_auto.workspace.folders import DatasetFolder, Workspace
from pcl_auto.workspace.run_record import FINAL, PRETRAINING, RECORD, has_manifest
from pcl_auto.workspace.shapes import NAME

# How the names of recipes begin that a benchmark makes for its arms.
BENCHMARK = "bench-"
# Of the record, see pcl_auto.workspace.shapes.
SHAPE = {
    "identity": {
        "dataset": NAME, "configuration": NAME, "seed": int, "split": NAME,
        "recipe": {"name": str, "pretraining": {"method": str, "epochs": int, ...: object}, ...: object}, ...: object,
    },
    "command?": [str],
    "versions?": {...: str},
    "device?": str,
    "images?": {...: str},
    "outputs?": {...: {"bytes": int, "sha256": str}},
}  # fmt: skip


def is_finished(folder: Path) -> bool:
    """Tell whether the pre-training in ``folder`` is done and all of its files are on record."""
    return (folder / FINAL).is_file() and (folder / RECORD).is_file() and has_manifest(folder)


def find_pretraining(
    workspace: Workspace, data: DatasetFolder, configuration: str, within: Mapping[str, str]
) -> list[Path]:
    """Find the finished pre-trainings of a data set for a configuration, the one that was finished last first.

    Those whose record cannot be read are left out.

    Args:
        workspace: where they lie.
        data: the data set.
        configuration: that they are of.
        within: the SHA-256 of images by case; left out are those that have learned from other images, as from a
            benchmark's test cases, and those that a benchmark has made for itself.
    """
    folders = pretraining_folders(workspace, data.name)
    found = [folder for folder in folders if _is_finished_for(configuration, within, folder)]
    return sorted(found, key=lambda folder: ((folder / FINAL).stat().st_mtime_ns, folder.name), reverse=True)


def _is_finished_for(configuration: str, within: Mapping[str, str], folder: Path) -> bool:
    try:
        if not is_finished(folder):
            return False
        record = read_pretraining(folder)
    except PclautoError:
        return False
    identity, seen = record["identity"], record.get("images", {})
    for_a_benchmark = identity["recipe"]["name"].startswith(BENCHMARK)
    known = bool(seen) and seen.items() <= within.items()
    return bool(identity["configuration"] == configuration and known and not for_a_benchmark)


def pretraining_folders(workspace: Workspace, dataset: str = "Dataset*") -> list[Path]:
    """List the folders of all pre-trainings that have left their record, of one data set or of all."""
    return sorted(record.parent for record in workspace.results.glob(f"{dataset}/{PRETRAINING}/*/{RECORD}"))


def read_pretraining(folder: Path) -> dict[str, Any]:
    """Read the record of the pre-training in ``folder``.

    Raises:
        StateError: it is missing or damaged.
    """
    record: dict[str, Any] = read_json(folder / RECORD, SHAPE)
    return record
