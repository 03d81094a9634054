"""Say once what is wrong with many files in the same way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from pcl_auto.errors import Problem, format_names

# So many of one kind are listed each by itself.
_MAX_APART = 3


def grouped(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems, each once, and those of one kind in one: how many, the first names, the first in full."""
    kinds: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in dict.fromkeys(problems):
        kinds[problem.code, problem.what].append(problem)
    return [each for same in kinds.values() for each in ([_joined(same)] if len(same) > _MAX_APART else same)]


def _joined(same: Sequence[Problem]) -> Problem:
    first = same[0]
    names = format_names(Path(problem.where).name for problem in same)

    def common(texts: Sequence[str]) -> str:
        return texts[0] if len({*texts}) == 1 else f"{texts[0]} (the first)"

    return replace(
        first,
        where=f"{len(same)} files of {Path(first.where).parent}: {names}",
        expected=common([problem.expected for problem in same]),
        found=common([problem.found for problem in same]),
        fix=common([problem.fix for problem in same]),
    )
