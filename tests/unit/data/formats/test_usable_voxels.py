"""Images in which there is something to be seen, and what is odd about them all the same."""

from __future__ import annotations

import numpy as np

from pcl_auto.data.formats.usable_voxels import remarks_on


def test_f102_channels_that_are_alike_and_label_maps() -> None:
    rng = np.random.default_rng(0)
    scan, other = (rng.normal(100, 20, (4, 5, 6)).astype(np.float32) for _ in range(2))
    mask = rng.integers(0, 4, (4, 5, 6)).astype(np.float32)
    assert remarks_on(np.stack([scan, other])) == ()
    assert remarks_on(scan[None] - 100) == remarks_on(mask[None] - 1) == remarks_on(mask[None] / 2) == ()
    assert remarks_on(np.stack([scan, other, scan])) == ("channels 0 and 2 are the same",)
    assert remarks_on(mask[None]) == ("the scan looks like a label map",)
    assert remarks_on(np.stack([scan, mask])) == ("the scan looks like a label map in channel 1",)
    assert remarks_on(mask[None] * 100) == ()
