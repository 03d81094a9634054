"""Commands as a user types them: forks of a warm process (:mod:`warm`), or where it matters real processes."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import warm

# A demo on one slow core.
MAX_SECONDS = 2400


@functools.cache
def warm_address() -> str:
    """Return the address of this test process's own warm process, which starts at the first call."""
    return warm.Warm.start().address


@dataclass(frozen=True)
class Shell:
    """Runs commands in a folder, with nothing of nnU-Net in the environment unless asked for."""

    folder: Path

    def environment(self, **variables: Path | str) -> dict[str, str]:
        """Return the environment of this process without what nnU-Net or we would read, and with ``variables``."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("nnUNet_", "PCLAUTO_"))}
        return {**kept, "COLUMNS": "120", **{key: str(value) for key, value in variables.items()}}

    def python(
        self, *arguments: Any, pictures: bool = True, spawns: bool = True, **variables: Path | str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python ARGUMENTS`` in a fork of the warm process (see :class:`warm.Command`)."""
        if not warm.AVAILABLE:
            return self.process(*arguments, **variables)
        return warm.run(
            warm_address(),
            [*map(str, arguments)],
            cwd=self.folder,
            env=self.environment(**variables),
            timeout=MAX_SECONDS,
            pictures=pictures,
            spawns=spawns,
        )

    def process(self, *arguments: Any, **variables: Path | str) -> subprocess.CompletedProcess[str]:
        """Run ``python ARGUMENTS`` in a new process, which imports everything itself."""
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=MAX_SECONDS,
        )

    def pclauto(
        self, *arguments: Any, code: int = 0, pictures: bool = True, spawns: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run ``pclauto ARGUMENTS`` in a fork (see :class:`warm.Command`); it must end with ``code``."""
        done = self.python("-m", "pcl_auto", *arguments, pictures=pictures, spawns=spawns)
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def train(self, *arguments: Any, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run ``pclauto train ARGUMENTS`` on the CPU, without pictures; it must end with ``code``."""
        return self.pclauto("train", *arguments, "--device", "cpu", code=code, pictures=False)

    def refusal(self, *arguments: Any, code: int) -> list[dict[str, str]]:
        """Run ``pclauto ARGUMENTS --json`` in a fork; return the problems it ends with, and ``code``."""
        problems: list[dict[str, str]] = json.loads(self.pclauto(*arguments, "--json", code=code).stdout)["problems"]
        return problems


def codes(problems: list[dict[str, str]]) -> list[str]:
    """Return the codes of problems as ``--json`` shows them."""
    return [problem["code"] for problem in problems]
