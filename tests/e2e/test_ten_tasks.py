"""The ten tasks of the decathlon in small, and other kinds of labels, each the whole way, in this process."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from decathlon import DECATHLON, DecathlonTask
from small_task import make_small_task

from pcl_auto.evaluation.scores import evaluate_on_record
from pcl_auto.inference.predict import predict
from pcl_auto.planning.make_plan import plan_task
from pcl_auto.planning.plan import Plan, PlanSettings
from pcl_auto.recipe.load import from_dict
from pcl_auto.training import train as training
from pcl_auto.training.request import TrainRequest
from pcl_auto.workspace.folders import Workspace

# A supervised step, pseudo-labels of every unlabeled case, two joint steps.
RECIPE = from_dict(
    {
        "schedule": {"steps_per_epoch": 1, "supervised_epochs": 1, "rounds": 1, "epochs_per_round": 2},
        "optimizer": {"name": "adamw", "learning_rate": 1e-4},
        "batch": {"patches": 4},
        "network": {"width": 0.25},
        "contrast": {"anchors": 4, "mean_voxels": 64},
        "pseudo_labels": {"mirroring": False, "segmentation_weight": 0.5},
        "mixing": {"copy_paste": True},
        "teacher": {"ema_rounds": 0.5},
        # Two steps teach nothing: what they make of the volumes is no collapse.
        "collapse_guard": {"enabled": False, "volume_margin": 0.0},
    }
)

PROSTATE = DECATHLON[4]
pytestmark = pytest.mark.slow


def ignore(_event: str, _values: dict[str, Any]) -> None:
    """Nobody listens."""


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo after the test what the library sets in this process."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_n_proc_DA", "nnUNet_extTrainer"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    # It could not be undone.
    monkeypatch.setattr(training, "keep_freed_memory", lambda: None)
    # One process that validates, not one per core: each takes longer to start than these cases take.
    monkeypatch.setenv("nnUNet_def_n_proc", "1")


def whole_way(task: DecathlonTask, root: Path, folder: Path) -> Plan:
    """Plan, train on two labels, predict the test case, and look at what came of each."""
    workspace = Workspace.at(folder / "work", "test")
    plan = plan_task(root, workspace, PlanSettings(memory_gb=1.0)).plan
    run = training.train(TrainRequest(recipe=RECIPE, device="cpu"), workspace, ignore)
    (done,) = predict([root / "imagesTs"], folder / "masks", run.model, device="cpu", mirroring=False, listener=ignore)
    assert done.status == "done", done.error
    assert done.output is not None
    lines = (run.folder / "events.jsonl").read_text().splitlines()
    check_rounds([json.loads(line) for line in lines], len(plan.cases) - 2)
    check_mask(Path(done.output), root, len(task.classes))
    return plan


def check_rounds(events: list[dict[str, Any]], unlabeled: int) -> None:
    (labels,) = (event for event in events if event["event"] == "pseudo_labels")
    assert labels["cases"] == labels["used"] == unlabeled
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [event["stage"] for event in epochs] == ["supervised", "round 1", "round 1"]
    assert all(np.isfinite(list(event["losses"].values())).all() for event in epochs)
    assert all(event["losses"]["contrast"] > 0 for event in epochs[1:])


def check_mask(file: Path, root: Path, classes: int) -> None:
    mask, scan = nib.load(file), nib.load(root / "imagesTs" / file.name)
    assert mask.shape == scan.shape[:3]
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-4)
    assert set(np.unique(np.asarray(mask.dataobj))) <= set(range(classes + 1))


# A CT, an MR whose air was masked, a small one; the others at length.
IN_TEST_ALL = {"BrainTumour", "Hippocampus", "Lung"}


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(task, id=task.name, marks=[] if task.name in IN_TEST_ALL else pytest.mark.soak)
        for task in DECATHLON
    ],
)
def test_a_task_of_the_decathlon(task: DecathlonTask, tmp_path: Path) -> None:
    plan = whole_way(task, make_small_task(task, tmp_path), tmp_path)
    chosen = plan.nnunet["configurations"][plan.configuration]
    assert plan.configuration == "3d_fullres"
    scheme = "CTNormalization" if task.is_ct else "ZScoreNormalization"
    assert chosen["normalization_schemes"] == [scheme] * len(task.channels)
    assert chosen["use_mask_for_norm"] == [task.is_masked] * len(task.channels)
    np.testing.assert_allclose(chosen["spacing"], task.target_spacing_mm, rtol=1e-4)
    assert plan.dataset_json["labels"] == task.dataset_json()["labels"]


@pytest.mark.parametrize("lacking", [(1,), (2,), (1, 2)], ids=str)
def test_classes_that_a_labeled_case_lacks(lacking: tuple[int, ...], tmp_path: Path) -> None:
    whole_way(PROSTATE, make_small_task(PROSTATE, tmp_path, lacking=lacking), tmp_path)


def test_thirty_classes(tmp_path: Path) -> None:
    thirty = replace(PROSTATE, classes=tuple(f"part {number}" for number in range(1, 31)))
    whole_way(thirty, make_small_task(thirty, tmp_path), tmp_path)


def describe(root: Path, **content: Any) -> None:
    file = root / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **content}))


def ledger(folder: Path) -> list[dict[str, str]]:
    (file,) = (folder / "work").rglob("pseudo_labels/round_1/ledger.csv")
    with file.open(newline="") as table:
        return list(csv.DictReader(table))


def stock_mask(folder: Path, scan: Path) -> np.ndarray:
    """Return what nnU-Net's own predictor makes of a scan with the model under ``folder``, shape (Z, Y, X)."""
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    (fold,) = (folder / "work").rglob("fold_all")
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(fold.parent), ("all",), "checkpoint_final.pth")
    # Both channels lie in one file, which nnU-Net's reader takes apart.
    image, properties = SimpleITKIO().read_images([str(scan)])
    mask: np.ndarray = predictor.predict_single_npy_array(image, properties)
    return mask


