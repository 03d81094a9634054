"""Put problems of one kind into one line: a hundred missing files are one mistake."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pcl_auto.errors import Problem, format_names

# So many of a kind are still told one by one, and so many places are named of more.
MAX_ALONE, MAX_NAMED = 3, 4


def group_problems(problems: Sequence[Problem]) -> list[list[Problem]]:
    """Group the problems of one kind, in the order of the first; a few stay alone."""
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.code, problem.what), []).append(problem)
    found: list[list[Problem]] = []
    for group in groups.values():
        found += [group] if len(group) > MAX_ALONE else [[problem] for problem in group]
    return found


def describe_group(group: Sequence[Problem]) -> str:
    """Return the sentence of a problem, or one sentence for many of a kind, with the first places."""
    first = group[0]
    if len(group) == 1:
        return str(first)
    parts = [f"{first.what}, {len(group)} times"]
    for word, values in (
        ("in", [problem.where for problem in group]),
        ("expected", [problem.expected for problem in group]),
        ("found", [problem.found for problem in group]),
    ):
        named = list(dict.fromkeys(filter(None, values)))
        if named:
            parts.append(f"{word} {_named(named)}")
    alike = all(problem.fix == first.fix for problem in group)
    return f"{'; '.join(parts)}. Fix: {first.fix.rstrip('.')}{'' if alike else ', and so on (--json has each)'}."


def _named(values: Sequence[str]) -> str:
    """Return the first of some values; of paths the folder once."""
    # Of texts that are no paths alone: "dataset.json (training[3])".
    shared = os.path.commonprefix(values)  # noqa: RUF071
    folder = shared.rpartition("/")[0] if len(values) > 1 else ""
    if not folder:
        return format_names(values, MAX_NAMED)
    return f"{folder}: {format_names([value[len(folder) + 1 :] for value in values], MAX_NAMED)}"
