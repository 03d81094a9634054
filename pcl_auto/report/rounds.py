"""Tell which rounds of a run used the unlabeled scans: the one count of pseudo-labels that all of a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pcl_auto.training.run_facts import RunFacts, schedule_of

Outcome = Literal["used", "labels alone", "rolled back", "not reached"]


@dataclass(frozen=True)
class RoundUse:
    """Outcome of a round for its pseudo-labels.

    ``number``: 0 for the epochs before the rounds, where they begin with pseudo-labels. ``source``: the round whose
    pseudo-labels it had, an earlier one after a roll-back. ``cases``: how many there were. ``used``: how many of them
    the network has learned from; 0 where the round trained on labels alone or was rolled back. ``is_best_of_bad``: none
    of them passed the filter. ``reasons``: of labels alone, or of the roll-back.
    """

    number: int
    outcome: Outcome
    source: int
    cases: int = 0
    used: int = 0
    is_best_of_bad: bool = False
    reasons: tuple[str, ...] = ()


def round_uses(run: RunFacts) -> list[RoundUse]:
    """List what every round of the schedule did, by the events and ledgers of ``run``; round 0 if there was one."""
    rolled_back = {event["round"]: event for event in run.happened("rolled_back")}
    labels_alone = {event["round"]: event for event in run.happened("degenerate")}
    made = {event["round"]: event for event in run.happened("pseudo_labels")}
    ledgers = {entry.number: entry for entry in run.rounds}
    schedule = schedule_of(run.identity)
    last_epoch = run.epochs[-1]["epoch"] if run.epochs else 0
    uses = []
    for number in range(0 if 0 in made else 1, schedule.rounds + 1):
        source = number
        while source - 1 in rolled_back:
            source -= 1
        begins_after = schedule.supervised_epochs + (number - 1) * schedule.epochs_per_round if number else 0
        event, ledger = made.get(source, {}), ledgers.get(source)
        cases, used = (
            (event.get("cases", 0), event.get("used", 0)) if ledger is None else (len(ledger.rows), ledger.used)
        )
        outcome: Outcome = "used" if used else "labels alone"
        reasons: tuple[str, ...] = ()
        if last_epoch <= begins_after:
            outcome = "not reached"
        elif number in rolled_back:
            outcome, reasons = "rolled back", tuple(map(str, rolled_back[number]["reasons"]))
        elif number in labels_alone:
            outcome, reasons = "labels alone", tuple(map(str, labels_alone[number].get("reasons", ["all background"])))
        uses.append(
            RoundUse(
                number,
                outcome,
                source,
                cases,
                used if outcome == "used" else 0,
                outcome == "used" and bool(event.get("kept_best")),
                reasons,
            )
        )
    return uses


def why_unused(uses: Sequence[RoundUse], number: int) -> str:
    """Say why the network has learned from none of the pseudo-labels of round ``number``; empty where it has.

    They may have been learned from in a later round, after a roll-back.
    """
    outcomes = [use.outcome for use in uses if use.source == number]
    if "used" in outcomes:
        return ""
    if "rolled back" in outcomes or not outcomes:
        return "the round was rolled back"
    return {"labels alone": "the round trained on labels alone"}.get(outcomes[-1], "the round has not begun")


def count_used(uses: Sequence[RoundUse]) -> tuple[int, int]:
    """Count the rounds that used the unlabeled scans, and all of the schedule; without round 0."""
    rounds = [use for use in uses if use.number]
    return sum(use.used > 0 for use in rounds), len(rounds)


def describe_use(uses: Sequence[RoundUse]) -> str:
    """Say how many rounds used the unlabeled scans, as "1 of 2 rounds used the unlabeled scans"."""
    used, rounds = count_used(uses)
    if not rounds:
        return "no round was to use the unlabeled scans"
    start = "the supervised start and " if any(use.used for use in uses if not use.number) else ""
    return f"{start}{used} of {rounds} round{'s' * (rounds != 1)} used the unlabeled scans"
