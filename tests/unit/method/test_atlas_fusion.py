"""Labels of several atlases, carried over and fused, against a vote that is counted voxel by voxel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from smooth_scans import blobs, identity, scan
from torch import Tensor

from pcl_auto.method import atlas_fusion
from pcl_auto.method.atlas_fusion import Atlas, fuse_atlases, most_similar, move_indicator, move_labels
from pcl_auto.method.label_maps import mean_dice
from pcl_auto.method.mirroring import thumbnail
from pcl_auto.method.registration import Scan, local_correlation, move

SHAPE = (6, 10, 10)
CLASSES = {"core": 1, "shell": 2}
VALUES = (0, 1, 2)


def atlas(seed: int, start: int) -> Atlas:
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[1:5, start : start + 5, 2:8] = 2
    labels[2:4, start + 1 : start + 3, 3:6] = 1
    return Atlas(scan(blobs(SHAPE, seed), (1.0, 1.0, 1.0)), labels)


@pytest.fixture
def standing_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave every atlas where it is: what is tested is the vote."""

    def stay(fixed: Scan, _moving: Scan) -> Tensor:
        return identity(tuple(fixed.image.shape[1:]))

    monkeypatch.setattr(atlas_fusion, "register", stay)


def slow_vote(fixed: Scan, atlases: list[Atlas]) -> np.ndarray:
    matches = [
        local_correlation(fixed.image, each.scan.image, atlas_fusion.VOTE_RADIUS).clamp_min(0).numpy() ** 4 + 1e-4
        for each in atlases
    ]
    found = np.zeros(SHAPE, dtype=np.int16)
    for place in itertools.product(*map(range, SHAPE)):
        votes = dict.fromkeys(VALUES, 0.0)
        for each, match in zip(atlases, matches, strict=True):
            value = int(each.labels[place])
            if value in votes:
                votes[value] += float(match[place])
        found[place] = max(votes, key=lambda value: votes[value])
    return found


@pytest.mark.usefixtures("standing_still")
def test_atlases_vote_where_they_match() -> None:
    fixed = scan(blobs(SHAPE, 1), (1.0, 1.0, 1.0))
    atlases = [atlas(1, 0), atlas(2, 2), atlas(3, 4)]
    fused = fuse_atlases(fixed, atlases, VALUES, CLASSES)
    assert np.array_equal(fused.labels, slow_vote(fixed, atlases))
    # The first has the very intensities of the scan.
    assert mean_dice(fused.labels, atlases[0].labels, CLASSES) > mean_dice(fused.labels, atlases[2].labels, CLASSES)
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = np.mean([mean_dice(atlases[a].labels, atlases[b].labels, CLASSES) for a, b in pairs])
    assert fused.agreement == pytest.approx(expected)


@pytest.mark.usefixtures("standing_still")
def test_a_single_atlas_cannot_be_judged() -> None:
    only = atlas(1, 0)
    fused = fuse_atlases(only.scan, [only], VALUES, CLASSES)
    assert fused.agreement is None
    assert np.array_equal(fused.labels, only.labels)


@pytest.mark.usefixtures("standing_still")
def test_ignored_voxels_do_not_vote() -> None:
    silent, speaking = atlas(1, 0), atlas(2, 0)
    silent.labels[:] = 9
    fused = fuse_atlases(silent.scan, [silent, speaking], VALUES, CLASSES)
    assert np.array_equal(fused.labels, speaking.labels)


def test_the_labels_of_a_moved_scan_come_back() -> None:
    """Two atlases of one anatomy, moved by some voxels, find the labels and agree."""
    whole = blobs((10, 24, 24), 5)
    labels = (whole > np.percentile(whole, 80)).astype(np.int16)
    cuts = [(slice(1, 9), slice(2, 20), slice(2, 20)), (slice(1, 9), slice(0, 18), slice(4, 22))]
    target = (slice(1, 9), slice(3, 21), slice(3, 21))
    atlases = [Atlas(scan(whole[cut], (1.0, 1.0, 1.0)), labels[cut]) for cut in cuts]
    fused = fuse_atlases(scan(whole[target], (1.0, 1.0, 1.0)), atlases, (0, 1), {"core": 1})
    assert mean_dice(fused.labels, labels[target], {"core": 1}) > 0.85
    assert fused.agreement is not None
    assert fused.agreement > 0.8


def test_moved_labels_keep_every_value() -> None:
    labels = atlas(1, 1).labels
    labels[0, 0, :3] = 9
    assert np.array_equal(move_labels(labels, identity(SHAPE), (0, 1, 2, 9)), labels)


@pytest.mark.parametrize("seed", range(4))
def test_a_mask_is_moved_as_an_image_of_it(seed: int) -> None:
    """Wherever the mask lies, at the border too, and wherever the places lead, beyond the border too."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(SHAPE, dtype=bool)
    start = rng.integers(0, 5, 3)
    mask[tuple(slice(first, first + rng.integers(1, 6)) for first in start)] = True
    places = identity((5, 7, 8)) * 1.3 + 0.3 * torch.from_numpy(rng.normal(size=(1, 5, 7, 8, 3))).float()
    expected = move(torch.from_numpy(mask.astype(np.float32))[None], places)[0]
    assert torch.allclose(move_indicator(mask, places), expected, atol=1e-5)
    assert not move_indicator(np.zeros(SHAPE, dtype=bool), places).any()


def test_the_most_similar_atlases_come_first() -> None:
    images = [blobs((12, 24, 24), seed)[None] for seed in (1, 2, 3)]
    small = [thumbnail(image) for image in images]
    near = thumbnail(0.9 * images[1] + 0.1 * images[2])
    assert most_similar(near, small, 2) == [1, 2]
    assert most_similar(near, small, 9)[0] == 1
    assert len(most_similar(near, small, 9)) == 3
