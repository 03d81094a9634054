"""Memory as the process has it, packages that only some settings need, errors of the system with a fix."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import psutil
import pytest
from refusal import refused

from pcl_auto.errors import UsageError
from pcl_auto.workspace import resources
from pcl_auto.workspace.resources import (
    as_refused_operation,
    as_resource_error,
    available_memory_mb,
    forget_peak_memory,
    peak_memory_mb,
    require,
)

# Page faults of twenty blocks of 64 MB, one after the other, as a training's steps allocate them.
FAULTS = """
import resource, sys
import numpy as np
from pcl_auto.workspace.resources import keep_freed_memory
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


def groups(
    folder: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: Mapping[str, int | str], *, free_mb: int = 9000
) -> int:
    """Return the memory found available on a machine with these control groups."""
    (folder / "cgroup").write_text(own)
    for name, content in files.items():
        (folder / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "fs" / name).write_text(f"{content}\n")
    monkeypatch.setattr(resources, "_OWN_GROUPS", folder / "cgroup")
    monkeypatch.setattr(resources, "_GROUPS", folder / "fs")
    machine = psutil.virtual_memory()._replace(available=free_mb * 2**20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    return available_memory_mb()


GB = 2**30
JOB = "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n"
STEP = "system.slice/slurmstepd.scope/job_7/step_0"


@pytest.mark.parametrize(
    ("own", "files", "expected_mb"),
    [
        # The limit of a container is at the root, whatever its group is called outside.
        ("0::/\n", {"memory.max": 3 * GB, "memory.current": GB}, 2048),
        ("0::/docker/0123\n", {"memory.max": 3 * GB, "memory.current": GB}, 2048),
        ("0::/\n", {"memory.max": "max", "memory.current": GB}, 9000),
        # SLURM's is on the step, above the group of the process; the tightest limit counts.
        (JOB, {f"{STEP}/memory.max": 4 * GB, f"{STEP}/memory.current": GB}, 3072),
        (
            JOB,
            {
                f"{STEP}/user/task_0/memory.max": "max",
                f"{STEP}/user/task_0/memory.current": GB,
                f"{STEP}/memory.max": 6 * GB,
                f"{STEP}/memory.current": GB,
                "system.slice/slurmstepd.scope/job_7/memory.max": 4 * GB,
                "system.slice/slurmstepd.scope/job_7/memory.current": 3 * GB,
            },
            1024,
        ),
        # What was read is cached, and given back when it is needed.
        (
            "0::/\n",
            {
                "memory.max": 4 * GB,
                "memory.current": 4 * GB,
                "memory.stat": f"anon {GB}\ninactive_file {2 * GB}\nactive_file 5",
            },
            2048,
        ),
        # Version 1: a hierarchy of its own, and no limit is a huge one.
        (
            "9:name=systemd:/\n4:cpu,memory:/slurm/job_7\n0::/\n",
            {
                "memory/slurm/job_7/memory.limit_in_bytes": 2 * GB,
                "memory/slurm/job_7/memory.usage_in_bytes": GB,
                "memory/slurm/job_7/memory.stat": f"total_inactive_file {GB // 2}",
                "memory/memory.limit_in_bytes": 9223372036854771712,
                "memory/memory.usage_in_bytes": 8 * GB,
            },
            1536,
        ),
        ("5:devices:/\n", {"devices/memory.max": 1, "devices/memory.current": 0}, 9000),
    ],
)
def test_the_tightest_limit_of_the_control_groups_counts(
    own: str, files: dict[str, int | str], expected_mb: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert groups(tmp_path, monkeypatch, own, files) == expected_mb


def test_the_free_memory_of_the_machine_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, int | str] = {"memory.max": 3 * GB, "memory.current": GB}
    assert groups(tmp_path, monkeypatch, "0::/\n", files, free_mb=100) == 100
    monkeypatch.setattr(resources, "_OWN_GROUPS", tmp_path / "no such file")
    assert available_memory_mb() == 100


def test_a_missing_package_is_refused_with_the_way_to_get_it() -> None:
    with refused(UsageError, "run.package-missing") as refusal:
        require("no_such_module", "crf", "pseudo_labels.crf")
    assert "no_such_module" in refusal.problem.what
    problem = refusal.problem
    assert problem.where == "pseudo_labels.crf"
    assert "pip install 'pclauto[crf]'" in problem.fix


def test_a_package_that_is_there_is_enough() -> None:
    require("numpy", "crf", "pseudo_labels.crf")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "disk.full"),
        (errno.EDQUOT, "disk.full"),
        (errno.EFBIG, "disk.full"),
        (errno.EROFS, "disk.unwritable"),
        (errno.EACCES, "disk.not-permitted"),
        (errno.EPERM, "disk.not-permitted"),
        (errno.ENOTDIR, "disk.not-a-folder"),
        (errno.ENAMETOOLONG, "disk.name-too-long"),
        (errno.EIO, "disk.io-error"),
        (errno.ESTALE, "disk.stale"),
        (errno.EMFILE, "disk.too-many-open-files"),
        (errno.ENFILE, "disk.too-many-open-files"),
        (errno.ENOMEM, "memory.too-small"),
        (errno.EAGAIN, "memory.no-more-threads"),
    ],
)
def test_what_the_system_refuses_is_named_with_its_file(number: int, code: str) -> None:
    told = as_resource_error(OSError(number, os.strerror(number), "a", None, "b"))
    assert told is not None
    (problem,) = told.problems
    assert problem.code == code
    assert problem.where == "a → b"
    assert problem.found == os.strerror(number)
    assert problem.fix


def test_memory_that_does_not_suffice() -> None:
    told = as_resource_error(MemoryError("Unable to allocate 3 GiB"))
    assert told is not None
    (problem,) = told.problems
    assert (problem.code, problem.found) == ("memory.too-small", "Unable to allocate 3 GiB")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("std::bad_alloc"),
        ImportError("libtorch.so: failed to map segment from shared object"),
    ],
)
def test_libraries_say_in_words_that_memory_does_not_suffice(error: Exception) -> None:
    told = as_resource_error(error)
    assert told is not None
    assert [problem.code for problem in told.problems] == ["memory.too-small"]


def test_threads_and_characters_that_the_system_does_not_have() -> None:
    for error, code in (
        (RuntimeError("can't start new thread"), "memory.no-more-threads"),
        (UnicodeEncodeError("ascii", "ö", 0, 1, "ordinal not in range"), "disk.name-not-encodable"),
    ):
        told = as_resource_error(error)
        assert told is not None
        assert [problem.code for problem in told.problems] == [code]
    assert as_resource_error(UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogates not allowed")) is None


def test_any_other_refusal_of_the_system_is_one() -> None:
    told = as_refused_operation(FileNotFoundError(errno.ENOENT, "gone", "a"))
    assert told is not None
    (problem,) = told.problems
    assert (problem.code, problem.where, problem.found) == ("disk.refused", "a", "gone")
    looped = as_refused_operation(RuntimeError("Symlink loop from '/a/b'"))
    assert looped is not None
    assert looped.problems[0].where == "/a/b"
    assert as_refused_operation(RuntimeError("x")) is None
    assert as_refused_operation(OSError("no number")) is None
    assert as_refused_operation(ValueError("x")) is None


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "gone", "a"), OSError("no number")])
def test_a_fault_of_the_program_stays_one(error: OSError) -> None:
    assert as_resource_error(error) is None
