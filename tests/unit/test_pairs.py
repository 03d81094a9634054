"""The pairs of a parametrization against the full product."""

from __future__ import annotations

from itertools import combinations, product

import pytest
from pairs import covering_rows


@pytest.mark.parametrize("sizes", [(2, 2), (3, 2, 4), (7, 2, 3, 2, 4), (2, 3, 4, 2, 2), (1, 5)])
def test_every_pair_occurs_and_few_rows_do(sizes: tuple[int, ...]) -> None:
    rows = covering_rows(sizes)
    for one, other in combinations(range(len(sizes)), 2):
        met = {(row[one], row[other]) for row in rows}
        assert met == set(product(range(sizes[one]), range(sizes[other])))
    *_, second, largest = sorted(sizes)
    assert largest * second <= len(rows) <= 1.5 * largest * second
