"""``pclauto check``: everything that can be said of a data set before any GPU time is spent on it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcl_auto.data.case import Task
from pcl_auto.data.checks.check_files import check_cases, constant_channels
from pcl_auto.data.checks.oddities import examine
from pcl_auto.data.dataset.decathlon import read_task
from pcl_auto.data.formats.nifti import Volume, probe_channels
from pcl_auto.errors import Problem


@dataclass(frozen=True)
class Diagnosis:
    """All findings: those that ``pclauto plan`` refuses, what is ``wrong`` besides, and ``warnings``."""

    root: Path
    cases: dict[str, int]
    refused: tuple[Problem, ...]
    wrong: tuple[Problem, ...]
    warnings: tuple[Problem, ...]

    @property
    def exit_code(self) -> int:
        """0: nothing found, 1: warnings alone, 3: something that must be corrected."""
        return 3 if self.refused or self.wrong else 1 if self.warnings else 0

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis as plain values."""
        kinds = {"refused": self.refused, "wrong": self.wrong, "warnings": self.warnings}
        return {
            "source": str(self.root),
            "cases": self.cases,
            **{kind: [problem.as_dict() for problem in found] for kind, found in kinds.items()},
        }


def diagnose(
    root: Path,
    *,
    threads: int,
    use_test_images: bool = False,
    follow_links: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Diagnosis:
    """Read every file of a data set to its end and look for what is wrong, missing, double or odd.

    Args:
        root: the folder of the data set.
        threads: files read at once; each takes the memory of its volume.
        use_test_images: as in ``pclauto plan``: imagesTs joins the unlabeled cases.
        follow_links: as there: accept links that lead out of the folder.
        progress: called with the number of files that are done, and of all.
    """
    task, problems = read_task(root, use_test_images=use_test_images, follow_links=follow_links)
    if task is None:
        return Diagnosis(root, {}, tuple(problems), (), ())
    testing = [] if use_test_images else list(task.test)
    total, done = len(task.cases) + len(task.labeled) + len(testing), 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    checks = check_cases(task, threads=threads, progress=advance)
    tests: dict[str, Volume] = {}
    warnings = list(checks.warnings)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        probed = pool.map(lambda case: probe_channels(case.files), testing)
        for case, (volume, found) in zip(testing, probed, strict=True):
            advance()
            # `plan` does not open test images; `predict` will.
            warnings += found or (constant_channels(volume, "a test case") if volume else [])
            if volume is not None and not found:
                tests[case.id] = volume
    ct = any(channel.strip().upper() == "CT" for channel in task.channels)
    wrong, odd = examine(_by_role(task, checks.images, tests), str(task.root), ct=ct)
    counts = {"labeled": len(task.labeled), "unlabeled": len(task.unlabeled), "test": len(task.test)}
    return Diagnosis(task.root, counts, (*problems, *checks.problems), tuple(wrong), (*warnings, *odd))


def _by_role(task: Task, images: dict[str, Volume], tests: dict[str, Volume]) -> dict[str, dict[str, Volume]]:
    # A test scan stays one when the pool takes it in: its score is worth as little if its twin has a label.
    testing = {case.image for case in task.test}
    parts = {
        "labeled": task.labeled,
        "unlabeled": [case for case in task.unlabeled if case.image not in testing],
        "test": [case for case in task.unlabeled if case.image in testing],
    }
    groups = {role: {case.id: images[case.id] for case in cases if case.id in images} for role, cases in parts.items()}
    groups["test"] |= tests
    return groups
