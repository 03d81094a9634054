"""F43: a loss that is no number ends the training at once; the last good state stays, and the run goes on from it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from refusal import refused
from shell import Shell

from pcl_auto.errors import NumericalError
from pcl_auto.nnunet.errors import require_numbers

# Trains as `pclauto` does, but for one batch whose voxels are no numbers.
DRIVER = """
import sys
from pcl_auto.nnunet.data import patch_streams
poisoned, *arguments = sys.argv[1:]
plain, drawn = patch_streams.next_batch, []
def next_batch(stream):
    batch = plain(stream)
    drawn.append(batch)
    if len(drawn) == int(poisoned):
        batch["data"][:] = float("nan")
    return batch
patch_streams.next_batch = next_batch
sys.argv = ["pclauto", *arguments]
from pcl_auto.cli.main import run
run()
"""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_f43_a_loss_that_is_no_number_names_step_and_cases(value: float) -> None:
    losses = {"loss": np.array(0.5), "contrast": np.array(value)}
    with refused(NumericalError, "number.loss-not-finite") as refusal:
        require_numbers(losses, "epoch 3 (round 1), step 2", ["b", "a", "b"])
    assert refusal.problem.where == "epoch 3 (round 1), step 2, on patches of b, a"
    assert refusal.problem.found == f"loss 0.5, contrast {value:g}"


def test_f43_ordinary_losses_pass() -> None:
    require_numbers({"loss": np.array(-0.9), "contrast": np.array(0.0)}, "epoch 1", [])


@pytest.mark.slow
def test_f43_a_poisoned_batch_ends_the_training_and_spoils_nothing(shell: Shell, planned: Path) -> None:
    workspace = planned
    command = [
        "train", "--workspace", workspace, "--recipe", "tiny.toml", "--device", "cpu", "--labeled", "1",
        "--validation", "1",
    ]  # fmt: skip
    # An epoch draws two batches to train on and one to validate on: the fifth is the second epoch's second step.
    failed = shell.python("-c", DRIVER, "5", *command, pictures=False)
    assert failed.returncode == 7, failed.stderr
    run = next((workspace / "nnUNet_results").rglob("fold_all"))
    (split,) = (workspace / "nnUNet_preprocessed").rglob("splits/*.json")
    (labeled,) = json.loads(split.read_text())["labeled"]
    assert f"epoch 2 (supervised), step 2, on patches of {labeled}" in failed.stderr
    state = torch.load(run / "checkpoint_latest.pth", weights_only=True)
    assert state["current_epoch"] == 1
    for weights in (state["network_weights"], state["pclauto"]["best_weights"]):
        assert all(torch.isfinite(value).all() for value in weights.values())
    assert not (run / "checkpoint_final.pth").exists()

    assert "going on after epoch 1" in shell.pclauto(*command, pictures=False).stderr
    final = torch.load(run / "checkpoint_final.pth", weights_only=True)["network_weights"]
    assert all(torch.isfinite(value).all() for value in final.values())
