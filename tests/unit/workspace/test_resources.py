"""Errors of the system become errors with a fix; faults of the program do not."""

from __future__ import annotations

import errno
import os

import pytest

from pcl_auto.workspace.system import as_resource_error


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


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "gone", "a"), OSError("no number")])
def test_a_fault_of_the_program_stays_one(error: OSError) -> None:
    assert as_resource_error(error) is None
