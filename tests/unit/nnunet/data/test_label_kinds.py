"""Regions and the ignore label in nnU-Net's hands: what training reads is what we take it for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import blosc2
import nibabel as nib
import numpy as np
import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import write_pickle
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from pcl_auto.data.case import Case
from pcl_auto.data.labels import head_count
from pcl_auto.method.regions import disjoint_classes, patterns_of
from pcl_auto.method.sampling import sample_voxels
from pcl_auto.nnunet.data import pseudo_label_files
from pcl_auto.nnunet.data.cases import StoredCases
from pcl_auto.nnunet.data.store import foreground_intensities, save_label
from pcl_auto.nnunet.data.store_records import case_files
from pcl_auto.nnunet.training.pseudo_label_stage import predict_round

SHAPE = (4, 6, 8)
CLASSES = {"background": 0, "a": 1, "b": 2, "c": 3}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
KINDS = [
    pytest.param({**labels, **ignored}, order, id=f"{kind}{' and ignored' if ignored else ''}")
    for kind, labels, order in (("classes", CLASSES, None), ("regions", REGIONS, [1, 2, 3]))
    for ignored in ({}, {"ignore": 4})
]


@pytest.mark.parametrize(("labels", "order"), KINDS)
def test_heads_are_counted_as_nnunet_does(labels: dict[str, Any], order: list[int] | None) -> None:
    assert head_count(labels) == LabelManager(labels, order).num_segmentation_heads


@pytest.mark.parametrize(("labels", "order"), KINDS)
def test_the_contrast_sees_the_label_values_without_ignored_voxels(
    labels: dict[str, Any], order: list[int] | None
) -> None:
    manager = LabelManager(labels, order)
    drawn = torch.randint(5 if manager.has_ignore_label else 4, (1, *SHAPE), generator=torch.Generator().manual_seed(0))
    targets = drawn[None]
    if manager.has_regions:
        regions = [*manager.foreground_regions, *([4] if manager.has_ignore_label else [])]
        targets = ConvertSegmentationToRegionsTransform(regions)(segmentation=drawn)["segmentation"][None]
    classes = disjoint_classes(targets, patterns_of(manager.all_regions or [], manager.foreground_labels))
    sample = sample_voxels(classes, len(manager.foreground_labels), 0)
    found = np.zeros(drawn.numel(), dtype=int)
    found[sample.voxel.numpy()] = sample.cls.numpy() + 1
    np.testing.assert_array_equal(found, np.where(drawn == 4, 0, drawn).ravel())


@pytest.mark.parametrize(("labels", "order"), KINDS)
def test_a_pseudo_label_is_nnunets_mask_and_its_loader_reads_it(
    tmp_path: Path, labels: dict[str, Any], order: list[int] | None
) -> None:
    manager = LabelManager(labels, order)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(manager.num_segmentation_heads, *SHAPE, generator=generator).half()
    store = tmp_path / "store"
    store.mkdir()
    blosc2.asarray(np.ones((1, *SHAPE), np.float32), urlpath=str(case_files(store, "a")[0]))
    save_label(store, "a", np.zeros((1, *SHAPE), np.int16), {}, SHAPE)
    write_pickle({}, str(case_files(store, "a")[2]))
    folder = pseudo_label_files.round_folder(tmp_path, 1)
    predict_round(
        lambda _image: logits,
        ["a"],
        store,
        folder,
        patch_voxels=SHAPE,
        labels_of=manager,
        one_piece=[],
        check=None,
        progress=lambda _done, _total: None,
    )
    found = pseudo_label_files.read_labels(folder.cases, "a")
    np.testing.assert_array_equal(found, manager.convert_logits_to_segmentation(logits.float()))
    assert set(np.unique(found)) == {0, 1, 2, 3}
    locations = StoredCases(str(folder.cases), ["a"]).load_case("a")[3]["class_locations"]
    for values, places in locations.items():
        assert {int(found[tuple(place[1:])]) for place in places} == set(np.atleast_1d(values)) - {-1}
    for oversample in (0.0, 1.0):
        loader = nnUNetDataLoader(
            StoredCases(str(folder.cases), ["a"]), 2, (2, 4, 4), (2, 4, 4), manager,
            oversample_foreground_percent=oversample,
        )  # fmt: skip
        assert loader.generate_train_batch()["target"].shape == (2, 1, 2, 4, 4)


def test_ignored_voxels_are_no_foreground(tmp_path: Path) -> None:
    image, label = np.arange(1.0, 65.0, dtype=np.float32).reshape(4, 4, 4), np.zeros((4, 4, 4), np.uint8)
    label[0], label[1] = 1, 2
    for name, voxels in (("image", image), ("label", label)):
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{name}.nii.gz")
    files = [Case("a", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz", "training")]
    everything, known = (foreground_intensities(files, 1, ignored)["0"] for ignored in (None, 2))
    assert (everything["min"], everything["max"]) == (1.0, 32.0)
    assert (known["min"], known["max"]) == (1.0, 16.0)
