"""The weights that a stage ends with: those of its best epoch, and the same after an interruption."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pcl_auto.nnunet.checkpoint_files import read_checkpoint, write_checkpoint
from pcl_auto.nnunet.training import joint_trainer
from pcl_auto.nnunet.training.best_of_stage import BestOfStage
from pcl_auto.nnunet.training.joint_trainer import nnUNetTrainerPCL
from pcl_auto.nnunet.training.round_guard import RoundGuard
from pcl_auto.recipe.load import from_dict

# Two supervised epochs, then two rounds of three.
RECIPE = {
    "name": "mine",
    "schedule": {"supervised_epochs": 2, "rounds": 2, "epochs_per_round": 3},
    "pseudo_labels": {"network": "best_validation"},
}


class Trained:
    """A trainer whose one weight is the number of its epoch, and of which only the choice of weights is real."""

    def __init__(self, folder: Path, dice: list[float], *, validation: bool = True, recipe: Any = None) -> None:
        trainer: Any = nnUNetTrainerPCL.__new__(nnUNetTrainerPCL)
        trainer.settings = SimpleNamespace(recipe=from_dict(recipe or RECIPE))
        trainer.guard, trainer.best_of_stage = RoundGuard(folder, trainer.recipe), BestOfStage()
        trainer.network, trainer.joint_step = nn.Linear(1, 1, bias=False), SimpleNamespace(parts=dict, load_start=list)
        trainer.chooses_best, trainer._best_ema, trainer._best_weights = validation, None, None
        curves = {"mean_fg_dice": dice, "ema_fg_dice": [0.0] * len(dice)}
        trainer.logger = SimpleNamespace(get_value=lambda name, step: curves[name][step])
        self.said: list[dict[str, Any]] = []
        trainer.events = SimpleNamespace(emit=lambda event, **values: self.said.append({"event": event, **values}))
        trainer._parts = lambda: {"network_weights": trainer.network, "optimizer": None}
        self.trainer, trainer.current_epoch = trainer, 0

    def learn(self, epochs: int) -> None:
        for _ in range(epochs):
            self.trainer.network.weight.data.fill_(self.trainer.current_epoch + 1)
            self.trainer._keep_best()
            self.trainer.current_epoch += 1

    def end_stage(self, number: int) -> float:
        self.trainer._end_stage(number)
        return float(self.trainer.network.weight.detach())

    @property
    def chosen(self) -> list[tuple[int, int, float]]:
        chosen = [event for event in self.said if event["event"] == "best_of_stage"]
        return [(event["round"], event["epoch"], event["patch_dice"]) for event in chosen]


def test_every_stage_ends_with_the_first_of_its_best_epochs(tmp_path: Path) -> None:
    run = Trained(tmp_path, [0.9, 0.8, 0.3, 0.5, 0.5, 0.1, 0.1, 0.1])
    run.learn(2)
    assert run.end_stage(1) == 1
    run.learn(3)
    assert run.end_stage(2) == 4  # not epoch 1, which was better: it is of another stage
    assert run.chosen == [(1, 1, 0.9), (2, 4, 0.5)]


def test_within_a_round_nothing_goes_back(tmp_path: Path) -> None:
    run = Trained(tmp_path, [0.9, 0.8, 0.3, 0.2, 0.1])
    run.learn(4)
    assert run.end_stage(1) == 4
    assert run.chosen == []


def test_a_round_that_was_rolled_back_is_not_gone_back_to(tmp_path: Path) -> None:
    run = Trained(tmp_path, [0.5, 0.6, 0.9, 0.2, 0.1])
    run.learn(5)
    run.trainer._save_finished = lambda _file: None
    run.trainer.run_folder, run.trainer.device = tmp_path, torch.device("cpu")
    run.trainer.guard.roll_back = lambda *_: (run.trainer.network.weight.data.fill_(2), {})[1]
    run.trainer._roll_back(1, ["a class has vanished"])
    assert run.end_stage(2) == 2


@pytest.mark.parametrize(
    ("validation", "recipe"), [(False, RECIPE), (True, {**RECIPE, "pseudo_labels": {"network": "last"}})]
)
def test_otherwise_a_stage_ends_with_its_last_epoch(tmp_path: Path, validation: bool, recipe: dict[str, Any]) -> None:
    run = Trained(tmp_path, [0.9, 0.8], validation=validation, recipe=recipe)
    run.learn(2)
    assert run.end_stage(1) == 2
    assert run.trainer.best_of_stage.state_dict() is None


def test_a_checkpoint_between_two_stages_chooses_the_same(tmp_path: Path) -> None:
    run = Trained(tmp_path, [0.9, 0.8])
    run.learn(2)
    state = {"network_weights": {}, "best_of_stage": run.trainer.best_of_stage.state_dict()}
    write_checkpoint(tmp_path / "checkpoint.pth", state)
    resumed = Trained(tmp_path, [0.9, 0.8])
    resumed.trainer.current_epoch = 2
    resumed.trainer.load_supervised_state(
        {**read_checkpoint(tmp_path / "checkpoint.pth"), "best_weights": None, "seconds": 1.0}
    )
    assert resumed.end_stage(1) == run.end_stage(1) == 1
    assert resumed.chosen == run.chosen


def test_a_start_of_an_older_version_has_nothing_to_choose(tmp_path: Path) -> None:
    run = Trained(tmp_path, [0.9, 0.8])
    run.learn(2)
    run.trainer.load_supervised_state({"best_weights": None, "seconds": 1.0})
    assert run.end_stage(1) == 2


def test_what_is_kept_does_not_change_with_the_network() -> None:
    layer, best = nn.BatchNorm1d(2), BestOfStage()
    best.see(1, 0.5, {"head": layer})
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.weight.data.fill_(7)
    layer(torch.randn(4, 2))
    assert best.restore({"head": layer}) == {"epoch": 1, "patch_dice": 0.5}
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize(("validation", "said"), [(True, []), (False, [{"event": "last_weights"}])])
def test_without_validation_cases_a_training_says_that_it_cannot_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validation: bool, said: list[dict[str, Any]]
) -> None:
    run = Trained(tmp_path, [], validation=validation)
    run.trainer.run_folder = tmp_path
    monkeypatch.setattr(joint_trainer, "self_train", lambda _learner, schedule: run.said.append({"rounds": schedule}))
    run.trainer.learn()
    assert run.said == [*said, {"rounds": run.trainer.recipe.schedule}]
