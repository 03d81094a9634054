"""What ``torchrun`` and SLURM's launchers tell a process of a training that has several."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def started_ranks() -> int:
    """How many processes were started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def started_rank() -> int:
    """Which of them this is: rank 0 writes and speaks."""
    return int(os.environ.get("RANK", "0")) if started_ranks() > 1 else 0


def start_ranks(number: int, command: Sequence[str]) -> NoReturn:
    """Become torch's launcher, which starts ``pclauto command`` in ``number`` processes on this machine."""
    shared = [word for index, word in enumerate(command) if "--gpus" not in (word, *command[max(0, index - 1) : index])]
    kept = [word for word in shared if not word.startswith("--gpus=")]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}", "--module", "pcl_auto"]
    os.execv(sys.executable, [sys.executable, *launcher, *kept])  # noqa: S606 (no shell is wanted)
