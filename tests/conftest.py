"""The whole tool on small phantoms, as a user runs it: one process per command."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from shell import Shell

from pcl_auto.data.phantom import make_phantom

# Seconds of training in all, but every part of a run: a supervised epoch, two rounds.
TINY_RECIPE = """
description = "a few steps"
[schedule]
steps_per_epoch = 2
supervised_epochs = 2
rounds = 2
epochs_per_round = 2
[optimizer]
name = "adamw"
learning_rate = 2e-3
weight_decay = 1e-2
[batch]
patches = 4
[network]
width = 0.25
[contrast]
anchors = 4
mean_voxels = 64
[pseudo_labels]
mirroring = false
segmentation_weight = 0.5
[mixing]
copy_paste = true
[teacher]
memory = 0.5
[judgement]
degenerate_margin = 0.0
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"e2e", "faults"} & set(item.path.parts):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    folder = tmp_path_factory.mktemp("user")
    (folder / "tiny.toml").write_text(TINY_RECIPE)
    return Shell(folder)


@pytest.fixture(scope="session")
def task(shell: Shell) -> Path:
    """A phantom task with two labelled, four unlabelled and two test volumes."""
    return make_phantom(shell.folder, seed=1, labeled=2, unlabeled=4, test=2)


@pytest.fixture(scope="session")
def trained(shell: Shell, task: Path) -> Path:
    """A workspace in which the phantom was planned and a tiny run trained."""
    shell.pclauto("plan", task, "--workspace", "work", "--gpu-memory-gb", "1")
    shell.pclauto("train", "--workspace", "work", "--recipe", "tiny.toml", "--device", "cpu")
    return shell.folder / "work"


@pytest.fixture(scope="session")
def model(trained: Path) -> Path:
    (found,) = (trained / "nnUNet_results").glob("Dataset*/nnUNetTrainerPCL__*")
    return found


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real decathlon data, where the machine has it."""
    folder = Path(os.environ.get("PCLAUTO_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data: set PCLAUTO_TEST_DATA")
    return folder


@pytest.fixture
def own_copy(task: Path, tmp_path: Path) -> Path:
    """A copy of the phantom task that a test may damage."""
    return Path(shutil.copytree(task, tmp_path / task.name))
