"""F35: a damaged checkpoint is noticed; the one before it is taken, or the run refused: never a silent restart."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from refusal import refused

from pcl_auto.errors import StateError
from pcl_auto.nnunet.checkpoint_files import OWN_KEY, read_checkpoint, write_checkpoint
from pcl_auto.nnunet.training import save_and_resume
from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised
from pcl_auto.workspace.run_record import LATEST, PREVIOUS


def content(epoch: int) -> dict[str, Any]:
    weights = {"w": torch.arange(600.0) + epoch, "b": torch.ones(3)}
    return {"network_weights": weights, "current_epoch": epoch, OWN_KEY: {"epoch": epoch}}


def run_of(folder: Path, epochs: int) -> Path:
    for epoch in range(1, epochs + 1):
        write_checkpoint(folder / LATEST, content(epoch), previous=folder / PREVIOUS)
    return folder / LATEST


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    file.write_bytes(data)


class Trainer(SimpleNamespace):
    """As much of a trainer as taking up a checkpoint needs."""

    def __init__(self) -> None:
        super().__init__(events=SimpleNamespace(emit=lambda event, **values: self.said.append((event, values))))
        self.said: list[tuple[str, dict[str, Any]]] = []

    @property
    def epoch(self) -> int:
        return int(self.taken["current_epoch"])

    def load_own_state(self, state: dict[str, Any]) -> None:
        self.own_state = state

    def take_up(self, file: Path) -> int:
        nnUNetTrainerPCLSupervised.load_checkpoint(self, str(file))  # type: ignore[arg-type]
        assert self.own_state == {"epoch": self.epoch}
        return self.epoch


def take(trainer: Trainer, file: Path) -> dict[str, Any]:
    """Read a checkpoint, as far as this trainer is one."""
    content = trainer.taken = read_checkpoint(file)
    return content


@pytest.fixture(autouse=True)
def half_a_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save_and_resume, "load_training_state", take)


def test_f35_two_generations_are_kept(tmp_path: Path) -> None:
    latest = run_of(tmp_path, 3)
    assert read_checkpoint(latest)["current_epoch"] == 3
    assert read_checkpoint(tmp_path / PREVIOUS)["current_epoch"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [LATEST, PREVIOUS]


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_f35_the_one_before_is_taken_and_that_is_said(tmp_path: Path, damage: str) -> None:
    latest, trainer = run_of(tmp_path, 3), Trainer()
    if damage == "cut":
        latest.write_bytes(latest.read_bytes()[:1000])
    elif damage == "flipped":
        flip(latest, 8 * latest.read_bytes().index(b"\x00\x00\x80?"))
    else:
        latest.unlink()
    assert trainer.take_up(latest) == 2
    ((event, values),) = trainer.said
    assert (event, values["epoch"]) == ("checkpoint_damaged", 2)
    assert values["problem"]["code"] == ("checkpoint.missing" if damage == "gone" else "checkpoint.unreadable")
    assert values["problem"]["where"] == str(latest)
    # And from then on it is the latest.
    assert read_checkpoint(latest)["current_epoch"] == 2


def test_f35_without_a_whole_one_the_run_is_refused(tmp_path: Path) -> None:
    latest = run_of(tmp_path, 2)
    for file in (latest, tmp_path / PREVIOUS):
        file.write_bytes(file.read_bytes()[:1000])
    with refused(StateError, "checkpoint.unreadable"):
        Trainer().take_up(latest)
    assert latest.is_file()


def test_f35_a_named_checkpoint_is_not_stood_in_for(tmp_path: Path) -> None:
    run_of(tmp_path, 2)
    with refused(StateError, "checkpoint.missing"):
        Trainer().take_up(tmp_path / "checkpoint_final.pth")


def test_f35_no_flipped_bit_changes_what_is_read(tmp_path: Path) -> None:
    draw, latest = random.Random(0), run_of(tmp_path, 1)
    whole, refused = latest.read_bytes(), 0
    for _ in range(300):
        latest.write_bytes(whole)
        flip(latest, draw.randrange(8 * len(whole)))
        try:
            found = read_checkpoint(latest)
        except StateError:
            refused += 1
        else:  # in what fills the space between the parts
            assert torch.equal(found["network_weights"]["w"], torch.arange(600.0) + 1)
    assert refused > 150


def test_f35_where_a_file_system_knows_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_paths: object) -> None:
        raise OSError("not supported")

    monkeypatch.setattr("os.link", no_links)
    assert Trainer().take_up(run_of(tmp_path, 3)) == 3
    assert read_checkpoint(tmp_path / PREVIOUS)["current_epoch"] == 2
