"""Kill commands and repeat them: what is left in the end must be what an unbroken run leaves.

``python tests/faults/kills.py --kills 50 --stride 3`` (``make soak``) is the long form of what the tests run.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from forks import KILLED, Place, attempt, digests

POINTS = ("sync", "rename", "renamed")


@dataclass
class Account:
    """What was done and what went wrong."""

    kills: int = 0
    resumed: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line, and one for everything that went wrong."""
        return "\n".join([f"{self.kills} kills, {self.resumed} commands repeated to their end", *self.wrong])


@dataclass(frozen=True)
class Stage:
    """A command, the state it starts from, and what it leaves."""

    name: str
    arguments: Sequence[str]
    reset: Callable[[], None]
    outcome: Callable[[], dict[str, str]]

    def until_done(self, account: Account, log: Path) -> None:
        """Repeat the command, which must end well and leave what an unbroken run leaves."""
        code = attempt(self.arguments, log)
        account.resumed += 1
        if code != 0:
            account.wrong.append(f"{self.name}: repeated after a kill it ended with {code}: see {log}")


def kill_at_points(stage: Stage, account: Account, log: Path, *, stride: int) -> None:
    """Kill ``stage`` before and after every ``stride``-th sync and renaming, and repeat it."""
    expected = unbroken(stage, account, log)
    for point in POINTS:
        for number in range(1 + stride // 2, 10_000, stride):
            stage.reset()
            code = attempt(stage.arguments, log, fault=f"{point}:{number}")
            if code == 0:
                break
            account.kills += 1
            if code != KILLED:
                account.wrong.append(f"{stage.name}: ended with {code} at {point}:{number}: see {log}")
            stage.until_done(account, log)
            compare(stage, expected, account, f"after a kill at {point}:{number}")


def kill_at_random(stage: Stage, account: Account, log: Path, *, kills: int, seed: int) -> None:
    """Kill ``stage`` at random moments, repeat it, and kill it again, until it has ended; then from the start."""
    draw = random.Random(seed)
    begun = time.monotonic()
    expected = unbroken(stage, account, log)
    duration = time.monotonic() - begun
    while kills > 0:
        stage.reset()
        while kills > 0:
            code = attempt(stage.arguments, log, seconds=draw.uniform(0, duration))
            if code == 0:
                break
            kills -= 1
            account.kills += 1
            if code != KILLED:
                account.wrong.append(f"{stage.name}: ended with {code} when repeated: see {log}")
        stage.until_done(account, log)
        compare(stage, expected, account, "after kills at random")


def unbroken(stage: Stage, account: Account, log: Path) -> dict[str, str]:
    """What a run of ``stage`` leaves that nobody kills."""
    stage.reset()
    if code := attempt(stage.arguments, log):
        account.wrong.append(f"{stage.name}: unbroken it ended with {code}: see {log}")
    return stage.outcome()


def compare(stage: Stage, expected: dict[str, str], account: Account, when: str) -> None:
    """Put on the account what differs."""
    found = stage.outcome()
    differing = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if differing or not expected:
        account.wrong.append(f"{stage.name}: {when} these differ: {', '.join(differing)}")


def stages(place: Place) -> Iterator[Stage]:
    """Plan, train and predict, each from the end of the stage before."""
    kept = place.folder / "kept"

    def restore() -> None:
        shutil.rmtree(place.work, ignore_errors=True)
        if kept.is_dir():
            shutil.copytree(kept, place.work, symlinks=True)

    def keep() -> None:
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(place.work, kept, symlinks=True)

    planned = ["*/*.json", "*/pclauto/*.json", "*/pclauto/store/**/*"]
    yield Stage("plan", place.plan, restore, lambda: digests(place.work / "nnUNet_preprocessed", planned))
    keep()
    yield Stage("train", place.train, restore, place.trained)
    yield Stage(
        "predict",
        place.predict,
        lambda: shutil.rmtree(place.masks, ignore_errors=True),
        lambda: digests(place.masks, ["*"]),
    )


def main() -> int:
    """Kill, repeat, compare; 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="kills at random moments of a training")
    parser.add_argument("--stride", type=int, default=3, help="kill at every so many-th sync and renaming")
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()

    place, account = Place.new(), Account()
    for stage in stages(place):
        begun, before = time.monotonic(), account.kills
        # A training has many times the files of the others.
        stride = settings.stride if stage.name == "train" else 1 + settings.stride // 15
        kill_at_points(stage, account, place.log, stride=stride)
        if stage.name == "train":
            kill_at_random(stage, account, place.log, kills=settings.kills, seed=settings.seed)
        print(f"{stage.name}: {account.kills - before} kills in {time.monotonic() - begun:.0f} s", flush=True)
    print(account)
    if account.wrong:
        print(f"everything is in {place.folder}")
        return 1
    shutil.rmtree(place.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
