"""A budget of time: the schedule that is fitted to it holds for every command; and dry runs, which write nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusal import refused
from typer.testing import CliRunner

from pcl_auto.cli.main import app
from pcl_auto.data.phantom import make_phantom
from pcl_auto.errors import ResourceError, StateError
from pcl_auto.inference.estimate import estimate_prediction
from pcl_auto.inference.predict import Outputs
from pcl_auto.planning.make_plan import plan_task
from pcl_auto.planning.plan import PlanSettings
from pcl_auto.recipe import time_budget as budget
from pcl_auto.training import estimate as forecast
from pcl_auto.training import train as training
from pcl_auto.training.request import TrainRequest, resolve_run
from pcl_auto.workspace.files import read_json
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.run_record import RECORD

OWN = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_n_proc_DA", "nnUNet_extTrainer")
# Enough for every machine; of what would fit into it a few steps are made, and no test looks at how long they take.
BUDGET = "10m"
pytestmark = pytest.mark.slow


class Stopped(Exception):
    """The training was stopped."""


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo after the test what the library sets in this process."""
    for name in OWN:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for module in (training, forecast):  # it could not be undone
        monkeypatch.setattr(module, "keep_freed_memory", lambda: None)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("recipe") / "thin.toml"
    lines = "[schedule]\nsteps_per_epoch = 16\n[batch]\npatches = 4\n[network]\nwidth = 0.25\n"
    file.write_text(f'extends = "demo"\n{lines}')
    return str(file)


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which the phantom was planned that takes some room."""
    folder = tmp_path_factory.mktemp("budget")
    workspace = Workspace.at(folder / "work", "test")
    before = {name: os.environ.get(name) for name in OWN}
    plan_task(make_phantom(folder, seed=1, labeled=3, unlabeled=3, test=1), workspace, PlanSettings(memory_gb=1.0))
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
    return workspace


def steps_taken(folder: Path) -> int:
    """By the epochs on record."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    schedule = read_json(folder / RECORD)["identity"]["recipe"]["schedule"]
    epochs = {event["epoch"] for event in events if event["event"] == "epoch"}
    return len(epochs) * int(schedule["steps_per_epoch"])


