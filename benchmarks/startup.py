"""Time `pclauto --help`: nothing heavy may be imported before a verb runs.

    python benchmarks/startup.py

Prints the median and the slowest of 20 runs in seconds, after one that warms the file cache.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time

RUNS = 20
TARGET_S = 0.3


def measure() -> list[float]:
    """Return the seconds of each run but the first."""
    times = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "pcl_auto", "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return times[1:]


if __name__ == "__main__":
    seconds = measure()
    print(
        json.dumps(
            {
                "median_s": round(statistics.median(seconds), 3),
                "slowest_s": round(max(seconds), 3),
                "target_s": TARGET_S,
                "python": platform.python_version(),
                "machine": f"{platform.machine()}, {platform.system()}",
            }
        )
    )
