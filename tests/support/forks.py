"""A place in which commands are killed, or find a full disk, and are repeated: forks of a warm process each."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from shared import make_coarse_phantom, shell_in
from shell import warm_address
from warm import Command

KILLED = -signal.SIGKILL
RUN = "from pcl_auto.cli.main import run\nrun()"


@dataclass(frozen=True)
class Place:
    """A phantom task, a recipe of seconds, and where commands work and write."""

    folder: Path

    @classmethod
    def new(cls) -> Place:
        """Make the phantom."""
        place = cls(Path(tempfile.mkdtemp(prefix="pclauto-faults-")))
        shell_in(place.folder)
        make_coarse_phantom(place.folder)
        return place

    @property
    def task(self) -> Path:
        """The data set."""
        return self.folder / "Task99_Phantom"

    @property
    def work(self) -> Path:
        """The workspace."""
        return self.folder / "work"

    @property
    def recipe(self) -> Path:
        """The recipe."""
        return self.folder / "tiny.toml"

    @property
    def log(self) -> Path:
        """Return the file that collects the output of all commands."""
        return self.folder / "log.txt"

    @property
    def masks(self) -> Path:
        """Return the folder of the predictions."""
        return self.folder / "masks"

    @property
    def model(self) -> Path:
        """The model that was trained."""
        (found,) = (self.work / "nnUNet_results").glob("Dataset*/nnUNetTrainerPCL__*")
        return found

    @property
    def plan(self) -> list[str]:
        """The command that plans."""
        return ["plan", str(self.task), "--workspace", str(self.work), "--gpu-memory-gb", "1"]

    @property
    def train(self) -> list[str]:
        """The command that trains."""
        return [
            "train", "--workspace", str(self.work), "--recipe", str(self.recipe), "--device", "cpu", "--deterministic",
        ]  # fmt: skip

    @property
    def predict(self) -> list[str]:
        """The command that segments the test images."""
        scans = self.task / "imagesTs"
        return ["predict", str(scans), "-o", str(self.masks), "--workspace", str(self.work), "--device", "cpu"]

    def trained(self) -> dict[str, str]:
        """Digests of what a training leaves, but for the records that hold times."""
        return digests(self.model / "fold_all", ["checkpoint_final.pth", "pseudo_labels/**/*"])

    def attempt(
        self,
        arguments: Sequence[str],
        *,
        fault: str | None = None,
        seconds: float | None = None,
        code: str = "",
        pictures: bool = False,
    ) -> int:
        """Run a command in a fork; return its exit code, negative for a signal.

        Args:
            arguments: of ``pclauto``.
            fault: where the command kills itself.
            seconds: when it is killed.
            code: Python that is run in the fork before the command.
            pictures: with those of the report, which take longer than the training itself.
        """
        # Not the log itself: a full disk is for the command alone.
        reader, writer = os.pipe()
        environment = {**shell_in(self.folder).environment(), **({} if fault is None else {"PCLAUTO_FAULT": fault})}
        python = ["-c", f"{code}\n{RUN}"] if code else ["-m", "pcl_auto"]
        command = Command(
            warm_address(), [*python, *arguments], cwd=self.folder, env=environment, stdout=writer, stderr=writer,
            pictures=pictures,
        )  # fmt: skip
        os.close(writer)
        copier = Thread(target=_copy, args=(reader, self.log))
        copier.start()
        if seconds is not None:
            time.sleep(seconds)
            command.kill()
        returncode = command.wait()
        copier.join()
        return returncode


def _copy(reader: int, log: Path) -> None:
    with os.fdopen(reader, "rb") as pipe, log.open("ab") as file:
        shutil.copyfileobj(pipe, file)


def digests(folder: Path, patterns: Sequence[str]) -> dict[str, str]:
    """SHA-256 of every file of ``folder`` that matches, by its path."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for pattern in patterns
        for file in sorted(folder.glob(pattern))
        if file.is_file()
    }