def test_one_schedule_for_a_run_its_resumption_and_its_baseline(
    planned: Path, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace.at(planned, "test")
    for name, few in {"MAX_EPOCHS": 6, "MAX_STEPS": 4, "MIN_ROUND_STEPS": 2}.items():
        monkeypatch.setattr(budget, name, few)
    monkeypatch.setattr(forecast, "MAX_TIMING_S", 0.2)

    def train(listener: Any = lambda _event, _values: None, **options: Any) -> Any:
        request = TrainRequest(labeled=2, recipe=recipe, budget=BUDGET, device="cpu", **options)
        return training.train(request, workspace, listener)

    def stop(event: str, values: dict[str, Any]) -> None:
        if event == "epoch" and values["epoch"] == 2:
            raise Stopped

    heard: list[tuple[str, dict[str, Any]]] = []
    with pytest.raises(Stopped):
        train(stop)
    (file,) = (workspace.dataset(None).pclauto_dir / "budgets").glob("*.json")
    fitted = file.read_bytes()
    monkeypatch.setattr(budget, "OVERRUN", 0.0)  # so that what was trained in one go tells what it took
    run = train(lambda event, values: heard.append((event, values)))
    of_baseline: list[str] = []
    baseline = train(lambda event, _values: of_baseline.append(event), supervised_only=True)
    train(lambda event, _values: of_baseline.append(f"again {event}"), supervised_only=True)

    assert [event for event, _ in heard if "overrun" in event] == []
    assert [event for event in of_baseline if "overrun" in event] == ["overrun"]
    assert file.read_bytes() == fitted
    assert run.finished
    assert run.recipe.schedule == baseline.recipe.schedule
    schedule = run.recipe.schedule
    wanted = schedule.epochs * schedule.steps_per_epoch
    assert steps_taken(run.folder) == steps_taken(baseline.folder) == wanted
    assert run.plans_name.endswith(f"_thin_b{BUDGET}")
    assert baseline.plans_name == run.plans_name
    assert [values["fresh"] for event, values in heard if event == "budget"] == [False]
    # What was forecast stands beside what was measured, of the baseline's single command the time too.
    for folder, broken in ((run.folder, True), (baseline.folder, False)):
        record = read_json(folder / RECORD)
        assert record["forecast"]["wall_s"] > 0
        assert (record["measured"]["wall_s"] is None) == broken
        assert min(record[kind][what] for kind in ("forecast", "measured") for what in ("memory_mb", "disk_mb")) > 0
    # A finished run is found again by the same words, or by others for the same time.
    again = resolve_run(TrainRequest(labeled=2, recipe=recipe, budget="600s", device="cpu"), workspace)
    assert (again.model, again.recipe, again.fitted) == (run.model, run.recipe, run.fitted)
    other = tmp_path / "thin.toml"
    other.write_text('extends = "demo"\n')
    with refused(StateError, "budget.other-recipe"):
        resolve_run(TrainRequest(labeled=2, recipe=str(other), budget=BUDGET, device="cpu"), workspace)


def test_a_budget_that_nothing_fits_in_leaves_no_schedule(roomy: Workspace, recipe: str) -> None:
    request = TrainRequest(labeled=1, recipe=recipe, budget="1s", device="cpu")
    with refused(ResourceError, "budget.too-small"):
        training.train(request, roomy, lambda _event, _values: None)
    assert not resolve_run(request, roomy).budget_file.exists()
    assert not resolve_run(request, roomy).model.exists()


# --- dry runs ---


@pytest.fixture
def pclauto(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """The command in this process; what it says on stdout and on stderr."""

    def call(*arguments: object) -> tuple[str, str]:
        capfd.readouterr()
        assert CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False).exit_code == 0
        return capfd.readouterr()

    return call


def everything(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in (folder, *folder.rglob("*"))
    }


@pytest.mark.parametrize("options", [[], ["--supervised-only", "--budget", "1h", "--folds", "2"]])
def test_train_tells_what_it_would_take_and_writes_nothing(
    roomy: Workspace, recipe: str, options: list[str], tmp_path: Path, pclauto: Callable[..., tuple[str, str]]
) -> None:
    shutil.copytree(roomy.preprocessed.parent, tmp_path / "work", symlinks=True)
    before = everything(tmp_path)
    command = ["train", "-w", tmp_path / "work", "-l", "2", "--recipe", recipe, "--device", "cpu", "--dry-run"]
    out, err = pclauto(*command, "--time-steps", "--json", *options)
    found = json.loads(out)["forecast"]
    assert everything(tmp_path) == before
    assert len(found["patch_voxels"]) == 3
    assert (found["labeled_patches"], found["unlabeled_patches"]) == (
        (4, 0) if "--supervised-only" in options else (2, 2)
    )
    for what in ("wall_s", "memory_mb", "disk_mb", "disk_meanwhile_mb", "store_mb", "gpu_memory_mb"):
        assert found[what] > 0, what
    assert ("rounds" in err) == ("--supervised-only" not in options)
    assert "GPU memory" not in err
    assert not found["to_be_fitted"]
    if "--budget" in options:
        assert 0 < found["wall_s"] < 3600
    trained = [command.split() for command in found["commands"] if command.startswith("nnUNetv2_train")]
    assert [command[3] for command in trained] == (["0", "1"] if "--folds" in options else ["all"])


def test_without_preprocessed_images_the_time_is_unknown(
    roomy: Workspace, recipe: str, tmp_path: Path, pclauto: Callable[..., tuple[str, str]]
) -> None:
    shutil.copytree(roomy.preprocessed.parent, tmp_path / "work", symlinks=True)
    shutil.rmtree(next((tmp_path / "work").glob("nnUNet_preprocessed/*/pclauto/store")))
    before = everything(tmp_path)
    _, err = pclauto("train", "-w", tmp_path / "work", "--recipe", recipe, "--device", "cpu", "--dry-run")
    assert "unknown    time, memory and disk: --time-steps" in err
    command = ["train", "-w", tmp_path / "work", "--recipe", recipe, "--device", "cpu", "--dry-run", "--time-steps"]
    _, err = pclauto(*command)
    assert "unknown    time, memory and disk: the images are not preprocessed yet" in err
    assert everything(tmp_path) == before


def test_plan_tells_the_room_that_the_images_take(
    roomy: Workspace, tmp_path: Path, pclauto: Callable[..., tuple[str, str]]
) -> None:
    source = roomy.preprocessed.parent.parent / "Task99_Phantom"
    _, err = pclauto("plan", source, "-w", tmp_path / "new", "--gpu-memory-gb", "1", "--dry-run")
    told = next(line for line in err.splitlines() if line.startswith("disk"))
    stored = sum(file.stat().st_size for file in roomy.dataset(None).pclauto_dir.glob("store/**/*.b2nd"))
    assert stored / 2**20 <= int(told.split()[1]) <= 3 * stored / 2**20 + 1
    assert "nnUNetv2_plan_and_preprocess -d 99 -c 3d_fullres -pl ExperimentPlanner" in err
    assert not (tmp_path / "new").exists()


def test_predict_lists_what_it_would_write(
    model: Path, task: Path, tmp_path: Path, pclauto: Callable[..., tuple[str, str]]
) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(next((task / "imagesTs").iterdir()), scans)
    output = tmp_path / "masks"
    before = everything(model)
    command = ["predict", scans, "-o", output, "--model", model, "--dry-run"]
    (scan,) = json.loads(pclauto(*command, "--json")[0])["cases"]
    name = next(scans.iterdir()).name
    assert (scan["status"], scan["output"]) == ("done", str(output / name))
    assert scan["memory_mb"] > 0
    assert scan["wall_s"] > 0
    told = pclauto(*command, "--no-mirroring", "--no-quality")[1]
    assert "would be written" in told
    assert "MB at most beside the scan; time: about" in told
    assert "-f all -device cpu --disable_tta" in told
    assert not output.exists()
    assert everything(model) == before
    output.mkdir()
    (output / name).touch()
    # A file that pclauto has not on record is not replaced, whatever is asked for.
    for overwrite in (False, True):
        with refused(StateError, "predict.masks-of-another-model"):
            estimate_prediction([scans], output, model, Outputs(), device="cpu", overwrite=overwrite)
    assert (output / name).read_bytes() == b""
    (output / name).unlink()
    pclauto("predict", scans, "-o", output, "--model", model, "--no-quality")
    mask = (output / name).read_bytes()
    for overwrite, status in ((False, "kept"), (True, "done")):
        (again,) = estimate_prediction([scans], output, model, Outputs(), device="cpu", overwrite=overwrite)
        assert again.scan.status == status
    assert (output / name).read_bytes() == mask
