"""Kill commands and repeat them: what is left in the end must be what an unbroken run leaves.

``python tests/support/kills.py --kills 50 --stride 3`` (``make soak``) is the long form of what the tests run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from archive_server import serving
from archives import TASK, pack_task
from forks import KILLED, Place, digests

POINTS = ("sync", "rename", "renamed")
# The commands that others begin with, and all of them.
NEEDED = ("plan", "train", "review")
STAGES = (*NEEDED, "predict", "report", "suggest", "continue", "benchmark", "download")


# Run before a download: the command knows an archive of that name and checksum, and asks no proxy for it.
TOY_ARCHIVE = """
import os
from pcl_auto.data import download
for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
    os.environ.pop(name, None)
download.ARCHIVES = (download.Archive({!r}, {!r}, 0.01, "MR", 2, 1),)
"""


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
    """A command, the state it starts from, and what it leaves.

    Args:
        name: the command's.
        arguments: of ``pclauto``.
        reset: brings the state about.
        outcome: digests of what must be the same.
        code: Python that is run before the command.
        pictures: with those of the report.
        ends: exit codes of a command that was killed; 5 where the kill may be of a process that it started.
        often: kill at so many times more of its points than a training's, which has many times the files of most.
    """

    name: str
    arguments: Sequence[str]
    reset: Callable[[], None]
    outcome: Callable[[], dict[str, str]]
    code: str = ""
    pictures: bool = False
    ends: Collection[int] = (KILLED,)
    often: float = 15

    def attempt(self, place: Place, **how: Any) -> int:
        """Run the command once; ``how`` says when it is killed."""
        return place.attempt(self.arguments, code=self.code, pictures=self.pictures, **how)

    def until_done(self, account: Account, place: Place) -> None:
        """Repeat the command, which must end well and leave what an unbroken run leaves."""
        code = self.attempt(place)
        account.resumed += 1
        if code != 0:
            account.wrong.append(f"{self.name}: repeated after a kill it ended with {code}: see {place.log}")


def kill_at_points(stage: Stage, account: Account, place: Place, *, stride: int) -> None:
    """Kill ``stage`` before and after every ``stride``-th sync and renaming, and repeat it."""
    expected = unbroken(stage, account, place)
    for point in POINTS:
        for number in range(1 + stride // 2, 10_000, stride):
            stage.reset()
            code = stage.attempt(place, fault=f"{point}:{number}")
            if code == 0:
                break
            if code not in stage.ends:
                account.wrong.append(f"{stage.name}: ended with {code} at {point}:{number}: see {place.log}")
                break
            account.kills += 1
            stage.until_done(account, place)
            compare(stage, expected, account, f"after a kill at {point}:{number}")


def kill_at_random(stage: Stage, account: Account, place: Place, *, kills: int, seed: int) -> None:
    """Kill ``stage`` at random moments, repeat it, and kill it again, until it has ended; then from the start."""
    if kills == 0:
        return
    draw = random.Random(seed)
    begun = time.monotonic()
    expected = unbroken(stage, account, place)
    duration = time.monotonic() - begun
    while kills > 0:
        stage.reset()
        while kills > 0:
            code = stage.attempt(place, seconds=draw.uniform(0, duration))
            if code == 0:
                break
            kills -= 1
            account.kills += 1
            if code not in stage.ends:
                account.wrong.append(f"{stage.name}: ended with {code} when repeated: see {place.log}")
        stage.until_done(account, place)
        compare(stage, expected, account, "after kills at random")


def unbroken(stage: Stage, account: Account, place: Place) -> dict[str, str]:
    """Return what a run of ``stage`` leaves that nobody kills."""
    stage.reset()
    if code := stage.attempt(place):
        account.wrong.append(f"{stage.name}: unbroken it ended with {code}: see {place.log}")
    return stage.outcome()


def compare(stage: Stage, expected: dict[str, str], account: Account, when: str) -> None:
    """Put on the account what differs."""
    found = stage.outcome()
    differing = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if differing or not expected:
        account.wrong.append(f"{stage.name}: {when} these differ: {', '.join(differing)}")


def stages(place: Place) -> Iterator[Stage]:
    """Commands in the order of a project, each from the end of the one before."""
    kept = place.folder / "kept"

    def restore() -> None:
        shutil.rmtree(place.work, ignore_errors=True)
        if kept.is_dir():
            shutil.copytree(kept, place.work, symlinks=True)

    def keep() -> None:
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(place.work, kept, symlinks=True)

    def left(*patterns: str) -> Callable[[], dict[str, str]]:
        return lambda: digests(place.work, patterns)

    where, on_cpu = ["--workspace", str(place.work)], ["--device", "cpu"]
    stored, in_fold = "nnUNet_preprocessed/*", "nnUNet_results/*/*/fold_all/{}".format
    trained = [in_fold(name) for name in ("checkpoint_final.pth", "pseudo_labels/**/*", "quality.json")]
    yield Stage(
        "plan", place.plan, restore,
        left(f"{stored}/*.json", f"{stored}/pclauto/*.json", f"{stored}/pclauto/store/**/*"),
    )  # fmt: skip
    keep()
    yield Stage("train", place.train, restore, place.trained, often=1)
    keep()
    yield Stage(
        "predict",
        place.predict,
        lambda: shutil.rmtree(place.masks, ignore_errors=True),
        lambda: digests(place.masks, ["*"]),
    )
    yield Stage("report", ["report", *where], restore, left(in_fold("report.html")), pictures=True)
    yield Stage(
        "suggest", ["suggest", "-n", "2", *where, *on_cpu], restore, left(in_fold("suggest/**/*")), pictures=True
    )  # fmt: skip
    yield Stage("review", ["review", "-n", "2", *where], restore, left(in_fold("review/**/*")))
    correct(place)
    keep()
    yield Stage("continue", ["continue", *where, *on_cpu], restore, left(*trained, f"{stored}/splits/**/*"), often=1)
    arms = ["--labeled", "2", "--draws", "1", "--arms", f"nnunet,{place.recipe}", "--base-recipe", str(place.recipe)]
    yield Stage(
        "benchmark", ["benchmark", *arms, *where, *on_cpu], restore, lambda: scored(place.work / "benchmarks"),
        pictures=True, ends=(KILLED, 5), often=0.1,
    )  # fmt: skip
    with serving(pack_task(place.task)) as server:
        target = place.folder / "downloaded"
        yield Stage(
            "download",
            ["download", TASK, "-o", str(target), "--base-url", server.url],
            lambda: shutil.rmtree(target, ignore_errors=True),
            lambda: digests(target, ["**/*"]),
            code=TOY_ARCHIVE.format(TASK, hashlib.md5(server.content).hexdigest()),
        )


def correct(place: Place) -> None:
    """Save a corrected mask, as an editor of masks would."""
    (folder,) = place.model.glob("fold_all/review")
    mask = min((folder / "pseudo_labels").iterdir())
    image = nibabel.load(mask)
    voxels = np.asanyarray(image.dataobj).copy()
    voxels[2:6, 2:6, 2:6] = 1
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), folder / "corrected" / mask.name)


def scored(folder: Path) -> dict[str, str]:
    """Return what a benchmark has scored, by path; a training that goes on after a kill may give other scores."""
    runs = {file: json.loads(file.read_text()) for file in sorted(folder.rglob("runs/*.json"))}
    facts = {
        file: [run["settings"], run["split"], run["labels"], [case["id"] for case in run["cases"]]]
        for file, run in runs.items()
    }
    return {str(file.relative_to(folder)): json.dumps(each) for file, each in facts.items()}


def kill_everything(*, kills: int, stride: int, seed: int, only: Collection[str] = STAGES) -> Account:
    """Kill every command; what went wrong is kept, with all files.

    Args:
        kills: at random moments of a training; a fifth for the other commands.
        stride: kill a training at every so many-th sync and renaming, the others as they ask.
        seed: of the random moments.
        only: kill these commands; the others are run.
    """
    place, account = Place.new(), Account()
    for stage in stages(place):
        begun, before = time.monotonic(), account.kills
        if stage.name in only:
            kill_at_points(stage, account, place, stride=max(1, round(stride / stage.often)))
            kill_at_random(stage, account, place, kills=kills if stage.name == "train" else kills // 5, seed=seed)
        elif stage.name in NEEDED:
            unbroken(stage, account, place)
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
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES, help="kill these commands")
    settings = parser.parse_args()

    account = kill_everything(kills=settings.kills, stride=settings.stride, seed=settings.seed, only=settings.only)
    print(account)
    return int(bool(account.wrong))


if __name__ == "__main__":
    sys.exit(main())
