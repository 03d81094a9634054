"""The guard of a run: its way back, and which pseudo-labels a round has after a roll-back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pcl_auto.nnunet.data import pseudo_label_files
from pcl_auto.nnunet.training.round_guard import RoundGuard
from pcl_auto.recipe.settings import Recipe, Schedule

RECIPE = Recipe("toy", schedule=Schedule(supervised_epochs=2, rounds=3, epochs_per_round=2))
LABELED = {"core": np.array([2.0, 4.0])}


def parts() -> dict[str, Any]:
    network = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {"network_weights": network, "optimizer": optimizer}


def ledger(folder: pseudo_label_files.RoundFolder, *volumes: float) -> None:
    folder.cases.mkdir(parents=True)
    lines = [f"case{number},{volume},1," for number, volume in enumerate(volumes)]
    folder.ledger.write_text("\n".join(["case,volume_ml_core,used,remarks", *lines, ""]))


def test_the_way_back_restores_weights_and_moments(tmp_path: Path) -> None:
    guard, trained = RoundGuard(tmp_path, RECIPE), parts()
    guard.keep_start(1, trained)
    before = {key: value.clone() for key, value in trained["network_weights"].state_dict().items()}
    moment = trained["optimizer"].state_dict()["state"][0]["exp_avg"].clone()
    trained["network_weights"](torch.full((1, 2), 9.0)).sum().backward()
    trained["optimizer"].step()
    assert not torch.equal(trained["network_weights"].weight, before["weight"])

    facts = guard.roll_back(1, trained, torch.device("cpu"))

    assert facts == {"back_to_epoch": 2, "training_ends": False}
    assert torch.equal(trained["network_weights"].weight, before["weight"])
    assert torch.equal(trained["optimizer"].state_dict()["state"][0]["exp_avg"], moment)
    assert guard.collapsed == [1]
    assert not guard.undecided(1)


def test_one_way_back_at_a_time(tmp_path: Path) -> None:
    guard = RoundGuard(tmp_path, RECIPE)
    assert not guard.undecided(0)
    guard.keep_start(1, parts())
    assert guard.undecided(1)
    guard.keep_start(2, parts())
    assert [path.name for path in tmp_path.iterdir()] == ["round_2_start.pth"]
    guard.forget_starts()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("collapsed", "sources"), [([], [1, 2, 3]), ([1], [1, 1, 3]), ([2], [1, 2, 2]), ([1, 2], [1, 1, 1])]
)
def test_after_a_roll_back_the_pseudo_labels_of_before_stay(
    tmp_path: Path, collapsed: list[int], sources: list[int]
) -> None:
    guard = RoundGuard(tmp_path, RECIPE)
    guard.collapsed = collapsed
    assert [guard.source(number) for number in (1, 2, 3)] == sources
    assert guard.goes_on == (len(collapsed) < 2)


def test_a_round_is_judged_by_its_ledgers_and_the_validation_dice(tmp_path: Path) -> None:
    guard = RoundGuard(tmp_path, RECIPE)
    ledger(pseudo_label_files.round_folder(tmp_path, 1), 3, 3)
    ledger(pseudo_label_files.round_folder(tmp_path, 2), 3, 3)
    ledger(pseudo_label_files.round_folder(tmp_path, 3), 0, 0)
    assert guard.reasons(1, LABELED, None) == []
    assert guard.reasons(2, LABELED, None) == ["core has vanished everywhere"]
    assert guard.reasons(1, LABELED, [0.8, 0.8, 0.8, 0.8]) == []
    assert guard.reasons(1, LABELED, [0.8, 0.8, 0.7, 0.5]) == ["the validation Dice fell from 0.800 to 0.600"]
    # A second try is compared with where the first one began, not with what it came to.
    guard.collapsed = [1]
    assert guard.reasons(2, LABELED, [0.8, 0.8, 0.1, 0.1, 0.6, 0.6]) == [
        "core has vanished everywhere",
        "the validation Dice fell from 0.800 to 0.600",
    ]


def test_the_last_round_is_judged_by_the_last_check(tmp_path: Path) -> None:
    guard = RoundGuard(tmp_path, RECIPE)
    ledger(pseudo_label_files.round_folder(tmp_path, 3), 3, 3, 3)
    ledger(pseudo_label_files.last_check_folder(tmp_path), 3, 9)
    assert guard.labels_after(3) == pseudo_label_files.last_check_folder(tmp_path)
    assert guard.reasons(3, LABELED, None) == []


def test_discarded_pseudo_labels_leave_their_ledger(tmp_path: Path) -> None:
    folder = pseudo_label_files.round_folder(tmp_path, 1)
    ledger(folder, 3, 0)
    for _ in range(2):
        pseudo_label_files.discard(folder)
        assert not folder.cases.exists()
        assert folder.complete
        assert pseudo_label_files.used_cases(folder) == []
        assert pseudo_label_files.volumes_ml(folder, ["core"]) == {"case0": {"core": 3.0}, "case1": {"core": 0.0}}
