"""Measure what reading every file to its end adds to ``pclauto plan``.

    python benchmarks/probing.py TASK

Plans TASK into an empty folder, as a user would, and times the probing of the same files in a process that has nothing
else to do; files are in the system's cache in both. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pcl_auto import __version__
from pcl_auto.data.checks.check_files import check_cases
from pcl_auto.data.dataset.decathlon import read_task
from pcl_auto.nnunet.environment import available_cores


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    settings = parser.parse_args()
    task, _ = read_task(settings.task)
    if task is None:
        raise SystemExit(f"{settings.task} is no task")
    probing, planning = [], []
    for _ in range(settings.repeats):
        begun = time.monotonic()
        check_cases(task, threads=available_cores())
        probing.append(time.monotonic() - begun)
        with tempfile.TemporaryDirectory() as work:
            begun = time.monotonic()
            command = [sys.executable, "-m", "pcl_auto", "plan", str(settings.task), "--workspace", work]
            subprocess.run(command, check=True, capture_output=True)
            planning.append(time.monotonic() - begun)
    probed_s, planned_s = map(statistics.median, (probing, planning))
    print(
        json.dumps(
            {
                "task": task.name,
                "files": len(task.cases) + len(task.labeled),
                "probing_s": round(probed_s, 3),
                "plan_s": round(planned_s, 2),
                "share": round(probed_s / (planned_s - probed_s), 4),
                "cores": available_cores(),
                "python": platform.python_version(),
                "pclauto": __version__,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
