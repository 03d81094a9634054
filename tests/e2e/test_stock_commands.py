"""Stock nnU-Net commands, typed as users type them, after the one line of ``pclauto env --export``."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import SimpleITK
import torch
from shared import SUPPORT, copy_of, made_once, shell_in
from shell import warm_address
from stock import SHORT_TRAINING

pytestmark = pytest.mark.slow
SCRIPT = SUPPORT / "warm_script.py"

PLANS = "nnUNetPlans_L2_all_tiny"
MODEL = f"Dataset099_Phantom/nnUNetTrainerPCL__{PLANS}__3d_fullres"


class Stock:
    """A POSIX shell in which stock commands work in ``work``, by what ``pclauto env --export`` said of it.

    Its console scripts are forks of the warm process.
    """

    def __init__(self, folder: Path, work: Path) -> None:
        self.shell = shell_in(folder)
        self.results = work / "nnUNet_results"
        self.export = self.shell.pclauto("env", "--export", "--workspace", work).stdout
        self.scripts = folder / "bin"
        self.scripts.mkdir(exist_ok=True)
        for script in entry_points(group="console_scripts"):
            if script.name.startswith("nnUNetv2_"):
                file = self.scripts / script.name
                file.write_text(f'#!/bin/sh\nexec {sys.executable} {SCRIPT} {warm_address()} {script.name} "$@"\n')
                file.chmod(0o755)

    def __call__(self, command: str, **variables: Path | str) -> str:
        path = os.pathsep.join([str(self.scripts), str(Path(sys.executable).parent), os.environ["PATH"]])
        # Workers would be more processes than there are cores.
        done = subprocess.run(
            ["sh", "-ec", f"{self.export}\n{command}"],
            cwd=self.shell.folder,
            env=self.shell.environment(PATH=path, nnUNet_n_proc_DA="0", nnUNet_def_n_proc="1", **variables),
            capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr


@pytest.fixture(scope="session")
def stock_work(shared_folder: Path, planned_once: Path) -> Path:
    """A workspace in which a tiny run was prepared, and stock ``nnUNetv2_train`` trained it with our trainer."""

    def make(folder: Path) -> None:
        work = copy_of(planned_once, folder / "work")
        stock = Stock(folder / "user", work)
        stock.shell.train("--workspace", work, "--recipe", "tiny.toml", "--prepare-only")
        stock(f"nnUNetv2_train 99 3d_fullres all -tr nnUNetTrainerPCL -p {PLANS} -device cpu")

    return made_once(shared_folder / "stock", make) / "work"


@pytest.fixture
def stock(stock_work: Path, tmp_path: Path) -> Stock:
    """Such a workspace, of the test's own."""
    return Stock(tmp_path / "user", copy_of(stock_work, tmp_path / "work"))


@pytest.fixture
def results(stock: Stock) -> Path:
    return stock.results


@pytest.fixture
def scans(task: Path, tmp_path: Path) -> Path:
    """The test images as stock nnU-Net wants them: a file per channel."""
    folder = tmp_path / "channels"
    folder.mkdir()
    for scan in sorted((task / "imagesTs").iterdir()):
        image = SimpleITK.ReadImage(str(scan))
        for index in range(2):
            channel = SimpleITK.Extract(image, (*image.GetSize()[:3], 0), (0, 0, 0, index))
            SimpleITK.WriteImage(channel, str(folder / scan.name.replace(".nii.gz", f"_{index:04d}.nii.gz")))
    return folder


def test_stock_train_trains_continues_and_validates(stock: Stock, results: Path) -> None:
    fold = results / MODEL / "fold_all"
    final = torch.load(fold / "checkpoint_final.pth", weights_only=True)
    assert final["current_epoch"] == 6
    assert {path.name for path in (fold / "pseudo_labels").iterdir()} >= {"round_1", "round_2"}
    command = f"nnUNetv2_train 99 3d_fullres all -tr nnUNetTrainerPCL -p {PLANS} -device cpu"
    stock(f"{command} --c")
    again = torch.load(fold / "checkpoint_final.pth", weights_only=True)
    assert again["current_epoch"] == 6
    assert all(torch.equal(again["network_weights"][key], value) for key, value in final["network_weights"].items())
    (fold / "validation" / "summary.json").unlink()
    stock(f"{command} --val")
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2


def test_a_model_travels_as_stock_nnunets_zip(
    stock: Stock, results: Path, scans: Path, task: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    predict = f"-i {scans} -device cpu -f all -npp 1 -nps 1 --disable_tta --disable_progress_bar"
    stock(
        f"""
        nnUNetv2_predict {predict} -o {tmp_path}/by_name -d 99 -c 3d_fullres -tr nnUNetTrainerPCL -p {PLANS}
        nnUNetv2_predict_from_modelfolder {predict} -o {tmp_path}/by_folder -m {results}/{MODEL}
        nnUNetv2_export_model_to_zip -d 99 -o {tmp_path}/model.zip -c 3d_fullres -f all -tr nnUNetTrainerPCL -p {PLANS}
        export nnUNet_results={elsewhere}
        nnUNetv2_install_pretrained_model_from_zip {tmp_path}/model.zip
        nnUNetv2_predict {predict} -o {tmp_path}/installed -d 99 -c 3d_fullres -tr nnUNetTrainerPCL -p {PLANS}
        nnUNetv2_evaluate_folder {task}/labelsTs {tmp_path}/by_name -djfile {tmp_path}/by_name/dataset.json \\
            -pfile {tmp_path}/by_name/plans.json -np 1
        """
    )
    masks = sorted(path.name for path in (tmp_path / "by_name").glob("*.nii.gz"))
    assert len(masks) == 2
    for mask in masks:
        voxels = [
            SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / folder / mask)))
            for folder in ("by_name", "by_folder", "installed")
        ]
        assert (voxels[0] == voxels[1]).all()
        assert (voxels[0] == voxels[2]).all()
    summary = json.loads((tmp_path / "by_name" / "summary.json").read_text())
    ours = stock.shell.pclauto("evaluate", tmp_path / "by_name", task / "labelsTs", "--json")
    assert summary["foreground_mean"]["Dice"] == pytest.approx(json.loads(ours.stdout)["mean"]["dice"], abs=1e-6)


