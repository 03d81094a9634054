"""From the symmetry of stored scans to the axes of a patch."""

from __future__ import annotations

import pytest

from pcl_auto.method.mirroring import MeasuredAxis
from pcl_auto.nnunet.data.mirror_axes import mirror_axes


@pytest.mark.parametrize(
    ("mirrored", "dimensions", "axes"),
    [
        ([False, False, False], 3, ()),
        ([False, False, True], 3, (2,)),
        ([True, True, False], 3, (0, 1)),
        ([True, False, True], 2, (1,)),
        ([True, True, False], 2, (0,)),
    ],
)
def test_axes_of_a_patch(mirrored: list[bool], dimensions: int, axes: tuple[int, ...]) -> None:
    assert mirror_axes([MeasuredAxis(axis, 0.5, each) for axis, each in enumerate(mirrored)], dimensions) == axes


def test_where_nothing_was_measured_nnunet_decides() -> None:
    assert mirror_axes([], 3) is None
