"""Refusals told by their codes: their words may change, what they mean may not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from pcl_auto.errors import PclautoError, Problem


@dataclass
class Refusal:
    """Hold the error that a block of :func:`refused` ended with."""

    caught: pytest.ExceptionInfo[PclautoError]

    @property
    def error(self) -> PclautoError:
        """Return the exception."""
        return self.caught.value

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return all of its problems."""
        return self.error.problems

    @property
    def problem(self) -> Problem:
        """Return the only one."""
        (problem,) = self.problems
        return problem


@contextmanager
def refused(kind: type[PclautoError], code: str, *more: str) -> Iterator[Refusal]:
    """Expect a block to end with this very kind of error, whose problems have these codes, in any order and number."""
    with pytest.raises(kind) as caught:
        yield Refusal(caught)
    assert type(caught.value) is kind, f"{type(caught.value).__name__}: {caught.value}"
    found, expected = {problem.code for problem in caught.value.problems}, {code, *more}
    assert found == expected, f"{sorted(found)}, not {sorted(expected)}: {caught.value}"


def codes(problems: Iterable[Problem]) -> list[str]:
    """Return the codes of problems, in their order."""
    return [problem.code for problem in problems]
