"""The published recipe on a small phantom: trained, killed between two stages, read by stock nnU-Net."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import TRAIN, events, fold, read_mask, stock_mask, user, weights
from shared import PLAN_OPTIONS, made_once
from shell import Shell

pytestmark = pytest.mark.slow

# All that the paper's recipe has, in a few steps.
RECIPE = """
extends = "paper"
[schedule]
steps_per_epoch = 2
supervised_epochs = 3
rounds = 2
epochs_per_round = 2
[batch]
patches = 4
[network]
width = 0.25
[augmentation]
elastic = 1.0
"""
VALIDATED = (*TRAIN, "--validation", "1")


def train(folder: Path, task: Path, kill: str = "") -> Shell:
    shell = user(folder, task, RECIPE)
    shell.pclauto("plan", "Task99_Phantom", *PLAN_OPTIONS)
    if kill:
        killed = shell.python("-m", "pcl_auto", *VALIDATED, PCLAUTO_FAULT=kill, pictures=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    else:
        shell.pclauto(*VALIDATED)
    return shell


@pytest.fixture(scope="session")
def unbroken(shared_folder: Path, five_labels: Path) -> Path:
    return made_once(shared_folder / "paper", lambda folder: train(folder, five_labels))


def test_every_stage_ends_with_its_best_weights(unbroken: Path) -> None:
    epochs = events(unbroken, "epoch")
    assert [event["stage"] for event in epochs] == ["supervised"] * 3 + ["round 1"] * 2 + ["round 2"] * 2
    assert {event["learning_rate"] for event in epochs} == {1e-3}
    assert all(event["losses"]["contrast"] > 0 for event in epochs[3:])
    chosen = events(unbroken, "best_of_stage")
    assert [event["round"] for event in chosen] == [1, 2]
    for event, stage in zip(chosen, (epochs[:3], epochs[3:5]), strict=True):
        dice = {entry["epoch"]: np.mean(entry["patch_dice"]) for entry in stage}
        assert event["patch_dice"] == pytest.approx(dice[event["epoch"]]) == max(dice.values())
    # Or the choice has changed nothing.
    assert [event["epoch"] for event in chosen] != [3, 5]


def test_a_kill_between_two_stages_changes_no_weight(unbroken: Path, five_labels: Path, tmp_path: Path) -> None:
    shell = train(tmp_path / "user", five_labels, "sync:38")
    # Among the pseudo-labels of the second round, which the best weights of the first one make.
    assert [event["epoch"] for event in events(shell.folder, "epoch")] == [1, 2, 3, 4, 5]
    cases = fold(shell.folder) / "pseudo_labels" / "round_2" / "cases"
    assert 0 < len(list(cases.glob("*_seg.b2nd"))) < 3
    assert "going on after epoch 5" in shell.pclauto(*VALIDATED, pictures=False).stderr
    assert weights(shell.folder) == weights(unbroken)
    # Chosen, and said, the same again.
    chosen, again = ([(event["round"], event["epoch"]) for event in events(folder, "best_of_stage")]
                     for folder in (unbroken, shell.folder))  # fmt: skip
    assert again == [*chosen, chosen[-1]]


def test_stock_nnunet_reads_the_deeper_head(unbroken: Path, tmp_path: Path) -> None:
    model = fold(unbroken).parent
    plans = json.loads((model / "plans.json").read_text())
    (chosen,) = plans["configurations"].values()
    plan = json.loads(next(unbroken.rglob("plan.json")).read_text())["nnunet_plans"]["configurations"]
    (planned,) = (entry for name, entry in plan.items() if name in plans["configurations"])
    before, after = (entry["architecture"]["arch_kwargs"]["n_conv_per_stage_decoder"] for entry in (planned, chosen))
    assert after == [*before[:-1], before[-1] + 3]
    content = torch.load(model / "fold_all" / "checkpoint_final.pth", weights_only=True)
    assert content["pclauto"]["best_of_stage"] is None
    assert "layers.1.weight" in content["pclauto"]["head"]  # batch normalization

    shell, test = Shell(unbroken), unbroken / "Task99_Phantom"
    shell.pclauto("predict", test / "imagesTs", "-o", tmp_path / "ours")
    (scan,) = (test / "imagesTs").iterdir()
    ours = read_mask(tmp_path / "ours" / scan.name)
    assert len(np.unique(ours)) > 1
    np.testing.assert_array_equal(ours, stock_mask(shell, model, scan, tmp_path))
