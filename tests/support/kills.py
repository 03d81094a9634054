"""Kill commands and repeat them: what is left in the end must be what an unbroken run leaves.

``python tests/support/kills.py --kills 50 --stride 3`` (``make soak``) is the long form of what the tests run.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from forks import KILLED, Place, digests

POINTS = ("sync", "rename", "renamed")


@dataclass
class Account:
    """Count of what was done, and list of what went wrong."""

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

    def until_done(self, account: Account, place: Place) -> None:
        """Repeat the command, which must end well and leave what an unbroken run leaves."""
        code = place.attempt(self.arguments)
        account.resumed += 1
        if code != 0:
            account.wrong.append(f"{self.name}: repeated after a kill it ended with {code}: see {place.log}")


def kill_at_points(stage: Stage, account: Account, place: Place, *, stride: int) -> None:
    """Kill ``stage`` before and after every ``stride``-th sync and renaming, and repeat it."""
    expected = unbroken(stage, account, place)
    for point in POINTS:
        for number in range(1 + stride // 2, 10_000, stride):
            stage.reset()
            code = place.attempt(stage.arguments, fault=f"{point}:{number}")
            if code == 0:
                break
            account.kills += 1
            if code != KILLED:
                account.wrong.append(f"{stage.name}: ended with {code} at {point}:{number}: see {place.log}")
            stage.until_done(account, place)
            compare(stage, expected, account, f"after a kill at {point}:{number}")


def kill_at_random(stage: Stage, account: Account, place: Place, *, kills: int, seed: int) -> None:
    """Kill ``stage`` at random moments, repeat it, and kill it again, until it has ended; then from the start."""
    draw = random.Random(seed)
    begun = time.monotonic()
    expected = unbroken(stage, account, place)
    duration = time.monotonic() - begun
    while kills > 0:
        stage.reset()
        while kills > 0:
            code = place.attempt(stage.arguments, seconds=draw.uniform(0, duration))
            if code == 0:
                break
            kills -= 1
            account.kills += 1
            if code != KILLED:
                account.wrong.append(f"{stage.name}: ended with {code} when repeated: see {place.log}")
        stage.until_done(account, place)
        compare(stage, expected, account, "after kills at random")


def unbroken(stage: Stage, account: Account, place: Place) -> dict[str, str]:
    """Return what a run of ``stage`` leaves that nobody kills."""
    stage.reset()
    if code := place.attempt(stage.arguments):
        account.wrong.append(f"{stage.name}: unbroken it ended with {code}: see {place.log}")
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


def kill_everything(*, kills: int, stride: int, seed: int) -> Account:
    """Kill a plan, a training and a prediction; what went wrong is kept, with all files.

    Args:
        kills: at random moments of the training.
        stride: kill at every so many-th sync and renaming.
        seed: of the random moments.
    """
    place, account = Place.new(), Account()
    for stage in stages(place):
        begun, before = time.monotonic(), account.kills
        # A training has many times the files of the others.
        kill_at_points(stage, account, place, stride=stride if stage.name == "train" else 1 + stride // 15)
        if stage.name == "train":
            kill_at_random(stage, account, place, kills=kills, seed=seed)
        print(f"{stage.name}: {account.kills - before} kills in {time.monotonic() - begun:.0f} s", flush=True)
    if account.wrong:
        account.wrong.append(f"everything is in {place.folder}")
    else:
        shutil.rmtree(place.folder)
    return account


def main() -> int:
    """Kill, repeat, compare; 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="kills at random moments of a training")
    parser.add_argument("--stride", type=int, default=3, help="kill at every so many-th sync and renaming")
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()

    account = kill_everything(kills=settings.kills, stride=settings.stride, seed=settings.seed)
    print(account)
    return int(bool(account.wrong))


if __name__ == "__main__":
    sys.exit(main())
