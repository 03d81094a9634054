"""How much memory this process has held."""

from __future__ import annotations

import resource
import sys


def peak_memory_mb() -> int:
    """The most resident memory of this process so far, in MB (2^20 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KB, macOS in bytes.
    return int(peak / (2**20 if sys.platform == "darwin" else 2**10))
