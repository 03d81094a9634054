"""The self-training story, told to a learner that only takes notes."""

from __future__ import annotations

import pytest

from pcl_auto.method.rounds import Round, joint_rounds, self_train
from pcl_auto.recipe.settings import Schedule

SCHEDULE = Schedule(supervised_epochs=3, rounds=2, epochs_per_round=2)
FRESH = [
    "epoch 0 supervised",
    "epoch 1 supervised",
    "epoch 2 supervised",
    "pseudo-label 1",
    "round 0 check_collapse",
    "epoch 3 round 1",
    "epoch 4 round 1",
    "pseudo-label 2",
    "round 1 check_collapse",
    "epoch 5 round 2",
    "epoch 6 round 2",
    "round 2 check_collapse",
]


class Stopped(Exception):
    """The learner was stopped."""


class Diary:
    """A learner that notes what it does, and is stopped before ``stop_at``."""

    def __init__(
        self, epoch: int = 0, stop_at: int | None = None, collapses: tuple[int, ...] = (), *, begins: bool = False
    ) -> None:
        self.collapses = collapses
        self.begins = begins
        self.rolled_back = 0
        self.epoch = epoch
        self.stop_at = stop_at
        self.notes: list[str] = []

    def _train(self, until_epoch: int, stage: str) -> None:
        while self.epoch < until_epoch:
            if self.epoch == self.stop_at:
                raise Stopped
            self.notes.append(f"epoch {self.epoch} {stage}")
            self.epoch += 1

    def begin_with_pseudo_labels(self) -> bool:
        return self.begins

    def learn_from_labels(self, until_epoch: int) -> None:
        self._train(until_epoch, "supervised")

    def pseudo_label(self, round_number: int) -> None:
        self.notes.append(f"pseudo-label {round_number}")

    def check_collapse(self, round_number: int) -> bool:
        collapsed = round_number in self.collapses
        self.rolled_back += collapsed
        self.notes.append(f"round {round_number} {'rolled back' if collapsed else 'check_collapse'}")
        return self.rolled_back < 2

    def learn_jointly(self, round_number: int, until_epoch: int) -> None:
        self._train(until_epoch, f"round {round_number}")


def test_rounds_follow_the_supervised_start_without_a_gap() -> None:
    assert list(joint_rounds(SCHEDULE)) == [Round(1, 3, 5), Round(2, 5, 7)]
    assert list(joint_rounds(SCHEDULE))[-1].last_epoch == SCHEDULE.epochs


def test_what_is_there_before_any_network_is_learned_from_in_step_one() -> None:
    learner = Diary(begins=True)
    self_train(learner, SCHEDULE)
    assert learner.notes == [note.replace("supervised", "round 0") for note in FRESH]
    resumed = Diary(epoch=4, begins=True)
    self_train(resumed, SCHEDULE)
    assert resumed.notes[0] == "pseudo-label 1", "step one is over"


def test_a_fresh_run() -> None:
    learner = Diary()
    self_train(learner, SCHEDULE)
    assert learner.notes == FRESH
    assert learner.epoch == SCHEDULE.epochs


def test_without_rounds_there_is_only_the_supervised_start() -> None:
    learner = Diary()
    self_train(learner, Schedule(supervised_epochs=2, rounds=0))
    assert learner.notes == ["epoch 0 supervised", "epoch 1 supervised"]


def test_a_finished_run_only_looks_back() -> None:
    learner = Diary(epoch=SCHEDULE.epochs)
    self_train(learner, SCHEDULE)
    assert learner.notes == ["round 2 check_collapse"]


def test_after_a_collapse_the_next_round_is_a_second_try() -> None:
    learner = Diary(collapses=(1,))
    self_train(learner, SCHEDULE)
    assert learner.notes == [note.replace("round 1 check_collapse", "round 1 rolled back") for note in FRESH]


def test_after_a_second_collapse_training_ends() -> None:
    learner = Diary(collapses=(1, 2))
    self_train(learner, Schedule(supervised_epochs=1, rounds=4, epochs_per_round=1))
    assert learner.notes == [
        "epoch 0 supervised",
        "pseudo-label 1",
        "round 0 check_collapse",
        "epoch 1 round 1",
        "pseudo-label 2",
        "round 1 rolled back",
        "epoch 2 round 2",
        "pseudo-label 3",
        "round 2 rolled back",
    ]


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
            assert learner.notes.index(f"pseudo-label {number}") < epochs[0]
            # A round that was begun before is not judged again.
            begun = joint_rounds(SCHEDULE)
            fresh = [joint.first_epoch >= epoch for joint in begun if joint.number == number] == [True]
            assert (f"round {number - 1} check_collapse" in learner.notes) == fresh
