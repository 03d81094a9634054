"""From the symmetry of stored scans to the axes of a patch."""

from __future__ import annotations

import pytest

from pcl_auto.method.mirroring import AxisSymmetry
from pcl_auto.nnunet.data.mirror_axes import mirror_axes


@pytest.mark.parametrize(
    ("shares", "dimensions", "axes"),
    [
        ([0.0, 0.0, 0.0], 3, ()),
        ([0.0, 0.0, 0.5], 3, (2,)),
        ([0.5, 0.3, 0.0], 3, (0, 1)),
        ([0.5, 0.0, 0.5], 2, (1,)),
        ([0.5, 0.5, 0.0], 2, (0,)),
    ],
)
def test_axes_of_a_patch(shares: list[float], dimensions: int, axes: tuple[int, ...]) -> None:
    assert mirror_axes([AxisSymmetry(axis, share) for axis, share in enumerate(shares)], dimensions) == axes


def test_where_nothing_was_measured_nnunet_decides() -> None:
    assert mirror_axes([], 3) is None
