"""What a finished run consists of: written last, so that a run with a manifest has all of its files."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pcl_auto.errors import Problem, StateError
from pcl_auto.run.files import file_digest, read_json, write_json

RECORD = "run.json"
# Of a run folder, which is a fold of a model folder.
_OUTPUTS = (
    "checkpoint_final.pth",
    "../plans.json",
    "../dataset.json",
    "../dataset_fingerprint.json",
)
_LEDGERS = "pseudo_labels/*/ledger.csv"


def write_manifest(run: Path) -> None:
    """Add to the record of the run in folder ``run`` which files it made, with their sizes in bytes and SHA-256."""
    names = [*_OUTPUTS, *(ledger.relative_to(run).as_posix() for ledger in sorted(run.glob(_LEDGERS)))]
    outputs = {name: {"bytes": (run / name).stat().st_size, "sha256": file_digest(run / name)} for name in names}
    finished = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_json(run / RECORD, {**read_json(run / RECORD), "finished": finished, "outputs": outputs})


def has_manifest(run: Path) -> bool:
    """Whether the run in folder ``run`` was finished and put on record."""
    return "outputs" in read_json(run / RECORD)


def check_manifest(run: Path) -> None:
    """Make sure that the files of a finished run are there.

    Raises:
        StateError: files that are gone or of another size, all of them.
    """
    outputs: Mapping[str, Mapping[str, Any]] = read_json(run / RECORD)["outputs"]
    sizes = {name: (run / name).stat().st_size if (run / name).is_file() else None for name in outputs}
    problems = [
        Problem(
            code="run.file-changed",
            what="file of a finished run is not as it was written",
            where=str(run / name),
            expected=f"{outputs[name]['bytes']} bytes",
            found="no file" if size is None else f"{size} bytes",
            fix="restore the file, or train again with --restart",
        )
        for name, size in sizes.items()
        if size != outputs[name]["bytes"]
    ]
    if problems:
        raise StateError(problems)