def test_regions(tmp_path: Path) -> None:
    parts = replace(PROSTATE, classes=("edema", "necrosis", "enhancing"))
    root = make_small_task(parts, tmp_path)
    regions = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    describe(root, labels={"background": 0, **regions}, regions_class_order=[1, 2, 3])
    plan = whole_way(parts, root, tmp_path)
    assert plan.dataset_json["labels"] == {"background": 0, **regions}
    for row in ledger(tmp_path):
        volumes = [float(row[f"volume_ml_{name}"]) for name in regions]
        assert volumes == sorted(volumes, reverse=True)
        assert volumes[0] > 0
    (scan,) = (root / "imagesTs").iterdir()
    mask = nib.load(tmp_path / "masks" / scan.name)
    assert len(np.unique(np.asarray(mask.dataobj))) > 1
    np.testing.assert_array_equal(stock_mask(tmp_path, scan), np.asarray(mask.dataobj).T)
    scores = evaluate_on_record(tmp_path / "masks", root / "labelsTs")[0]
    assert list(scores.per_class) == list(regions)


def test_an_ignore_label(tmp_path: Path) -> None:
    root = make_small_task(PROSTATE, tmp_path)
    describe(root, labels={"background": 0, "PZ": 1, "TZ": 2, "ignore": 3})
    # Of one labeled case and of the test case every other slice was never looked at.
    for file in (root / "labelsTr" / "prostate_000.nii.gz", *(root / "labelsTs").iterdir()):
        label = nib.load(file)
        voxels = np.asarray(label.dataobj).copy()
        voxels[..., ::2] = 3
        nib.save(nib.Nifti1Image(voxels, label.affine), file)
    whole_way(PROSTATE, root, tmp_path)
    assert all(float(row["volume_ml_PZ"]) + float(row["volume_ml_TZ"]) > 0 for row in ledger(tmp_path))
    (scan,) = (root / "imagesTs").iterdir()
    mask = nib.load(tmp_path / "masks" / scan.name)
    np.testing.assert_array_equal(stock_mask(tmp_path, scan), np.asarray(mask.dataobj).T)
    before = evaluate_on_record(tmp_path / "masks", root / "labelsTs")[0].as_dict()
    assert set(before["per_class"]) == {"1", "2"}
    voxels = np.asarray(mask.dataobj).copy()
    voxels[..., ::2] = 1
    nib.save(nib.Nifti1Image(voxels, mask.affine), tmp_path / "masks" / scan.name)
    assert evaluate_on_record(tmp_path / "masks", root / "labelsTs")[0].as_dict() == before
