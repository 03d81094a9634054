"""A finished training that is asked for again: it is looked at without torch, and what was damaged is made anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import blosc2
import pytest
from refusal import refused
from shared import model_of
from shell import Shell

from pcl_auto.errors import StateError
from pcl_auto.training import train as training
from pcl_auto.training.request import TrainRequest, resolve_runs
from pcl_auto.training.trained_before import trained_before
from pcl_auto.workspace.files import file_digest, read_json, write_json
from pcl_auto.workspace.folders import Workspace

OWN = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_n_proc_DA", "nnUNet_extTrainer")
WATCH_IMPORTS = """
import sys
from pcl_auto.cli.main import run
try:
    run()
finally:
    print("imported:", *sorted(set(sys.modules) & {"torch", "nnunetv2", "pandas"}), file=sys.stderr)
"""
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo after the test what the library sets in this process."""
    for name in OWN:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(training, "keep_freed_memory", lambda: None)


@pytest.fixture
def request_(shell: Shell) -> TrainRequest:
    """Return the request of the tiny run."""
    return TrainRequest(recipe=str(shell.folder / "tiny.toml"), device="cpu")


def files_of(workspace: Path) -> list[Path]:
    """List all files but those that say when a command ran, and what it printed."""
    other = {".txt", ".html", ".jsonl", ".lock", ".log"}
    return [path for path in workspace.rglob("*") if path.is_file() and path.suffix not in other]


def digests(workspace: Path) -> dict[str, str]:
    """Return the digest of each of them."""
    return {str(path.relative_to(workspace)): file_digest(path) for path in files_of(workspace)}


def contents(workspace: Path) -> dict[str, str]:
    """Return what each of them holds, of compressed ones the voxels: the order of threads changes the bytes.

    Records of the digests of such files are left out.
    """
    found = {}
    for path in files_of(workspace):
        if path.suffix == ".b2nd":
            found[str(path)] = sha256(blosc2.open(str(path))[:].tobytes()).hexdigest()
        elif "store_records" not in path.parts and not path.name.startswith("labeled_"):
            found[str(path)] = file_digest(path)
    return found


def test_a_finished_training_is_looked_at_without_torch(shell: Shell, own_trained: Path) -> None:
    command = ("train", "--workspace", str(own_trained), "--recipe", "tiny.toml", "--json")
    shell.pclauto(*command, "--device", "cpu")  # there may be no report yet
    before = digests(own_trained)
    # A device that may be missing: nothing is trained.
    done = shell.process("-c", WATCH_IMPORTS, *command, "--device", "cuda")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "imported:"
    assert "already trained" in done.stderr
    assert f"report: {model_of(own_trained) / 'fold_all' / 'report.html'}, of before" in done.stderr
    assert "verdict: " in done.stderr
    assert json.loads(done.stdout)["finished"]
    assert digests(own_trained) == before


def stored_case(workspace: Path) -> Path:
    return min(workspace.glob("nnUNet_preprocessed/*/pclauto/store/*/*_seg.b2nd"))


def label_of_view(workspace: Path) -> Path:
    return min(workspace.glob("nnUNet_preprocessed/*/splits/*/labeled_*/*_seg.b2nd"))


def ground_truth(workspace: Path) -> Path:
    return min(workspace.glob("nnUNet_preprocessed/*/gt_segmentations/*.nii.gz"))


def plans_of_split(workspace: Path) -> Path:
    (found,) = workspace.glob("nnUNet_preprocessed/*/nnUNetPlans_*_tiny.json")
    return found


def split_record(workspace: Path) -> Path:
    (found,) = workspace.glob("nnUNet_preprocessed/*/splits/*.json")
    return found


def damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + b"\1")


def other_batch(file: Path) -> None:
    content = read_json(file)
    content["configurations"]["3d_fullres"]["batch_size"] += 1
    write_json(file, content)


@pytest.mark.parametrize(
    ("find", "change"),
    [
        (stored_case, damage),
        (label_of_view, damage),
        (ground_truth, Path.unlink),
        (plans_of_split, other_batch),
        (plans_of_split, Path.unlink),
        (split_record, Path.unlink),
    ],
)
def test_what_was_damaged_since_is_made_anew(
    own_trained: Path, request_: TrainRequest, find: Callable[[Path], Path], change: Callable[[Path], None]
) -> None:
    workspace = Workspace.at(own_trained, "test")
    (trained,) = trained_before(resolve_runs(request_, workspace)) or []
    assert trained.settings.store
    file, before = find(own_trained), contents(own_trained)
    change(file)
    assert trained_before(resolve_runs(request_, workspace)) is None
    again = training.train(request_, workspace, lambda _event, _values: None)
    assert again.settings == trained.settings
    assert contents(own_trained) == before
    assert trained_before(resolve_runs(request_, workspace)) == [again]


def test_other_settings_are_refused_as_for_an_unfinished_training(
    own_trained: Path, request_: TrainRequest, tmp_path: Path
) -> None:
    workspace = Workspace.at(own_trained, "test")
    other = tmp_path / "tiny.toml"
    other.write_text(Path(str(request_.recipe)).read_text().replace("learning_rate = 2e-3", "learning_rate = 1e-3"))
    changed = replace(request_, recipe=str(other))
    assert trained_before(resolve_runs(changed, workspace)) is None
    with refused(StateError, "run.settings-changed"):
        training.train(changed, workspace, lambda _event, _values: None)


def test_a_model_that_was_changed_is_refused(own_trained: Path, request_: TrainRequest) -> None:
    workspace = Workspace.at(own_trained, "test")
    damage(model_of(own_trained) / "fold_all" / "checkpoint_final.pth")
    with refused(StateError, "run.file-changed"):
        training.train(request_, workspace, lambda _event, _values: None)
