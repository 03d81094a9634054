"""Give the rows of the check what they need: sizes, folders, a time limit, and processes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measures
from supervise import Child, Deadline, TimedOutError, last_words, print_line, start_command, start_fork


class NotRunError(Exception):
    """Raised by a row that cannot be done here; the message is the reason."""


class ChildFailedError(Exception):
    """Raised when a process of a row has not ended well."""


@dataclass(frozen=True)
class Found:
    """Collect a row's figures for the table, the reasons for which it fails, and its numbers for the JSON file."""

    figures: str
    problems: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """The length of a training: epochs of ``steps``, supervised ones and then rounds."""

    steps: int
    supervised: int
    rounds: int
    per_round: int


@dataclass(frozen=True)
class Sizes:
    """Set how much the rows do, on a GPU or in the tiny form."""

    tiny: bool
    schedules: Mapping[str, Schedule]
    scans: int
    pseudo_labels: int
    step_blocks: int
    step_steps: int
    step_warm_up: int
    loader_s: float
    phantom_unlabeled: int = 2


FULL = Sizes(
    tiny=False,
    schedules={
        "check_default": Schedule(25, 8, 2, 3),
        "check_compiled": Schedule(25, 4, 1, 4),
        "check_paper": Schedule(25, 4, 1, 4),
        "check_resume": Schedule(25, 4, 1, 2),
        "check_deterministic": Schedule(5, 1, 1, 1),
    },
    scans=12,
    pseudo_labels=40,
    step_blocks=5,
    step_steps=25,
    step_warm_up=25,
    loader_s=6.0,
)
TINY = Sizes(
    tiny=True,
    schedules={
        "check_default": Schedule(3, 2, 1, 1),
        "check_compiled": Schedule(2, 1, 1, 1),
        "check_paper": Schedule(1, 1, 1, 1),
        "check_resume": Schedule(2, 2, 1, 1),
        "check_deterministic": Schedule(1, 1, 1, 1),
    },
    scans=2,
    pseudo_labels=2,
    step_blocks=1,
    step_steps=1,
    step_warm_up=1,
    loader_s=1.0,
    phantom_unlabeled=2,
)


class Bench:
    """Hold the folders, the device and the time limit of the rows, and start their processes."""

    def __init__(self, *, task: Path, out: Path, work: Path, device: str, sizes: Sizes, deadline: Deadline) -> None:
        self.task, self.out, self.work, self.device, self.sizes = task, out, work, device, sizes
        self.deadline = deadline
        self.machine: dict[str, Any] = {}
        # Forks of a process that has imported nnU-Net save half a minute of imports in all; where they cannot use the
        # device, every process starts anew.
        self.forks = False
        self.row = ""
        self._number = 0
        (work / "logs").mkdir(parents=True, exist_ok=True)

    @property
    def workspace(self) -> Path:
        """Workspace of all rows."""
        return self.work / "workspace"

    @property
    def log(self) -> Path:
        """File that collects the output of the row's processes."""
        return self.work / "logs" / f"{file_name(self.row)}.txt"

    def start(self, spec: dict[str, Any], *, compiled: bool = False) -> Child:
        """Start what :func:`measures.perform` does of ``spec``; on a GPU nnU-Net compiles unless it is told not to."""
        variables = {} if compiled else {"nnUNet_compile": "f"}
        if self.forks:
            return start_fork(lambda: measures.perform(spec), self.log, variables)
        return start_command([sys.executable, str(Path(measures.__file__)), json.dumps(spec)], self.log, variables)

    def finish(self, child: Child, what: str) -> None:
        """Wait for a process, which must end well.

        Raises:
            ChildFailedError: it did not.
            TimedOutError: it had no time left and was killed.
        """
        code = child.wait(self.deadline)
        if code != 0:
            raise ChildFailedError(f"{what} ended with exit code {code}: {last_words(self.log)}")

    def pclauto(self, *arguments: object, fixed_kernels: bool = False, compiled: bool = False) -> float:
        """Run a command of pclauto in the check's workspace, which must end well; return its seconds."""
        spec = {"pclauto": self.arguments(*arguments), "fixed_kernels": fixed_kernels}
        begun = time.monotonic()
        self.finish(self.start(spec, compiled=compiled), f"pclauto {arguments[0]}")
        return time.monotonic() - begun

    def arguments(self, *arguments: object) -> list[str]:
        """Return the arguments of a command in the check's workspace."""
        return [*map(str, arguments), "--workspace", str(self.workspace), "--debug"]

    def command(self, *command: object, **variables: str) -> float:
        """Run any command, which must end well; return its seconds."""
        begun = time.monotonic()
        self.finish(start_command([str(word) for word in command], self.log, variables), str(command[0]))
        return time.monotonic() - begun

    def measure(self, name: str, settings: dict[str, Any], *, compiled: bool = False) -> dict[str, Any]:
        """Take a measurement of :mod:`measures` in a process of its own."""
        self._number += 1
        result = self.work / f"result_{self._number}.json"
        result.unlink(missing_ok=True)
        spec = {"measure": name, "settings": {"device": self.device, **settings}, "result": str(result)}
        self.finish(self.start(spec, compiled=compiled), name)
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return found

    def warm_up(self) -> None:
        """Import here what all rows need, and see whether forks can use the device after that."""
        from pcl_auto.nnunet.environment import prepare_environment
        from pcl_auto.workspace.processes import output_to

        self.row = "warm-up"
        try:
            with output_to(self.log):
                prepare_environment()
                import pcl_auto.nnunet.inference.predictor
                import pcl_auto.nnunet.planning.planner
                import pcl_auto.nnunet.training.joint_trainer  # noqa: F401
            self.forks = True
            before, self.deadline = self.deadline, self.deadline.within(60)
            try:
                self.measure("compute", {})
            finally:
                self.deadline = before
        except (ImportError, ChildFailedError, TimedOutError) as error:
            self.forks = False
            print_line(f"no forks here, every process starts anew: {type(error).__name__} {error}")


@dataclass(frozen=True)
class Row:
    """A line of the table.

    ``limit_s``: the time after which it is killed. ``least_s``: the time that must be left for it to begin. ``needs``:
    rows that must have passed. ``gpu``: without a GPU it would say nothing.
    """

    name: str
    work: Callable[[Bench], Found]
    limit_s: float
    least_s: float
    needs: tuple[str, ...] = ("plan",)
    gpu: bool = False


def file_name(row: str) -> str:
    """Return the name of a row in names of files."""
    return "".join(letter if letter.isalnum() else "-" for letter in row) or "check"
