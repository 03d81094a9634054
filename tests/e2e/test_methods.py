"""Every method that others are compared with trains on the phantom, and a killed run ends as one that was not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from shared import TINY_RECIPE, copy_of, shell_in
from shell import Shell

from pcl_auto.recipe.load import load_recipe

pytestmark = pytest.mark.slow

# What is kept beside the network, and how many rounds there are.
METHODS: dict[str, tuple[set[str], int]] = {
    "self_training": (set(), 2),
    "noisy_student": (set(), 2),
    "mixup": (set(), 0),
    "mean_teacher": ({"online_teacher"}, 1),
    "uncertainty_mean_teacher": ({"online_teacher"}, 1),
    "fixmatch": (set(), 1),
    "unimatch": (set(), 1),
    "cross_supervision": ({"second_network", "second_optimizer"}, 1),
    "copy_paste_teacher": ({"online_teacher"}, 1),
}
# Trains as `pclauto` does, but ends after the first step of an epoch.
DRIVER = """
import os, sys
from pcl_auto.nnunet.training.joint_trainer import nnUNetTrainerPCL as trainer

def train_step(self, batch, plain=trainer.train_step):
    losses = plain(self, batch)
    if str(self.epoch) == os.environ["DIE_IN"]:
        os._exit(9)
    return losses

trainer.train_step = train_step
from pcl_auto.cli.main import run
run()
"""


def recipe_of(method: str) -> str:
    """Return the shipped recipe in a few steps: a supervised epoch or two, and two joint ones a round."""
    size = TINY_RECIPE[TINY_RECIPE.index("[optimizer]") : TINY_RECIPE.index("[contrast]")]
    rounds = METHODS[method][1]
    supervised = 2 if rounds else 4
    return f"""
extends = "{method}"
[schedule]
steps_per_epoch = 2
supervised_epochs = {supervised}
rounds = {rounds}
epochs_per_round = 2
{size}
[collapse_guard]
enabled = false
volume_margin = 0.0
"""


def train(shell: Shell, workspace: Path, die_in: str = "") -> int:
    done = shell.python(
        "-c", DRIVER, "train", "--workspace", workspace, "--recipe", "tiny.toml", "--device", "cpu", "--deterministic",
        pictures=False, DIE_IN=die_in,
    )  # fmt: skip
    assert done.returncode == (9 if die_in else 0), done.stderr
    return int(done.returncode)


def run_folder(workspace: Path) -> Path:
    (found,) = (workspace / "nnUNet_results").glob("Dataset*/nnUNetTrainerPCL__*/fold_all")
    return found


def state(workspace: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run_folder(workspace) / "checkpoint_final.pth", weights_only=True)
    return content


def stages(workspace: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (run_folder(workspace) / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "epoch"]


def require_same(first: Any, second: Any) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            require_same(first[key], second[key])
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, (list, tuple)):
        for one, other in zip(first, second, strict=True):
            require_same(one, other)
    else:
        assert first == second


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_ends_as_one_that_was_not(method: str, planned: Path, planned_once: Path, tmp_path: Path) -> None:
    shell = shell_in(tmp_path / "user")
    (shell.folder / "tiny.toml").write_text(recipe_of(method))
    whole = copy_of(planned_once, tmp_path / "whole")
    train(shell, whole)
    for die_in in ("3", ""):  # in a round, or on the way to it
        train(shell, planned, die_in)
    expected, found = state(whole), state(planned)
    require_same(found["network_weights"], expected["network_weights"])
    require_same(found["optimizer_state"], expected["optimizer_state"])

    beside, rounds = METHODS[method]
    assert beside <= expected["pclauto"].keys()
    for part in beside:
        require_same(found["pclauto"][part], expected["pclauto"][part])
    # Stock nnU-Net reads the network, and nothing else is in it.
    assert expected["trainer_name"] == "nnUNetTrainer"
    losses = [set(epoch["losses"]) for epoch in stages(whole)]
    online = load_recipe(method).unlabeled_loss.method != "pseudo_labels"
    joint = {"loss", "unlabeled"} if online else {"loss"}
    assert losses == [{"loss"}] * (2 if rounds else 4) + [joint] * (2 * rounds)
    if method == "noisy_student":
        # Each student's learning rate begins anew.
        rates = [epoch["learning_rate"] for epoch in stages(whole)]
        assert rates[2:4] == rates[4:] == pytest.approx([2e-3, 2e-3 * 0.5**0.9])
