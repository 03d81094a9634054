"""Time `pclauto --help` beside the import of typer's own help: nothing heavy may be imported before a verb runs.

    python benchmarks/startup.py

Prints the medians of 20 runs of each in seconds of CPU time, taken in turns, and their ratio.
"""

from __future__ import annotations

import json
import platform
import resource
import statistics
import subprocess
import sys

RUNS = 20
TARGET_RATIO = 1.6
HELP = [sys.executable, "-m", "pcl_auto", "--help"]
REFERENCE = [sys.executable, "-c", "import typer, typer.rich_utils"]


def cpu_seconds(command: list[str]) -> float:
    """Return the CPU time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure() -> tuple[list[float], list[float]]:
    """Return the times of the help and of the reference, without the first of each, which warm the file cache."""
    pairs = [(cpu_seconds(HELP), cpu_seconds(REFERENCE)) for _ in range(RUNS + 1)][1:]
    return [own for own, _ in pairs], [reference for _, reference in pairs]


if __name__ == "__main__":
    own, reference = map(statistics.median, measure())
    print(
        json.dumps(
            {
                "help_s": round(own, 3),
                "typer_rich_help_import_s": round(reference, 3),
                "ratio": round(own / reference, 2),
                "target_ratio": TARGET_RATIO,
                "python": platform.python_version(),
                "machine": f"{platform.machine()}, {platform.system()}",
            }
        )
    )
