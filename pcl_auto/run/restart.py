"""Removing what a training has left, but not what somebody has made of it."""

from __future__ import annotations

import shutil
from pathlib import Path

# In a run's own folder: pseudo-labels that were exported to be corrected, and where else such folders are.
REVIEW, REVIEWS = "review", "reviews.json"


def start_anew(model: Path) -> None:
    """Remove what lies in a model folder, but for the masks that somebody has corrected: they are not the run's."""
    kept = {folder for fold in model.glob("fold_*") for folder in (fold / REVIEW, fold / REVIEWS)}
    for path in [*model.glob("fold_*/*"), *model.iterdir()]:
        if path in kept or any(path in folder.parents and folder.exists() for folder in kept):
            continue
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path)
