"""Commands in forks of a process that has imported torch and nnU-Net once, each as if it were just started."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

KILLED = 128 + signal.SIGKILL


@dataclass(frozen=True)
class Place:
    """A phantom task, a recipe of seconds, and where commands work and write."""

    folder: Path
    task: Path

    @classmethod
    def new(cls) -> Place:
        """Make the phantom and import what the commands import."""
        from shared import TINY_RECIPE, make_coarse_phantom

        from pcl_auto.nnunet.environment import prepare_environment
        from pcl_auto.run.workspace import Workspace

        folder = Path(tempfile.mkdtemp(prefix="pclauto-faults-"))
        place = cls(folder, make_coarse_phantom(folder))
        place.recipe.write_text(TINY_RECIPE)
        # nnU-Net reads its variables when it is imported: every command works in the same place.
        Workspace.at(place.work, "forks").activate()
        prepare_environment(workers=0)
        import pcl_auto.nnunet.joint_trainer
        import pcl_auto.nnunet.planner
        import pcl_auto.nnunet.predictor  # noqa: F401

        return place

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
        """What all commands said."""
        return self.folder / "log.txt"

    @property
    def masks(self) -> Path:
        """Where predictions go."""
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
        """Digests of what a training leaves, without its times."""
        return {**weights(self.model), **digests(self.model / "fold_all", ["pseudo_labels/**/*"])}


def attempt(
    arguments: Sequence[str],
    log: Path,
    *,
    fault: str | None = None,
    seconds: float | None = None,
    before: Callable[[], None] = lambda: None,
) -> int:
    """Run a command in a fork; the exit code, as shells have it.

    Args:
        arguments: of ``pclauto``.
        log: takes what the command says.
        fault: where the command kills itself.
        seconds: when it is killed.
        before: called in the fork, before the command.
    """
    # Not the log itself: a full disk is for the command alone.
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        for descriptor in (1, 2):
            os.dup2(writer, descriptor)
        if fault is not None:
            os.environ["PCLAUTO_FAULT"] = fault
        os._exit(_exit_code(arguments, before))
    os.close(writer)
    copier = Thread(target=_copy, args=(reader, log))
    copier.start()
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    copier.join()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return 128 - status if status < 0 else status


def _copy(reader: int, log: Path) -> None:
    with os.fdopen(reader, "rb") as pipe, log.open("ab") as file:
        shutil.copyfileobj(pipe, file)


def _exit_code(arguments: Sequence[str], before: Callable[[], None]) -> int:
    from pcl_auto.cli.main import run

    try:
        before()
        sys.argv = ["pclauto", *arguments]
        run()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:  # noqa: BLE001 (a fault of the program, which the log shows)
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def digests(folder: Path, patterns: Sequence[str]) -> dict[str, str]:
    """SHA-256 of every file of ``folder`` that matches, by its path."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for pattern in patterns
        for file in sorted(folder.glob(pattern))
        if file.is_file()
    }


def weights(model: Path) -> dict[str, str]:
    """A digest of the final weights; the file also holds times."""
    from pcl_auto.nnunet.checkpoints import read_checkpoint

    # In a fork, like the commands: torch starts threads when it computes.
    reader, writer = os.pipe()
    if os.fork() == 0:
        content = read_checkpoint(model / "fold_all" / "checkpoint_final.pth")["network_weights"]
        digest = hashlib.sha256()
        for name, tensor in content.items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        os.write(writer, digest.hexdigest().encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        found = pipe.read()
    os.wait()
    return {"weights": found}
