"""How much memory this process has held."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_memory_mb() -> int:
    """The most resident memory of this process so far, in MB (2^20 bytes)."""
    # Linux counts the process that started this one into ru_maxrss, but not into VmHWM.
    if _STATUS.is_file():
        peak_kb = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
        if peak_kb is not None:
            return int(peak_kb[1]) // 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KB, macOS in bytes.
    return int(peak / (2**20 if sys.platform == "darwin" else 2**10))
