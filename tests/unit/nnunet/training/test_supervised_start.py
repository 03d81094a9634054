"""A supervised start is taken up only by a run that would have made it itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from refusal import refused

from pcl_auto.errors import StateError
from pcl_auto.nnunet.checkpoint_files import OWN_KEY, write_checkpoint
from pcl_auto.nnunet.training import save_and_resume
from pcl_auto.nnunet.training.run_settings import RunSettings
from pcl_auto.recipe.settings import Contrast, Optimizer, Recipe

SETTINGS = RunSettings(Recipe("one"), seed=0, split="L2_s0", store="store", deterministic=False)


def taken_up(monkeypatch: pytest.MonkeyPatch, file: Path, settings: RunSettings) -> dict[str, Any]:
    """Return what a trainer of ``settings`` takes of the start in ``file``."""
    read: list[Path] = []
    taken: dict[str, Any] = {}
    monkeypatch.setattr(save_and_resume, "load_training_state", lambda _trainer, its_file: read.append(its_file))
    trainer = SimpleNamespace(settings=settings, device=torch.device("cpu"), load_supervised_state=taken.update)
    save_and_resume.load_supervised_start(trainer, file)
    assert read == [file]
    return taken


@pytest.fixture
def start(tmp_path: Path) -> Path:
    file = tmp_path / "start.pth"
    write_checkpoint(
        file, {"network_weights": {}, OWN_KEY: {"settings": SETTINGS.as_dict(), "best_weights": None, "seconds": 12.5}}
    )
    return file


def test_a_recipe_that_differs_in_the_rounds_takes_it_up(monkeypatch: pytest.MonkeyPatch, start: Path) -> None:
    found = taken_up(monkeypatch, start, replace(SETTINGS, recipe=Recipe("two", contrast=Contrast(weight=0.5))))
    assert found["seconds"] == 12.5


def test_every_setting_that_is_another_is_named(monkeypatch: pytest.MonkeyPatch, start: Path) -> None:
    other = replace(SETTINGS, seed=1, recipe=Recipe("two", optimizer=Optimizer(learning_rate=0.5)))
    with refused(StateError, "run.start-of-other-settings") as refusal:
        taken_up(monkeypatch, start, other)
    assert refusal.problem.what.endswith("another seed, optimizer")
    assert refusal.problem.where == str(start)
