"""F47: pseudo-labels that teach nothing are noticed, said, and not trained on (roll-backs: e2e/test_collapse.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from shell import Shell

from pcl_auto.method.collapse import collapse, unusable_reasons

# Trains as `pclauto` does, but for a network that segments background alone, up to the round named.
DRIVER = """
import sys
import torch
from pcl_auto.nnunet.training.pseudo_label_stage import PseudoLabelStage
last, *arguments = sys.argv[1:]
def segmenter(self, network):
    heads, empty = self._trainer.label_manager.num_segmentation_heads, self._trainer.epoch < int(last)
    def segment(image):
        logits = torch.zeros(heads, *image.shape[1:])
        logits[0] = 0.5
        for value in range(1, 1 if empty else heads):
            logits[value, :, value::heads] = 1
        return logits
    return segment
PseudoLabelStage.segmenter = segmenter
sys.argv = ["pclauto", *arguments]
from pcl_auto.cli.main import run
run()
"""


@pytest.mark.slow
def test_f47_a_round_of_background_trains_on_labels_alone(shell: Shell, planned: Path) -> None:
    workspace = planned
    command = ("train", "--workspace", workspace, "--recipe", "tiny.toml", "--device", "cpu")
    done = shell.python("-c", DRIVER, "3", *command, pictures=False)
    assert done.returncode == 0, done.stderr
    assert "warning: round 1 trains on labels alone" in done.stderr
    assert "would spoil it: all background" in done.stderr
    (log,) = (workspace / "nnUNet_results").rglob("events.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    told = [(event["round"], event["reasons"]) for event in events if event["event"] == "degenerate"]
    assert told == [(1, ["all background"])]
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [event["stage"] for event in epochs] == [
        *["supervised"] * 2, *["round 1, labels alone"] * 2, *["round 2"] * 2,
    ]  # fmt: skip
    # Nothing of the pseudo-labels in the first, both losses in the second.
    assert [sorted(event["losses"]) for event in epochs] == [["loss"]] * 4 + [["contrast", "loss"]] * 2
    assert list((workspace / "nnUNet_results").rglob("checkpoint_final.pth")) != []


def volumes(*cases: tuple[float, float]) -> dict[str, dict[str, float]]:
    return {f"case{number}": {"core": core, "rim": rim} for number, (core, rim) in enumerate(cases)}


@pytest.mark.parametrize("margin", [0.0, 4.0])
def test_f47_background_is_degenerate_a_little_foreground_is_not(margin: float) -> None:
    unknown = {"core": np.array([]), "rim": np.array([])}
    assert unusable_reasons(volumes((0, 0), (0, 0)), unknown, margin=margin) == ["all background"]
    assert unusable_reasons(volumes((0, 0), (0, 0.1)), unknown, margin=margin) == []
    # A filter that keeps nothing leaves nothing to learn from.
    assert unusable_reasons({}, unknown, margin=margin) == ["all background"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([(3.0, 20.0)], ["rim is 20 ml, labeled cases 1 to 2"]),
        ([(0.1, 1.0), (0.2, 1.0), (3.0, 1.0)], ["core is 0.2 ml, labeled cases 2 to 4"]),
        ([(0.0, 1.0)], ["core is 0 ml, labeled cases 2 to 4"]),
        ([(16.0, 0.25)], []),
        ([(3.0, 20.0), (3.0, 2.0), (3.0, 2.0)], []),  # one scan of three
    ],
)
def test_f47_pseudo_labels_far_from_the_labels_are_degenerate(
    found: list[tuple[float, float]], said: list[str]
) -> None:
    labeled = {"core": np.array([2.0, 4.0]), "rim": np.array([1.0, 2.0])}
    assert unusable_reasons(volumes(*found), labeled, margin=4.0) == [f"the median volume of {text}" for text in said]
    assert unusable_reasons(volumes(*found), labeled, margin=0.0) == []


def test_f47_a_class_that_some_or_all_labeled_cases_lack_may_be_absent() -> None:
    labeled = {"core": np.array([0.0, 4.0]), "rim": np.array([0.0, 0.0])}
    assert unusable_reasons(volumes((0.0, 1.0), (0.0, 1.0)), labeled, margin=4.0) == []


def test_f47_a_class_that_swallows_all_is_a_collapse() -> None:
    labeled = {"core": np.array([2.0, 4.0]), "rim": np.array([1.0, 2.0])}
    before = {f"case{number}": {"core": 3.0, "rim": 1.5} for number in range(4)}
    after = {case: {"core": 90.0, "rim": 0.0} for case in before}
    reasons = " ".join(collapse(before, after, labeled, margin=2.0))
    assert "the median volume of core went from 3 to 90 ml" in reasons
    assert "rim has vanished everywhere" in reasons
