"""The pseudo-labels of a round come to the volumes of the labeled cases, by shifts that stay those of the round."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import write_pickle

from pcl_auto.nnunet import distributed
from pcl_auto.nnunet.data.pseudo_label_files import RoundFolder
from pcl_auto.nnunet.data.store_records import case_files
from pcl_auto.nnunet.training import pseudo_label_stage
from pcl_auto.nnunet.training.pseudo_label_stage import PseudoLabelStage, measure_shifts
from pcl_auto.recipe.load import load_recipe

SHAPE = (4, 10, 10)
LABELS = {"background": 0, "core": 1}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Five cases of noise; the segmenter below finds a third of the voxels to be core."""
    folder = tmp_path / "store"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        image, seg, properties = case_files(folder, f"case{number}")
        blosc2.asarray(rng.normal(-0.4, 1, (1, *SHAPE)).astype(np.float32), urlpath=str(image))
        blosc2.asarray(np.zeros((1, *SHAPE), np.int16), urlpath=str(seg))
        write_pickle({}, str(properties))
    return folder


def segment(image: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.zeros(SHAPE), image[0]])


def volumes(segmenter: Any, store: Path) -> list[int]:
    images = [torch.from_numpy(blosc2.open(str(case_files(store, f"case{number}")[0]))[:]) for number in range(5)]
    return [int((segmenter(image).argmax(0) == 1).sum()) for image in images]


def stage_of(store: Path, expected: dict[int, int], told: list[Any], margin: float = 1.0) -> Any:
    recipe = load_recipe("default")
    trainer = SimpleNamespace(
        recipe=SimpleNamespace(pseudo_labels=SimpleNamespace(match_volumes=margin), schedule=recipe.schedule),
        settings=SimpleNamespace(seed=0),
        dataset_json={"labels": LABELS},
        label_manager=SimpleNamespace(all_labels=[0, 1]),
        events=SimpleNamespace(emit=lambda event, **values: told.append((event, values))),
    )
    stage: Any = PseudoLabelStage.__new__(PseudoLabelStage)
    stage._trainer, stage._store = trainer, store
    stage.labeled = SimpleNamespace(expected_voxels=lambda: expected)
    return stage


def test_a_round_finds_as_much_as_the_labeled_cases_have(store: Path, tmp_path: Path) -> None:
    cases = [f"case{number}" for number in range(5)]
    assert 120 < np.median(volumes(segment, store)) < 160
    for expected in (60, 250):
        told: list[Any] = []
        folder = RoundFolder(tmp_path / f"round_{expected}")
        matched = stage_of(store, {1: expected}, told)._matched(segment, cases, folder, 1)
        assert np.median(volumes(matched, store)) == pytest.approx(expected, abs=1)
        ((event, values),) = told
        assert (event, values["round"], values["logit_shifts"].keys()) == ("volumes_matched", 1, {"core"})


def test_an_interrupted_round_keeps_its_shifts(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases, told, folder = [f"case{number}" for number in range(5)], list[Any](), RoundFolder(tmp_path / "round_1")
    first = volumes(stage_of(store, {1: 60}, told)._matched(segment, cases, folder, 1), store)
    # The network is another, and so would the shifts be.
    again = stage_of(store, {1: 250}, told)._matched(segment, cases, folder, 1)
    assert volumes(again, store) == first
    assert len(told) == 1
    # What is not the first process waits for it, and reads.
    monkeypatch.setattr(distributed, "rank_zero_first", lambda: contextlib.nullcontext(False))
    assert volumes(stage_of(store, {}, told)._matched(segment, cases, folder, 1), store) == first


def test_many_cases_are_sampled(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def counting(image: torch.Tensor) -> torch.Tensor:
        seen.append(float(image.sum()))
        return segment(image)

    monkeypatch.setattr(pseudo_label_stage, "CASES_TO_MATCH", 3)
    cases = [f"case{number}" for number in range(5)]
    shifts = [measure_shifts(counting, cases, store, {1: 60}, 1.0, np.random.default_rng(4)) for _ in range(2)]
    assert shifts[0] == shifts[1]
    assert len(seen) == 6
    assert seen[:3] == seen[3:]
    assert len(set(seen)) == 3
