"""Cells of regions against a slow search, and which voxels the contrast sees of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pairs import in_pairs

from pcl_auto.method.label_maps import Values, class_mask
from pcl_auto.method.regions import Pattern, cells, patterns_of
from pcl_auto.method.sampling import sample_voxels

NESTED: list[Values] = [(1, 2, 3), (2, 3), 3]


def slow_cells(targets: torch.Tensor, patterns: list[Pattern]) -> torch.Tensor:
    """Voxel by voxel: the number of the pattern that its regions make, 0 without one."""
    numbers = torch.zeros(targets.shape[0], *targets.shape[2:], dtype=torch.int64)
    for place in np.ndindex(*numbers.shape):
        image, *voxel = place
        one_voxel = (image, slice(len(patterns[0])), *voxel)
        here = tuple(targets[one_voxel].bool().tolist())
        if here in patterns:
            numbers[place] = patterns.index(here) + 1
    return numbers


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        (NESTED, [(True, False, False), (True, True, False), (True, True, True)]),
        ([(1, 2), (2, 3)], [(True, False), (True, True), (False, True)]),
        # Nothing tells 1 from 2 here.
        ([(1, 2, 3), 3], [(True, False), (True, True)]),
        ([], []),
    ],
)
def test_a_cell_for_every_combination_of_regions(regions: list[Values], expected: list[Pattern]) -> None:
    assert patterns_of(regions, [1, 2, 3]) == expected


@in_pairs(
    regions=[NESTED, [(1, 2), (2, 3)], [(1, 2, 3), 3]],
    dtype=[torch.bool, torch.float32, torch.int16],
    shape=[(5, 6), (3, 4, 5)],
)
def test_cells_are_those_of_the_slow_search(regions: list[Values], dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    patterns = patterns_of(regions, [1, 2, 3])
    # Any combination, those that no label map makes among them; the last channel is that of ignored voxels.
    targets = torch.randint(2, (2, len(regions) + 1, *shape), generator=torch.Generator().manual_seed(0)).to(dtype)
    found = cells(targets, patterns)
    assert found.dtype == torch.int64
    assert torch.equal(found, slow_cells(targets, patterns))


def test_cells_are_the_values_that_the_regions_are_made_of() -> None:
    labels = torch.randint(4, (2, 5, 6), generator=torch.Generator().manual_seed(0))
    targets = torch.stack([torch.from_numpy(class_mask(labels.numpy(), region)) for region in NESTED], dim=1)
    assert torch.equal(cells(targets, patterns_of(NESTED, [1, 2, 3])), labels)


def test_no_voxel_of_the_background_is_drawn() -> None:
    targets = torch.zeros(1, 4, 3, 3, dtype=torch.bool)
    targets[0, 0, 0] = True  # in the largest region
    targets[0, 3, 1:] = True  # ignored
    sample = sample_voxels(cells(targets, patterns_of(NESTED, [1, 2, 3])), 3, 0)
    assert sorted(sample.voxel.tolist()) == [0, 1, 2]
    assert set(sample.cls.tolist()) == {0}
