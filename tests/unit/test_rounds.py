"""The self-training story, told to a learner that only takes notes."""

from __future__ import annotations

import pytest

from pcl_auto.recipe import Schedule
from pcl_auto.rounds import Round, joint_rounds, self_train

SCHEDULE = Schedule(supervised_epochs=3, rounds=2, epochs_per_round=2)
FRESH = [
    "epoch 0 supervised",
    "epoch 1 supervised",
    "epoch 2 supervised",
    "pseudo-label 1",
    "epoch 3 round 1",
    "epoch 4 round 1",
    "pseudo-label 2",
    "epoch 5 round 2",
    "epoch 6 round 2",
]


class Stopped(Exception):
    """The learner was stopped."""


class Diary:
    """A learner that notes what it does, and is stopped before ``stop_at``."""

    def __init__(self, epoch: int = 0, stop_at: int | None = None) -> None:
        self.epoch = epoch
        self.stop_at = stop_at
        self.notes: list[str] = []

    def _train(self, until_epoch: int, stage: str) -> None:
        while self.epoch < until_epoch:
            if self.epoch == self.stop_at:
                raise Stopped
            self.notes.append(f"epoch {self.epoch} {stage}")
            self.epoch += 1

    def learn_from_labels(self, until_epoch: int) -> None:
        self._train(until_epoch, "supervised")

    def pseudo_label(self, round_number: int) -> None:
        self.notes.append(f"pseudo-label {round_number}")

    def learn_jointly(self, round_number: int, until_epoch: int) -> None:
        self._train(until_epoch, f"round {round_number}")


def test_rounds_follow_the_supervised_start_without_a_gap() -> None:
    assert list(joint_rounds(SCHEDULE)) == [Round(1, 3, 5), Round(2, 5, 7)]
    assert list(joint_rounds(SCHEDULE))[-1].last_epoch == SCHEDULE.epochs


def test_a_fresh_run() -> None:
    learner = Diary()
    self_train(learner, SCHEDULE)
    assert learner.notes == FRESH
    assert learner.epoch == SCHEDULE.epochs


def test_a_finished_run_does_nothing() -> None:
    learner = Diary(epoch=SCHEDULE.epochs)
    self_train(learner, SCHEDULE)
    assert learner.notes == []


@pytest.mark.parametrize("epoch", range(SCHEDULE.epochs))
def test_a_resumed_run_goes_on_where_it_stopped(epoch: int) -> None:
    before = Diary(stop_at=epoch)
    with pytest.raises(Stopped):
        self_train(before, SCHEDULE)
    after = Diary(epoch=before.epoch)
    self_train(after, SCHEDULE)
    trained = [note for note in before.notes + after.notes if note.startswith("epoch")]
    assert trained == [note for note in FRESH if note.startswith("epoch")]


@pytest.mark.parametrize("epoch", range(SCHEDULE.epochs))
def test_a_resumed_run_opens_unfinished_rounds_alone(epoch: int) -> None:
    learner = Diary(epoch=epoch)
    self_train(learner, SCHEDULE)
    opened = [note for note in learner.notes if note.startswith("pseudo-label")]
    assert opened == [f"pseudo-label {joint.number}" for joint in joint_rounds(SCHEDULE) if joint.last_epoch > epoch]
    # Its pseudo-labels are there before a round's first epoch.
    for number in (1, 2):
        epochs = [index for index, note in enumerate(learner.notes) if note.endswith(f"round {number}")]
        if epochs:
            assert learner.notes.index(f"pseudo-label {number}") == epochs[0] - 1
