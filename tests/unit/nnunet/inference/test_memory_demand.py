"""Cut scans into slabs: every row is kept once, and has around it what the network sees."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pcl_auto.nnunet.inference.memory_demand import margin_rows, most_slabs, split_into_slabs


@pytest.mark.parametrize(("rows", "count", "margin"), [(10, 1, 4), (10, 3, 2), (100, 7, 9), (5, 5, 0), (64, 8, 4)])
def test_every_row_is_kept_once_with_its_surroundings(rows: int, count: int, margin: int) -> None:
    cut = split_into_slabs(rows, count, margin)
    assert len(cut) == count
    assert [row for slab in cut for row in range(slab.first, slab.last)] == list(range(rows))
    for slab in cut:
        assert (slab.begin, slab.end) == (max(0, slab.first - margin), min(rows, slab.last + margin))


def grid(patch: list[int], spacing_mm: list[float]) -> Any:
    return SimpleNamespace(patch_size=patch, spacing=spacing_mm)


def test_what_a_network_sees_around_a_voxel() -> None:
    assert margin_rows(grid([16, 8, 8], [1.0, 1.0, 1.0]), [1.0, 1.0, 1.0]) == 8
    assert margin_rows(grid([15, 8, 8], [2.0, 1.0, 1.0]), [3.0, 1.0, 1.0]) == 5
    assert margin_rows(grid([64, 64], [1.0, 1.0]), [3.0, 1.0, 1.0]) == 0


def test_no_slab_keeps_less_than_it_has_around_it() -> None:
    assert (most_slabs(100, 8), most_slabs(100, 0), most_slabs(5, 8)) == (6, 100, 1)
