"""Errors of the system become errors with a fix; faults of the program do not."""

from __future__ import annotations

import errno
import os

import pytest

from pcl_auto.run.resources import as_resource_error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EMFILE, errno.EIO])
def test_what_the_system_refuses_is_named_with_its_file(number: int) -> None:
    told = as_resource_error(OSError(number, os.strerror(number), "a", None, "b"))
    assert told is not None
    (problem,) = told.problems
    assert problem.where == "a → b"
    assert problem.found == os.strerror(number)
    assert problem.fix


def test_memory_that_does_not_suffice() -> None:
    told = as_resource_error(MemoryError("Unable to allocate 3 GiB"))
    assert told is not None
    assert "Unable to allocate 3 GiB" in str(told)


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "gone", "a"), OSError("no number")])
def test_a_fault_of_the_program_stays_one(error: OSError) -> None:
    assert as_resource_error(error) is None
