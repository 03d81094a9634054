"""The unperturbed training of the golden path."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden import TRAIN, user
from shared import PLAN_OPTIONS, made_once, make_coarse_phantom


@pytest.fixture(scope="session")
def five_labels(shared_folder: Path) -> Path:
    """A task with five labels, of which the trainings use two."""

    def make(folder: Path) -> None:
        make_coarse_phantom(folder, seed=2, labeled=5, unlabeled=1, test=1)

    return made_once(shared_folder / "five_labels", make) / "Task99_Phantom"


@pytest.fixture(scope="session")
def unperturbed(shared_folder: Path, five_labels: Path) -> Path:
    def make(folder: Path) -> None:
        shell = user(folder, five_labels)
        shell.pclauto("plan", "Task99_Phantom", *PLAN_OPTIONS)
        shell.pclauto(*TRAIN)

    return made_once(shared_folder / "unperturbed", make)
