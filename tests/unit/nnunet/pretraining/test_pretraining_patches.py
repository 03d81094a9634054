"""Patches of stored images: the right voxels, the right partitions, the same ones every time."""

from __future__ import annotations

from pathlib import Path

import blosc2
import numpy as np
import pytest
from refusal import refused

from pcl_auto.errors import StateError
from pcl_auto.nnunet.data.store_records import case_files
from pcl_auto.nnunet.pretraining.patches import PartitionViews, PatchSource, RandomPatches, iter_steps
from pcl_auto.nnunet.pretraining.stored_images import StoredImages

SHAPES = {"a": (12, 9, 10), "b": (8, 14, 6), "c": (3, 12, 12)}
CHANNELS = 2


@pytest.fixture
def arrays(tmp_path: Path) -> dict[str, np.ndarray]:
    """Images whose voxels say where they are: channel, case and place; no label, no properties."""
    made = {}
    for number, (case, shape) in enumerate(SHAPES.items(), start=1):
        place = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 10_000 * number
        made[case] = np.stack([place, -place])
        blosc2.asarray(made[case], urlpath=str(case_files(tmp_path, case)[0]))
    return made


@pytest.fixture
def images(tmp_path: Path, arrays: dict[str, np.ndarray]) -> StoredImages:
    return StoredImages(tmp_path, list(arrays))


