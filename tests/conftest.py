"""The whole tool on small phantoms, as a user runs it; what is costly is made once and shared."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from shared import PLAN_OPTIONS, copy_of, made_once, make_coarse_phantom, model_of, shell_in
from shell import Shell

# Each process of the tests has one core; networks this small gain nothing from more. Before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    # A shell makes jobs in the background deaf to Ctrl-C, and what they start too; tests send it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run of tests share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A user's shell in a folder of the test's own."""
    return shell_in(tmp_path / "user")


# --- made once for all: nothing is written in them ----------------------------------------------------------------


@pytest.fixture(scope="session")
def task(shared_folder: Path) -> Path:
    """A phantom task with two labeled, four unlabeled and two test volumes."""
    return made_once(shared_folder / "phantom", make_coarse_phantom) / "Task99_Phantom"


@pytest.fixture(scope="session")
def planned_once(shared_folder: Path, task: Path) -> Path:
    """A workspace in which the phantom was planned."""

    def make(folder: Path) -> None:
        shell_in(folder / "user").pclauto("plan", task, "--workspace", folder / "work", *PLAN_OPTIONS)

    return made_once(shared_folder / "planned", make) / "work"


@pytest.fixture(scope="session")
def trained(shared_folder: Path, planned_once: Path) -> Path:
    """A workspace in which a tiny run was trained on the phantom."""

    def make(folder: Path) -> None:
        work = copy_of(planned_once, folder / "work")
        shell_in(folder / "user").pclauto("train", "--workspace", work, "--recipe", "tiny.toml", "--device", "cpu")

    return made_once(shared_folder / "trained", make) / "work"


@pytest.fixture(scope="session")
def model(trained: Path) -> Path:
    """The model folder of the tiny run."""
    return model_of(trained)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real decathlon data, where the machine has it."""
    folder = Path(os.environ.get("PCLAUTO_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data: set PCLAUTO_TEST_DATA")
    return folder


# --- copies to write in -------------------------------------------------------------------------------------------


@pytest.fixture
def planned(planned_once: Path, tmp_path: Path) -> Path:
    """A workspace of the test's own, in which the phantom was planned."""
    return copy_of(planned_once, tmp_path / "planned")


@pytest.fixture
def own_trained(trained: Path, tmp_path: Path) -> Path:
    """A workspace of the test's own, in which the tiny run was trained."""
    return copy_of(trained, tmp_path / "trained")


@pytest.fixture
def own_copy(task: Path, tmp_path: Path) -> Path:
    """A copy of the phantom task that a test may damage."""
    return Path(shutil.copytree(task, tmp_path / task.name))
