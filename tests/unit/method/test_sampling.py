"""Drawing voxels and taking their features."""

import pytest
import torch
from pairs import in_pairs
from reference import class_voxels
from torch import Tensor

from pcl_auto.method.sampling import VoxelSample, gather_features, sample_voxels

SHAPES = [(7, 9), (5, 6, 4)]


def random_labels(shape: tuple[int, ...], n_images: int, n_classes: int, seed: int = 0) -> torch.Tensor:
    """Labels from -1 (ignore) to n_classes + 1 (no class); image 0 lacks class 1."""
    labels = torch.randint(-1, n_classes + 2, (n_images, *shape), generator=torch.Generator().manual_seed(seed))
    labels[0][labels[0] == 1] = 0
    return labels


def drawn_groups(sample: VoxelSample) -> dict[tuple[int, int], list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for image, cls, voxel in zip(sample.image.tolist(), sample.cls.tolist(), sample.voxel.tolist(), strict=True):
        groups.setdefault((image, cls), []).append(voxel)
    return groups


@pytest.mark.parametrize(
    ("labels", "n_classes", "per_class", "message"),
    [
        (torch.zeros(1, 4, 4), 1, 1, "integers, got torch.float32"),
        (torch.zeros(1, 4, 4, dtype=torch.bool), 1, 1, "integers, got torch.bool"),
        (torch.zeros(4, dtype=torch.long), 1, 1, r"shape \(B, \*spatial\), got \(4,\)"),
        (torch.zeros(1, 4, dtype=torch.long), 0, 1, "n_classes must be at least 1, got 0"),
        (torch.zeros(1, 4, dtype=torch.long), 1, -2, "per_class must be at least 0 .* got -2"),
    ],
)
def test_refuses(labels: torch.Tensor, n_classes: int, per_class: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_voxels(labels, n_classes, per_class)


@in_pairs(shape=SHAPES, n_images=[1, 3], n_classes=[1, 2, 4], per_class=[0, 1, 3, 10_000])
def test_draws_from_the_classes_of_the_reference(
    shape: tuple[int, ...], n_images: int, n_classes: int, per_class: int
) -> None:
    labels = random_labels(shape, n_images, n_classes)
    groups = class_voxels(labels.flatten(1).tolist(), n_classes)
    drawn = drawn_groups(sample_voxels(labels, n_classes, per_class))
    assert drawn.keys() == groups.keys()
    for group, voxels in drawn.items():
        assert len(voxels) == min(per_class or len(groups[group]), len(groups[group]))
        assert len(set(voxels)) == len(voxels)
        assert set(voxels) <= set(groups[group])


@pytest.mark.parametrize("per_class", [0, 8])
@pytest.mark.parametrize("least", [1, 4, 8])
def test_classes_of_too_few_voxels_are_not_drawn(per_class: int, least: int) -> None:
    labels = torch.zeros(2, 5, 6, dtype=torch.long)
    labels[0, 0, :3], labels[0, 1] = 1, 2
    labels[1, :2], labels[1, 4, :4] = 1, 2
    everything, kept = (drawn_groups(sample_voxels(labels, 2, per_class, least=each)) for each in (1, least))
    assert {group: len(voxels) for group, voxels in everything.items()} == {
        (0, 0): 3, (0, 1): 6, (1, 0): per_class or 12, (1, 1): 4,
    }  # fmt: skip
    assert kept.keys() == {group for group, voxels in everything.items() if len(voxels) >= least}
    sample = sample_voxels(labels, 2, per_class, least=least)
    for group, voxels in kept.items():
        assert len(voxels) == len(everything[group])
        assert {labels[group[0]].flatten()[voxel].item() for voxel in voxels} == {group[1] + 1}
    ranks = list(zip(sample.image.tolist(), sample.cls.tolist(), sample.rank.tolist(), strict=True))
    assert ranks == sorted(ranks)


@pytest.mark.parametrize("per_class", [0, 3])
def test_is_ordered_by_image_class_and_rank(per_class: int) -> None:
    sample = sample_voxels(random_labels((5, 6, 4), 3, 2), 2, per_class)
    keys = list(zip(sample.image.tolist(), sample.cls.tolist(), sample.rank.tolist(), strict=True))
    assert keys == sorted(keys)
    for group, voxels in drawn_groups(sample).items():
        assert [rank for image, cls, rank in keys if (image, cls) == group] == list(range(len(voxels)))


@pytest.mark.parametrize("anchors", [1, 2, 100])
def test_anchors_are_the_first_of_every_class_of_every_image(anchors: int) -> None:
    sample = sample_voxels(random_labels((5, 6, 4), 3, 2), 2, 3)
    found, seen = [], dict[tuple[int, int], int]()
    for position, group in enumerate(zip(sample.image.tolist(), sample.cls.tolist(), strict=True)):
        seen[group] = seen.get(group, 0) + 1
        if seen[group] <= anchors:
            found.append(position)
    assert sample.anchors(anchors).tolist() == found


@pytest.mark.parametrize("per_class", [0, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_accepts_every_integer_type(dtype: torch.dtype, per_class: int) -> None:
    labels = torch.tensor([[0, 1, 2, 2, 100], [1, 1, 0, 0, 0]], dtype=dtype)
    sample = sample_voxels(labels, 2, per_class)
    assert {group: sorted(voxels) for group, voxels in drawn_groups(sample).items()} == {
        (0, 0): [1],
        (0, 1): [2, 3],
        (1, 0): [0, 1],
    }
    assert {tensor.dtype for tensor in vars(sample).values()} == {torch.int64}


@pytest.mark.parametrize("per_class", [0, 3])
@pytest.mark.parametrize("fill", [-1, 0, 5])
def test_is_empty_without_foreground(fill: int, per_class: int) -> None:
    sample = sample_voxels(torch.full((2, 3, 3), fill), 2, per_class)
    assert len(sample) == 0
    assert gather_features(torch.rand(2, 4, 3, 3), sample).shape == (0, 4)


@pytest.mark.parametrize("per_class", [0, 5])
def test_generator_makes_it_reproducible(per_class: int) -> None:
    labels = random_labels((5, 6, 4), 2, 2)

    def draw(seed: int) -> list[int]:
        return sample_voxels(labels, 2, per_class, torch.Generator().manual_seed(seed)).voxel.tolist()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize("per_class", [0, 4])
def test_every_subset_is_equally_likely(per_class: int) -> None:
    # 6,000 images with the same six voxels of class 1: 6,000 independent draws in one call.
    labels = torch.tensor([0, 1, 1, 0, 1, 1, 1, 1]).repeat(6000, 1)
    sample = sample_voxels(labels, 1, per_class, torch.Generator().manual_seed(0))
    first = sample.voxel[sample.rank == 0]
    second = sample.voxel[sample.rank == 1]
    # The 30 ordered pairs of first and second voxel, each expected 200 times; 29 degrees of freedom.
    counts = torch.bincount(first * 8 + second, minlength=64)
    counts = counts[counts > 0].double()
    assert len(counts) == 30
    chi_squared = ((counts - 200).square() / 200).sum().item()
    assert 10 < chi_squared < 60


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_gathers_what_a_loop_gathers(shape: tuple[int, ...], channels_last: bool) -> None:
    features = torch.rand(3, 4, *shape, generator=torch.Generator().manual_seed(0))
    if channels_last:
        features = features.to(memory_format=torch.channels_last if len(shape) == 2 else torch.channels_last_3d)
    sample = sample_voxels(random_labels(shape, 3, 2), 2, 5)
    weights = torch.rand(len(sample), 4)
    features.requires_grad_()
    gathered = gather_features(features, sample)
    torch.autograd.backward((gathered * weights).sum())

    expected, gradient = torch.empty(len(sample), 4), torch.zeros(features.shape)
    for row in range(len(sample)):
        where = torch.unravel_index(sample.voxel[row], shape)
        for channel in range(4):
            index: tuple[Tensor | int, ...] = (sample.image[row], channel, *where)
            expected[row, channel] = features[index]
            gradient[index] += weights[row, channel]
    assert torch.equal(gathered, expected)
    assert features.grad is not None
    assert torch.equal(features.grad, gradient)


@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [
        ((2, 4, 5, 6), torch.contiguous_format),
        ((2, 4, 5, 6), torch.channels_last),
        ((2, 4, 5, 6, 3), torch.contiguous_format),
        ((2, 4, 5, 6, 3), torch.channels_last_3d),
    ],
)
def test_flattening_the_feature_map_does_not_copy_it(
    shape: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    features = torch.rand(shape).to(memory_format=memory_format)
    assert features.flatten(2).data_ptr() == features.data_ptr()


def test_gather_refuses_vectors() -> None:
    with pytest.raises(ValueError, match=r"features must have shape .* got \(2, 3\)"):
        gather_features(torch.rand(2, 3), sample_voxels(torch.ones(2, 3, dtype=torch.long), 1, 1))


@pytest.mark.parametrize("images", range(4))
def test_split_by_image(images: int) -> None:
    sample = sample_voxels(random_labels((5, 6, 4), 3, 2), 2, 3)
    first, others = drawn_groups(sample.split(images)[0]), drawn_groups(sample.split(images)[1])
    groups = drawn_groups(sample)
    assert first == {group: voxels for group, voxels in groups.items() if group[0] < images}
    assert others == {(i - images, cls): voxels for (i, cls), voxels in groups.items() if i >= images}
    assert all(
        torch.equal(torch.cat([getattr(part, name) for part in sample.split(images)]), getattr(sample, name))
        for name in ("cls", "voxel", "rank")
    )
