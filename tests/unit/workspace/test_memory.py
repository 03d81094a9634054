"""The memory of a process."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pcl_auto.workspace.system import forget_peak_memory, peak_memory_mb

# Page faults of twenty blocks of 64 MB, one after the other, as a training's steps allocate them.
FAULTS = """
import resource, sys
import numpy as np
from pcl_auto.workspace.system import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
np.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def has_glibc() -> bool:
    try:
        return hasattr(ctypes.CDLL("libc.so.6"), "gnu_get_libc_version")
    except OSError:
        return False


def faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, mode], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(not has_glibc(), reason="glibc alone has settings for this")
def test_freed_memory_is_not_fetched_again() -> None:
    # Even in huge pages a block that is fetched anew takes 32.
    assert faults("keep") < 100 < faults("as it is")


def test_the_peak_grows_with_what_is_held() -> None:
    before = peak_memory_mb()
    block = np.ones(2**25)  # 256 MB
    assert peak_memory_mb() >= max(before, block.nbytes // 2**20)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="Linux alone can count anew")
def test_the_peak_is_counted_anew() -> None:
    block = np.ones(2**25)
    held = peak_memory_mb()
    del block
    forget_peak_memory()
    assert peak_memory_mb() < held - 200
