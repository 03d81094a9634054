"""Parametrization by pairs: every two values of two parameters meet in some case, not all values of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

import pytest

# Two places: the number of a parameter and of its value, each.
Pair = tuple[tuple[int, int], tuple[int, int]]


def in_pairs(**parameters: Sequence[Any] | Mapping[str, Any]) -> pytest.MarkDecorator:
    """Parametrize a test so that every pair of values of two parameters occurs; most faults need no more.

    Args:
        parameters: each with its values; those of a mapping come under their keys as names.
    """
    names = list(parameters)
    values = [list(given.values()) if isinstance(given, Mapping) else list(given) for given in parameters.values()]
    words = [list(map(str, given)) for given in parameters.values()]
    rows = covering_rows([len(given) for given in values])
    return pytest.mark.parametrize(
        names if len(names) > 1 else names[0],
        [tuple(values[column][index] for column, index in enumerate(row)) for row in rows],
        ids=["-".join(words[column][index] for column, index in enumerate(row)) for row in rows],
    )


def covering_rows(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return rows of indices below ``sizes`` in which every pair of indices of two columns occurs; greedily few."""
    columns = range(len(sizes))
    missing: set[Pair] = {
        ((one, left), (other, right))
        for one, other in combinations(columns, 2)
        for left, right in product(range(sizes[one]), range(sizes[other]))
    }
    rows = []
    while missing:
        row = dict(min(missing))
        for column in columns:
            if column not in row:
                met = [_met(row, (column, index), missing) for index in range(sizes[column])]
                row[column] = met.index(max(met))
        rows.append(tuple(row[column] for column in columns))
        missing -= {((one, row[one]), (other, row[other])) for one, other in combinations(columns, 2)}
    return rows


def _met(row: dict[int, int], new: tuple[int, int], missing: set[Pair]) -> int:
    """Count the missing pairs that a new place makes with those of the row."""
    return sum((min(new, chosen), max(new, chosen)) in missing for chosen in row.items())
