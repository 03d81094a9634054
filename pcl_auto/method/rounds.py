"""Self-training in rounds (Chaitanya et al., MedIA 2023), as the method section tells it.

Step one (Eq. 1) learns the segmentation from the labeled cases alone. Then, in every round, the network segments the
unlabeled cases, and step two (Eq. 2) learns from both: the segmentation loss on labeled cases, the local contrastive
loss (Eq. 3 and 4) on labeled cases with their labels and on unlabeled cases with their pseudo-labels.

Pseudo-labels that are there before any network, made by registration or by another tool, take the place of the first
ones: then both losses learn from them in step one already, and the network of round one replaces them.

A network may come out of a round collapsed. The round is then rolled back: network and pseudo-labels are those from
before it, and the next round is a second try, with other patches and, where it decays, a lower learning rate. After a
second collapse training ends, with the network from before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pcl_auto.recipe.settings import Schedule


@dataclass(frozen=True)
class Round:
    """A joint round: its number, from 1, and the epochs ``first_epoch <= epoch < last_epoch`` that it lasts."""

    number: int
    first_epoch: int
    last_epoch: int


class Learner(Protocol):
    """A network that can be trained and can segment, as :func:`self_train` needs it."""

    @property
    def epoch(self) -> int:
        """Epochs finished so far; above 0 at the start of a resumed run."""

    def begin_with_pseudo_labels(self) -> bool:
        """Take the pseudo-labels that are there before any network as round 0; return whether there are any."""

    def learn_from_labels(self, until_epoch: int) -> None:
        """Train on labeled cases alone (Eq. 1)."""

    def pseudo_label(self, round_number: int) -> None:
        """Segment every unlabeled case, assess the result and keep it for the round."""

    def check_collapse(self, round_number: int) -> bool:
        """Roll back round ``round_number``, just finished, if it ended in a collapse; return whether to train on."""

    def learn_jointly(self, round_number: int, until_epoch: int) -> None:
        """Train on labeled cases and on the round's pseudo-labels together (Eq. 2)."""


def joint_rounds(schedule: Schedule) -> Iterator[Round]:
    """Yield the rounds of ``schedule``, in order."""
    for index in range(schedule.rounds):
        start = schedule.supervised_epochs + index * schedule.epochs_per_round
        yield Round(index + 1, start, start + schedule.epochs_per_round)


def self_train(learner: Learner, schedule: Schedule) -> None:
    """Train step one, then the rounds; a resumed learner goes on in the epoch where it stopped.

    The pseudo-labels of a round show what the round before it has made of the network; round 0 is step one.
    """
    if learner.epoch < schedule.supervised_epochs:
        if learner.begin_with_pseudo_labels():
            learner.learn_jointly(0, schedule.supervised_epochs)
        else:
            learner.learn_from_labels(schedule.supervised_epochs)
    for joint_round in joint_rounds(schedule):
        if learner.epoch < joint_round.last_epoch:
            learner.pseudo_label(joint_round.number)
            if learner.epoch == joint_round.first_epoch and not learner.check_collapse(joint_round.number - 1):
                return
            learner.learn_jointly(joint_round.number, joint_round.last_epoch)
    if schedule.rounds:
        learner.check_collapse(schedule.rounds)
