"""The self-training of Chaitanya et al. (MedIA 2023), as a story that any learner can live through.

Step one (Eq. 1) learns the segmentation from the labelled cases alone. Then, in every round, the network of the
moment segments the unlabelled cases, and step two (Eq. 2) learns from both: the segmentation loss on the labelled
cases, the local contrastive loss (Eq. 3 and 4) on labelled cases with their labels and on unlabelled cases with
their pseudo-labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pcl_auto.recipe import Schedule


@dataclass(frozen=True)
class Round:
    """A joint round: its number, from 1, and the epochs ``first_epoch <= epoch < last_epoch`` that it lasts."""

    number: int
    first_epoch: int
    last_epoch: int


class Learner(Protocol):
    """What the story needs: a network that can be trained and can segment."""

    @property
    def epoch(self) -> int:
        """Epochs finished so far; more than none in a run that was resumed."""

    def learn_from_labels(self, until_epoch: int) -> None:
        """Train on labelled cases alone (Eq. 1)."""

    def pseudo_label(self, round_number: int) -> None:
        """Segment every unlabelled case, judge the result and keep it for the round."""

    def learn_jointly(self, round_number: int, until_epoch: int) -> None:
        """Train on labelled cases and on the round's pseudo-labels together (Eq. 2)."""


def joint_rounds(schedule: Schedule) -> Iterator[Round]:
    """The rounds of ``schedule``, in order."""
    for index in range(schedule.rounds):
        start = schedule.supervised_epochs + index * schedule.epochs_per_round
        yield Round(index + 1, start, start + schedule.epochs_per_round)


def self_train(learner: Learner, schedule: Schedule) -> None:
    """Step one, then the rounds; a resumed learner goes on in the epoch where it stopped."""
    if learner.epoch < schedule.supervised_epochs:
        learner.learn_from_labels(schedule.supervised_epochs)
    for joint_round in joint_rounds(schedule):
        if learner.epoch < joint_round.last_epoch:
            learner.pseudo_label(joint_round.number)
            learner.learn_jointly(joint_round.number, joint_round.last_epoch)