def case_of(patch: np.ndarray) -> str:
    return "abc"[int(patch[0][patch[0] != 0][0] // 10_000) - 1]


@pytest.mark.parametrize(
    ("start", "size"),
    [((0, 0, 0), (12, 9, 10)), ((-2, 3, -1), (5, 4, 20)), ((10, 0, 0), (4, 1, 1)), ((20, 0, 0), (2, 2, 2))],
)
def test_a_box_is_the_image_with_zeros_around_it(
    images: StoredImages, arrays: dict[str, np.ndarray], start: tuple[int, ...], size: tuple[int, ...]
) -> None:
    whole, margin = arrays["a"], 25
    padded = np.pad(whole, ((0, 0), (margin, margin), (margin, margin), (margin, margin)))
    box = tuple(slice(first + margin, first + margin + length) for first, length in zip(start, size, strict=True))
    assert np.array_equal(images.read("a", start, size), padded[:, box[0], box[1], box[2]])


def test_an_image_that_is_gone_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    with refused(StateError, "plan.stored-case-unreadable"):
        StoredImages(tmp_path, [*arrays, "d"])


@pytest.mark.parametrize("patch_voxels", [(6, 8, 8), (8, 8)])
def test_random_patches_are_parts_of_the_images_mirrored_or_not(
    images: StoredImages, arrays: dict[str, np.ndarray], patch_voxels: tuple[int, ...]
) -> None:
    source = RandomPatches(images, patch_voxels, 5)
    rng, seen, mirrored = np.random.default_rng(0), set(), set()
    for _ in range(30):
        drawn = source.draw(rng)
        assert drawn.images.shape == (5, CHANNELS, *patch_voxels)
        for case, patch in zip(drawn.cases, drawn.images.numpy(), strict=True):
            assert case_of(patch) == case
            assert np.array_equal(patch[0], -patch[1])
            inside = set(patch[0][patch[0] != 0].tolist())
            assert inside <= set(arrays[case][0].ravel().tolist())
            padding = [max(0, want - have) for want, have in zip(patch_voxels[::-1], SHAPES[case][::-1], strict=False)]
            expected = np.prod([want - gap for want, gap in zip(patch_voxels[::-1], padding, strict=True)])
            assert len(inside) == expected, "as much of the image as goes into the patch"
            seen.add(case)
            middle = patch[0][tuple(size // 2 for size in patch_voxels[:-1])]
            steps = np.diff(middle[middle != 0])
            mirrored.add(bool(steps[0] < 0))
    assert seen == set(SHAPES)
    assert mirrored == {True, False}


@pytest.mark.parametrize("patch_voxels", [(10, 8, 8), (8, 8)])
def test_views_come_in_pairs_of_each_partition_of_each_volume(
    images: StoredImages, arrays: dict[str, np.ndarray], patch_voxels: tuple[int, ...]
) -> None:
    source = PartitionViews(images, patch_voxels, 16, 4, stride=2)
    slices = set()
    for seed in range(20):
        drawn = source.draw(np.random.default_rng(seed))
        assert len(drawn.images) == 16
        assert sorted(set(drawn.cases)) == ["a", "b"], "c has fewer slices than partitions"
        assert drawn.cases[:8] == drawn.cases[8:]
        pairs = list(zip(drawn.cases, drawn.partitions.tolist(), strict=True))
        assert pairs[:8] == pairs[8:]
        assert sorted(pairs[:8]) == [(case, part) for case in "ab" for part in range(4)]
        for (case, part), view in zip(pairs, drawn.images.numpy(), strict=True):
            assert case_of(view) == case
            depth, area = SHAPES[case][0], SHAPES[case][1] * SHAPES[case][2]
            values = view[0][view[0] != 0] - 10_000 * ("abc".index(case) + 1)
            of_view = sorted(set((values // area).astype(int).tolist()))
            if len(patch_voxels) == 2:
                assert len(of_view) == 1
                assert part * depth // 4 <= of_view[0] < (part + 1) * depth // 4
                slices.add((case, of_view[0]))
            else:
                # A slab of two of eight slices, the shorter volume's quarter; the end of the volume tells nothing.
                assert view.shape[1] == 2
                assert of_view == [of_view[0], of_view[0] + 1]
                starts = depth - 1
                assert part * starts // 4 <= of_view[0] < (part + 1) * starts // 4
                slices.add((case, of_view[0]))
    # Every slice, or every slab inside the volume, and each in one partition alone.
    slab = 1 if len(patch_voxels) == 2 else 2
    assert slices == {(case, number) for case in "ab" for number in range(SHAPES[case][0] - slab + 1)}


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_partitions_of_one_volume_never_show_the_same_slab(images: StoredImages, stride: int) -> None:
    source = PartitionViews(images, (8, 4, 4), 16, 4, stride=stride)
    for seed in range(50):
        drawn = source.draw(np.random.default_rng(seed))
        assert drawn.images.shape[2] % stride == 0
        seen: dict[tuple[str, float], int] = {}
        for case, part, view in zip(drawn.cases, drawn.partitions.tolist(), drawn.images.numpy(), strict=True):
            assert SHAPES[case][0] >= stride + 3
            area = SHAPES[case][1] * SHAPES[case][2]
            first = float((view[0][view[0] != 0].min() - 10_000 * ("abc".index(case) + 1)) // area)
            assert seen.setdefault((case, first), part) == part


def test_both_views_of_a_slab_show_the_same_slices_and_may_show_other_columns(images: StoredImages) -> None:
    source = PartitionViews(images, (4, 4, 4), 16, 4, stride=2)
    moved = 0
    for seed in range(10):
        views = source.draw(np.random.default_rng(seed)).images.numpy()
        for first, second in zip(views[:8], views[8:], strict=True):
            moved += not np.array_equal(first, second)
            case = case_of(first)
            area = SHAPES[case][1] * SHAPES[case][2]
            offset = 10_000 * ("abc".index(case) + 1)
            assert ((first[0] - offset) // area == (second[0] - offset) // area).all()
    assert moved


def test_volumes_of_too_few_slices_are_refused(images: StoredImages) -> None:
    with refused(StateError, "pretrain.too-few-slices") as refusal:
        PartitionViews(images, (8, 8), 8, 13, stride=1)
    assert refusal.problem.found == "12 at most"


@pytest.mark.parametrize("kind", ["random", "views"])
def test_a_step_is_the_same_however_it_is_made(images: StoredImages, kind: str) -> None:
    source: PatchSource = (
        RandomPatches(images, (4, 4, 4), 3) if kind == "random" else PartitionViews(images, (4, 4, 4), 8, 4, 2)
    )
    seeds = [(1, 2, step) for step in range(12)]
    alone, threads = ([patches.images for patches in iter_steps(source, seeds, count)] for count in (0, 3))
    assert len(alone) == 12
    assert all(np.array_equal(first, second) for first, second in zip(alone, threads, strict=True))
    assert not np.array_equal(alone[0], alone[1])
    assert np.array_equal(next(iter_steps(source, seeds[7:], 2)).images, alone[7]), "whatever was drawn before"


def test_steps_that_nobody_takes_are_given_up(images: StoredImages) -> None:
    steps = iter_steps(RandomPatches(images, (4, 4, 4), 2), [(step,) for step in range(1000)], 2)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
