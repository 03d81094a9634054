"""Everything that can go wrong for a user, each kind with its exit code, each finding with its fix."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

# What is refused, a dot, and how: as in data.truncated.
_CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)+")


@dataclass(frozen=True)
class Problem:
    """One finding: what is wrong, where, what was expected, what was found, and how to fix it.

    ``code`` names the kind of finding for programs, and stays when the words of it change.

    Raises:
        ValueError: the code is none.
    """

    code: str
    what: str
    where: str
    fix: str
    expected: str = ""
    found: str = ""

    def __post_init__(self) -> None:
        if not _CODE.fullmatch(self.code):
            raise ValueError(f"not a code of a problem: {self.code!r}")

    def __str__(self) -> str:
        """Return one sentence of the form ``what in where: expected x, found y. Fix: z.``."""
        comparison = ", ".join(
            f"{word} {value}" for word, value in (("expected", self.expected), ("found", self.found)) if value
        )
        head = f"{self.what} in {self.where}" if self.where else self.what
        return f"{head}{': ' + comparison if comparison else ''}. Fix: {self.fix.rstrip('.')}."

    def as_dict(self) -> dict[str, str]:
        """Return the finding as plain strings, the code first, for ``--json``."""
        return asdict(self)


class OldNameWarning(FutureWarning):
    """A name of an earlier version was used; the message says the new one, and until when the old one works."""


def format_names(names: Iterable[str], limit: int = 10) -> str:
    """Return the first names of a list for a message, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


class PclautoError(Exception):
    """An error that the command line shows as it is; carries every problem that was found, not the first."""

    exit_code = 1

    def __init__(self, problems: Problem | Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type[PclautoError], tuple[tuple[Problem, ...]]]:
        # Exceptions travel back from worker processes; the default would hand the joined text to __init__.
        return type(self), (self.problems,)


class UsageError(PclautoError):
    """The command asks for something that does not exist or does not fit together."""

    exit_code = 2


class DataError(PclautoError):
    """The data set cannot be used as it is."""

    exit_code = 3


class StateError(PclautoError):
    """A plan, a run or a model folder is missing, damaged, or does not match what is asked for."""

    exit_code = 4


class ResourceError(PclautoError):
    """Disk, memory or device do not suffice."""

    exit_code = 5


class LockedError(PclautoError):
    """Another process is writing the same run."""

    exit_code = 6


class NumericalError(PclautoError):
    """The loss or a prediction is no longer a finite number."""

    exit_code = 7
