"""Names of images and masks: which belong together, which are channels, and what is left open."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusal import codes

from pcl_auto.data.dataset.name_matching import SAME_NAME, Pairing, group_channels, pair


def matched(images: str, masks: str) -> Pairing:
    """Match names that are written in one line."""
    return pair(*({name: Path(f"{name}.nii.gz") for name in names.split()} for names in (images, masks)))


def names(pairing: Pairing) -> dict[str, str]:
    return {case: mask.name.removesuffix(".nii.gz") for case, mask in pairing.masks.items()}


@pytest.mark.parametrize(
    ("images", "masks", "expected"),
    [
        ("a b c", "a c", {"a": "a", "c": "c"}),
        ("a b", "a_seg", {"a": "a_seg"}),
        ("a b", "a-Mask b.label", {"a": "a-Mask", "b": "b.label"}),
        ("a b", "mask_a label-b", {"a": "mask_a", "b": "label-b"}),
        ("Anna B", "anna_SEG", {"Anna": "anna_SEG"}),
        ("volume-0 volume-1", "segmentation-0", {"volume-0": "segmentation-0"}),
        ("img0001 img0002", "label0002", {"img0002": "label0002"}),
        ("p1_frame01 p1_frame12", "p1_frame01_gt", {"p1_frame01": "p1_frame01_gt"}),
        ("a_ct b_ct", "a_seg b_seg", {"a_ct": "a_seg", "b_ct": "b_seg"}),
        ("a_t1 a_t2", "a_t2_seg", {"a_t2": "a_t2_seg"}),
        ("patient_0001 patient_0002 patient_0010", "patient_0002", {"patient_0002": "patient_0002"}),
        ("patient_0000 patient_0001 patient_0002", "patient_0000", {"patient_0000": "patient_0000"}),
        ("p_0000 q_0001 r_0002", "p_0000 q_0001", {"p_0000": "p_0000", "q_0001": "q_0001"}),
        ("a_0000 b_0000", "a", {"a": "a"}),
        ("a_0000 b_0000", "a_0000", {"a": "a_0000"}),
        ("a_0000 a_0001 b_0000 b_0001", "a", {"a": "a"}),
        ("a_0000 a_0001 b_0000 b_0001", "a_seg", {"a": "a_seg"}),
        ("a b", "a_0000", {"a": "a_0000"}),
    ],
)
def test_masks_are_matched_by_the_closest_name(images: str, masks: str, expected: dict[str, str]) -> None:
    pairing = matched(images, masks)
    assert codes(pairing.problems) == []
    assert names(pairing) == expected


def test_the_way_of_matching_is_told() -> None:
    assert matched("a b img_c", "a b_seg mask_c").how == {
        SAME_NAME: 1,
        '"_seg" of the mask left out': 1,
        '"img_" of the image and "mask_" of the mask left out': 1,
    }


def test_channels_are_in_the_order_of_their_numbers_and_cases_without_a_mask_too() -> None:
    pairing = matched("b_0001 b_0000 a_0001 a_0000", "a")
    assert {case: [file.name for file in files] for case, files in pairing.cases.items()} == {
        "a": ["a_0000.nii.gz", "a_0001.nii.gz"],
        "b": ["b_0000.nii.gz", "b_0001.nii.gz"],
    }
    tests = {name: Path(name) for name in ("x_0000", "x_0001")}
    assert [*group_channels(tests, channels_named=True).cases] == ["x"]
    assert [*group_channels(tests, channels_named=False).cases] == ["x_0000", "x_0001"]


@pytest.mark.parametrize(
    ("images", "masks", "expected"),
    [
        ("a b", "a c d", ["init.mask-alone"]),
        ("a b", "a_liver a_tumor", ["init.mask-alone"]),
        ("a b", "a a_seg", ["init.several-masks"]),
        ("a_t1 a_t2", "a_seg", ["init.several-images"]),
        ("img_a scan_a", "a", ["init.several-images"]),
        ("a a_seg b", "a", ["init.mask-among-images"]),
        ("a_0000 a_0001 b_0000 b_0002", "a", ["init.channel-files"]),
        ("a_0000 a_0001 b_0001", "a", ["init.channel-files"]),
        ("a a_0000 a_0001", "a", ["init.channel-files"]),
        ("a_0000 a_0001 b_0000 b_0001", "a_0000", ["init.channel-or-case"]),
    ],
)
def test_what_names_leave_open_is_refused(images: str, masks: str, expected: list[str]) -> None:
    assert codes(matched(images, masks).problems) == expected
