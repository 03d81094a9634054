"""The Python API as a notebook uses it: quiet, light to import, refusing what the commands refuse."""

from __future__ import annotations

import errno
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusal import refused
from typer.main import get_command

import pcl_auto
from pcl_auto.cli.main import app
from pcl_auto.errors import DataError, ResourceError, StateError, UsageError

LIGHT = """
import sys
import pcl_auto, pcl_auto.api
pcl_auto.plan, pcl_auto.pretrain, pcl_auto.train, pcl_auto.predict, pcl_auto.evaluate
print(sorted({"numpy", "torch", "nnunetv2", "SimpleITK", "typer"} & set(sys.modules)))
"""


def test_the_import_is_light() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_lists_the_functions_and_nothing_that_is_not_there() -> None:
    assert {"plan", "pretrain", "train", "predict", "evaluate", "errors"} <= set(dir(pcl_auto))
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        _ = getattr(pcl_auto, "segment")  # noqa: B009


def options_of(verb: str) -> set[str]:
    """Return the names of a verb's arguments and options: ``gpu_memory_gb`` for ``--gpu-memory-gb``."""
    command: Any = get_command(app)
    return {parameter.opts[0].lstrip("-").replace("-", "_") for parameter in command.get_command(None, verb).params}


@pytest.mark.parametrize(
    ("verb", "of_the_command_alone", "own"),
    [
        ("plan", {"for"}, {"pretrained"}),  # a word of Python's own
        ("pretrain", {"dry_run", "set"}, {"settings"}),
        ("train", {"dry_run", "time_steps", "gpus", "set"}, {"settings"}),
        (
            "predict",
            {"dry_run", "no_mirroring", "no_quality"},
            {"mirroring", "quality", "spacing_mm", "affine"},
        ),
        ("evaluate", set(), set()),
    ],
)
def test_arguments_are_named_as_the_options(verb: str, of_the_command_alone: set[str], own: set[str]) -> None:
    arguments = set(inspect.signature(getattr(pcl_auto, verb)).parameters)
    assert arguments - {"listener"} - own == options_of(verb) - {"json", "help"} - of_the_command_alone


def variables_of_nnunet() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(("nnUNet_", "TQDM"))}


def test_a_plan_comes_back_without_a_word(task: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    heard = []
    before = variables_of_nnunet()
    work = tmp_path / "work"
    made = pcl_auto.plan(task, workspace=str(work), gpu_memory_gb=1, listener=lambda event, _: heard.append(event))
    assert capfd.readouterr() == ("", "")
    assert variables_of_nnunet() == before
    assert set(heard) == {"check", "preprocess"}
    assert made.dataset == "Dataset099_Phantom"
    assert made.plan_file == work / "nnUNet_preprocessed" / made.dataset / "pclauto" / "plan.json"
    assert made.plan_file.is_file()
    assert len(made.labeled) == 2
    assert len(made.unlabeled) == 4
    assert len(made.patch_voxels) == len(made.spacing_mm) == (2 if made.configuration == "2d" else 3)
    assert not made.up_to_date
    assert pcl_auto.plan(task, workspace=work, gpu_memory_gb=1).up_to_date


def test_a_dry_run_writes_nothing(task: Path, tmp_path: Path) -> None:
    made = pcl_auto.plan(task, workspace=tmp_path / "work", gpu_memory_gb=1, dry_run=True)
    assert made.patch_voxels
    assert not (tmp_path / "work").exists()


def test_the_workspace_is_that_of_the_command(planned: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(planned / name))
    prepared = pcl_auto.train(labeled=1, seed=1, prepare_only=True, device="cpu")
    assert prepared.split_file == planned / "nnUNet_preprocessed" / "Dataset099_Phantom" / "splits" / "L1_s1.json"
    assert prepared.split_file.is_file()
    assert not prepared.finished
    assert prepared.report is None
    assert len(prepared.split.labeled) == 1
    assert list(tmp_path.glob("pclauto_work")) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("labeled", 0), ("validation", -1), ("folds", 1), ("seed", -1), ("epochs", 0), ("workers", -1)],
)
def test_numbers_out_of_range_are_refused(name: str, value: int, tmp_path: Path) -> None:
    with refused(UsageError, "usage.out-of-range") as refusal:
        pcl_auto.train(workspace=tmp_path, **{name: value})  # type: ignore[arg-type]
    assert refusal.problem.where == name


def test_a_number_that_nnunet_has_not_is_refused(task: Path, tmp_path: Path) -> None:
    with refused(UsageError, "usage.out-of-range") as refusal:
        pcl_auto.plan(task, workspace=tmp_path, dataset_id=1000)
    assert refusal.problem.expected == "1 to 999"


def test_refusals_are_those_of_the_commands(planned_once: Path, task: Path, tmp_path: Path) -> None:
    with refused(UsageError, "data.unknown-task"):
        pcl_auto.plan(tmp_path / "nowhere", workspace=tmp_path)
    with refused(StateError, "plan.missing"):
        pcl_auto.train(workspace=tmp_path, labeled=2)
    with refused(UsageError, "split.too-few-labeled"):
        pcl_auto.train(workspace=planned_once, labeled=500, device="cpu")
    with refused(StateError, "model.missing"):
        pcl_auto.predict(task / "imagesTs", tmp_path / "out", workspace=planned_once)
    with refused(UsageError, "data.no-such-path"):
        pcl_auto.evaluate(tmp_path / "nowhere", task / "labelsTs")


@pytest.mark.parametrize(
    ("inputs", "arguments"),
    [
        ("scan.nii.gz", {}),
        ("scan.nii.gz", {"spacing_mm": (1, 1, 1)}),
        (np.zeros((4, 4, 4)), {}),
        (np.zeros((4, 4, 4)), {"output": "out"}),
        (np.zeros((4, 4, 4)), {"output": "out", "spacing_mm": (1, 1, 1)}),
    ],
)
def test_files_go_to_a_folder_and_an_array_has_a_spacing(inputs: Any, arguments: dict[str, Any]) -> None:
    with refused(UsageError, "usage.files-or-array"):
        pcl_auto.predict(inputs, **arguments)


def test_bad_data_is_refused_with_all_problems(own_copy: Path, tmp_path: Path) -> None:
    images = sorted((own_copy / "imagesTr").iterdir())
    for image in images[:2]:
        image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(DataError) as caught:
        pcl_auto.plan(own_copy, workspace=tmp_path / "work", gpu_memory_gb=1)
    assert {problem.where for problem in caught.value.problems} == set(map(str, images[:2]))


def test_a_full_disk_is_a_resource_error(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "no space", "mask.nii.gz")

    monkeypatch.setattr("pcl_auto.evaluation.scores.evaluate_on_record", full)
    with refused(ResourceError, "disk.full"):
        pcl_auto.evaluate(tmp_path, task / "labelsTs")
