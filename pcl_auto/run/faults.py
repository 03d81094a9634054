"""Places where a test may kill the process: ``PCLAUTO_FAULT=rename:3`` does it before the third renaming."""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "PCLAUTO_FAULT"
_passed: Counter[str] = Counter()


def fault(point: str) -> None:
    """Pass ``point`` (``sync``, ``rename``, ``renamed``), or end here if it is this pass that the variable names."""
    wanted = os.environ.get(VARIABLE)
    if wanted is not None:
        _passed[point] += 1
        if wanted == f"{point}:{_passed[point]}":
            os.kill(os.getpid(), signal.SIGKILL)
