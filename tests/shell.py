"""Commands as a user types them, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shell:
    """Runs commands in a folder, with nothing of nnU-Net in the environment unless asked for."""

    folder: Path

    def environment(self, **variables: Path | str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("nnUNet_", "PCLAUTO_"))}
        return {**kept, "COLUMNS": "120", **{key: str(value) for key, value in variables.items()}}

    def python(self, *arguments: Any, **variables: Path | str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=2400,  # a demo on one slow core
        )

    def pclauto(self, *arguments: Any, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = self.python("-m", "pcl_auto", *arguments)
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done
