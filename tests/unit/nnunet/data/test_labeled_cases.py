"""Measure labeled cases: volumes, and classes in one piece."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest

from pcl_auto.nnunet.data.labeled_cases import LabeledCases, stored_spacing_mm, stored_voxel_ml
from pcl_auto.nnunet.data.store import save_label
from pcl_auto.nnunet.data.store_records import case_files

SHAPE = (2, 4, 6)


def labeled(folder: Path, *maps: np.ndarray, labels: dict[str, Any] | None = None) -> LabeledCases:
    cases = [f"case{number}" for number in range(len(maps))]
    for case, values in zip(cases, maps, strict=True):
        blosc2.asarray(np.zeros((1, *SHAPE), dtype=np.float32), urlpath=str(case_files(folder, case)[0]))
        save_label(folder, case, values[None].astype(np.int16), {}, SHAPE)
    return LabeledCases(folder, cases, labels or {"background": 0, "a": 1, "b": 2}, voxel_ml=0.5)


def test_volumes_and_pieces(tmp_path: Path) -> None:
    first, second = np.full(SHAPE, -1), np.zeros(SHAPE)
    first[0, 0], second[1, 3] = [1, 1, 0, 2, 2, 2], [1, 0, 2, 0, 2, -1]
    cases = labeled(tmp_path, first, second)
    volumes = cases.volumes_ml()
    assert {name: values.tolist() for name, values in volumes.items()} == {"a": [1.0, 0.5], "b": [1.5, 1.0]}
    assert cases.one_piece() == [1]
    assert cases.expected_voxels() == {1: 1, 2: 2}  # of two and one voxels, and three and two


def test_volumes_of_regions(tmp_path: Path) -> None:
    only = np.zeros(SHAPE)
    only[0, 0] = [1, 1, 0, 2, 2, 2]
    cases = labeled(tmp_path, only, labels={"background": 0, "whole": [1, 2], "core": 2})
    assert {name: values.tolist() for name, values in cases.volumes_ml().items()} == {"whole": [2.5], "core": [1.5]}


@pytest.mark.parametrize("whole_cases", [0, 1])
def test_partly_ignored_cases_say_nothing_of_anatomy(tmp_path: Path, whole_cases: int) -> None:
    partly, whole = np.zeros(SHAPE), np.zeros(SHAPE)
    partly[0, 0], whole[0, 0] = [1, 2, 2, 2, 2, 3], [1, 1, 0, 2, 0, 2]
    labels = {"background": 0, "a": 1, "b": 2, "ignore": 3}
    cases = labeled(tmp_path, partly, *[whole] * whole_cases, labels=labels)
    assert list(cases.classes) == ["a", "b"]
    expected = [1.0] * whole_cases
    assert {name: values.tolist() for name, values in cases.volumes_ml().items()} == {"a": expected, "b": expected}
    assert cases.one_piece() == [1] * whole_cases


def test_a_slice_takes_its_distance_from_the_plans() -> None:
    plans = {"original_median_spacing_after_transp": [5.0, 9.0, 9.0]}
    assert stored_voxel_ml([2.0, 3.0, 4.0], plans) == pytest.approx(0.024)
    assert stored_voxel_ml([2.0, 3.0], plans) == pytest.approx(0.03)
    assert stored_spacing_mm([2.0, 3.0, 4.0], plans) == [2.0, 3.0, 4.0]
    assert stored_spacing_mm([2.0, 3.0], plans) == [5.0, 2.0, 3.0]