def test_pclauto_predicts_with_a_stock_model(stock: Stock, results: Path, task: Path, tmp_path: Path) -> None:
    (tmp_path / "short.py").write_text(SHORT_TRAINING)
    command = (tmp_path / "short.py", "99", "3d_fullres", "all", "-p", PLANS, "-device", "cpu")
    folder = results.parent
    done = stock.shell.python(
        *command,
        spawns=False,
        nnUNet_raw=folder / "nnUNet_raw",
        nnUNet_preprocessed=folder / "nnUNet_preprocessed",
        nnUNet_results=folder / "nnUNet_results",
        nnUNet_n_proc_DA="0",
        nnUNet_def_n_proc="1",
    )
    assert done.returncode == 0, done.stderr
    model = results / f"Dataset099_Phantom/nnUNetTrainer__{PLANS}__3d_fullres"
    validated = {path.name for path in (model / "fold_all" / "validation").glob("*.nii.gz")}
    assert validated == {"phantom_001.nii.gz", "phantom_002.nii.gz"}  # exactly the labeled cases
    done = stock.shell.pclauto(
        "predict", task / "imagesTs", "-o", tmp_path / "out", "--model", model, "--device", "cpu", "--no-mirroring"
    )
    assert "2 of 2 masks" in done.stderr

    # And it is a start for the rounds, for the network that it is.
    train = ["train", "--workspace", results.parent, "--recipe", "tiny.toml", "--device", "cpu", "--start-from", model]
    started = stock.shell.pclauto(*train)
    assert "epoch 1/4  round 1" in started.stderr
    (tmp_path / "wide.toml").write_text(f'extends = "{stock.shell.folder}/tiny.toml"\n[network]\nwidth = 0.5\n')
    wide = [tmp_path / "wide.toml" if word == "tiny.toml" else word for word in train]
    (problem,) = stock.shell.refusal(*wide, code=4)
    assert problem["code"] == "model.start-differs"
    assert "architecture" in problem["what"]
    assert "--plans" in problem["fix"]


def test_folds_are_validated_compared_exported_and_predict_together(
    stock: Stock, results: Path, task: Path, tmp_path: Path
) -> None:
    work, plans = results.parent, f"{PLANS}_e3_cv2"
    done = stock.shell.pclauto(
        "train", "--workspace", work, "--recipe", "tiny.toml", "--epochs", "3", "--device", "cpu", "--folds", "2",
    )  # fmt: skip
    assert "fold 2/2" in done.stderr
    model = results / f"Dataset099_Phantom/nnUNetTrainerPCL__{plans}__3d_fullres"
    # Each fold makes its own pseudo-labels, with a ledger of its own.
    for number in (1, 2):
        made = list(model.glob(f"fold_*/pseudo_labels/round_{number}/cases/*_seg.b2nd"))
        assert len(made) == 2 * 4
        assert not any(file.is_symlink() for file in made)
        assert len(list(model.glob(f"fold_*/pseudo_labels/round_{number}/ledger.csv"))) == 2
    held_out = [
        [path.name for path in sorted((model / f"fold_{fold}" / "validation").glob("*.nii.gz"))] for fold in (0, 1)
    ]
    assert sorted(held_out) == [["phantom_001.nii.gz"], ["phantom_002.nii.gz"]]
    for fold, names in enumerate(held_out):
        (scored,) = json.loads((model / f"fold_{fold}" / "validation" / "summary.json").read_text())["metric_per_case"]
        assert Path(scored["prediction_file"]).name == names[0]
        report = (model / "fold_1" / "report.html").read_text(encoding="utf-8")
        core = scored["metrics"]["1"]["Dice"]
        assert f'<td class="n">{"n/a" if core is None or math.isnan(core) else f"{core:.3f}"}</td>' in report
    stock(
        f"""
        nnUNetv2_find_best_configuration 99 -c 3d_fullres -tr nnUNetTrainerPCL -p {plans} -f 0 1 -np 1 \\
            --disable_ensembling
        nnUNetv2_export_model_to_zip -d 99 -o {tmp_path}/folds.zip -c 3d_fullres -f 0 1 -tr nnUNetTrainerPCL -p {plans}
        """
    )
    assert (model / "crossval_results_folds_0_1" / "summary.json").is_file()
    assert (tmp_path / "folds.zip").stat().st_size > 0
    predict = ["predict", task / "imagesTs", "--model", model, "--device", "cpu", "--no-mirroring"]
    stock.shell.pclauto(*predict, "-o", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert sorted(record["checkpoints"]) == ["fold_0/checkpoint_final.pth", "fold_1/checkpoint_final.pth"]


def test_a_model_of_pclauto_train_is_exported(stock: Stock, trained: Path, tmp_path: Path) -> None:
    stock(
        f"""
        export nnUNet_results={trained}/nnUNet_results nnUNet_preprocessed={trained}/nnUNet_preprocessed
        nnUNetv2_export_model_to_zip -d 99 -o {tmp_path}/model.zip -c 3d_fullres -f all -tr nnUNetTrainerPCL -p {PLANS}
        """
    )
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert any(name.endswith("fold_all/checkpoint_final.pth") for name in archive.namelist())
