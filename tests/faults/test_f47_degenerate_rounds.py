"""F47: pseudo-labels that teach nothing are noticed, said, and not trained on (roll-backs: e2e/test_collapse.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from shell import Shell

from pcl_auto.method.guard import collapse
from pcl_auto.nnunet.pseudo_labels import RoundFolder, is_degenerate

# Trains as `pclauto` does, but for a network that segments background alone, up to the round named.
DRIVER = """
import sys
import torch
from pcl_auto.nnunet.joint_trainer import nnUNetTrainerPCL
last, *arguments = sys.argv[1:]
def segmenter(self, network):
    self.set_deep_supervision_enabled(False)
    heads, empty = self.label_manager.num_segmentation_heads, self.epoch < int(last)
    def segment(image):
        logits = torch.zeros(heads, *image.shape[1:])
        logits[0] = 0.5
        for value in range(1, 1 if empty else heads):
            logits[value, :, value::heads] = 1
        return logits
    return segment
nnUNetTrainerPCL._segmenter = segmenter
sys.argv = ["pclauto", *arguments]
from pcl_auto.cli.main import run
run()
"""


def test_f47_a_round_of_background_trains_on_labels_alone(shell: Shell, task: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    shell.pclauto("plan", task, "--workspace", workspace, "--gpu-memory-gb", "1")
    done = shell.python(
        "-c", DRIVER, "3", "train", "--workspace", workspace, "--recipe", "tiny.toml", "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    assert "warning: the pseudo-labels of round 1 are all background: it trains on labels alone" in done.stderr
    (log,) = (workspace / "nnUNet_results").rglob("events.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["round"] for event in events if event["event"] == "degenerate"] == [1]
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [event["stage"] for event in epochs] == [
        *["supervised"] * 2, *["round 1, labels alone"] * 2, *["round 2"] * 2,
    ]  # fmt: skip
    # Nothing of the pseudo-labels in the first, both losses in the second.
    assert [sorted(event["losses"]) for event in epochs] == [["loss"]] * 4 + [["contrast", "loss"]] * 2
    assert list((workspace / "nnUNet_results").rglob("checkpoint_final.pth")) != []


def ledger(folder: Path, *volumes: tuple[float, float]) -> RoundFolder:
    lines = [f"case{number},{core},{rim},1," for number, (core, rim) in enumerate(volumes)]
    (folder / "ledger.csv").write_text("\n".join(["case,volume_ml_core,volume_ml_rim,used,remarks", *lines, ""]))
    return RoundFolder(folder)


def test_f47_background_is_degenerate_a_little_foreground_is_not(tmp_path: Path) -> None:
    folder = ledger(tmp_path, (0, 0), (0, 0), (0, 0.1))
    classes = ["core", "rim"]
    assert is_degenerate(folder, ["case0", "case1"], classes)
    assert not is_degenerate(folder, ["case0", "case2"], classes)
    # A filter that keeps nothing leaves nothing to learn from.
    assert is_degenerate(folder, [], classes)


def test_f47_a_class_that_swallows_all_is_a_collapse() -> None:
    labeled = {"core": np.array([2.0, 4.0]), "rim": np.array([1.0, 2.0])}
    before = {f"case{number}": {"core": 3.0, "rim": 1.5} for number in range(4)}
    after = {case: {"core": 90.0, "rim": 0.0} for case in before}
    reasons = " ".join(collapse(before, after, labeled, margin=2.0))
    assert "the median volume of core went from 3 to 90 ml" in reasons
    assert "rim has vanished everywhere" in reasons
