"""What ``torchrun`` and SLURM's launchers tell a process of a training that has several."""

from __future__ import annotations

import os


def started_ranks() -> int:
    """How many processes were started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def started_rank() -> int:
    """Which of them this is: rank 0 writes and speaks."""
    return int(os.environ.get("RANK", "0")) if started_ranks() > 1 else 0
