"""Scale times by the patches of a case, and choose the cases to look at."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import blosc2
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from pcl_auto.nnunet.data.store import save_label
from pcl_auto.nnunet.data.store_records import case_files
from pcl_auto.nnunet.training import timing


@pytest.mark.parametrize("shape", [(8, 8, 8), (5, 9, 30), (20, 17, 16)])
@pytest.mark.parametrize("patch", [(8, 8, 8), (4, 10, 12), (8, 8)])
def test_patches_of_a_case_are_nnunets(tmp_path: Path, shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    blosc2.asarray(np.zeros((2, *shape), dtype=np.float32), urlpath=str(case_files(tmp_path, "a")[0]))
    save_label(tmp_path, "a", np.zeros((1, *shape), dtype=np.int16), {}, patch)
    settings = SimpleNamespace(patch_size=list(patch))
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.configuration_manager = settings
    # nnU-Net pads what is smaller than a patch before it cuts.
    padded = (*shape[: 3 - len(patch)], *np.maximum(shape[3 - len(patch) :], patch).tolist())
    expected = predictor._internal_get_sliding_window_slicers(padded)
    assert timing._tiles(SimpleNamespace(configuration_manager=settings), tmp_path, "a") == len(expected)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 200])
def test_cases_are_looked_at_from_small_to_large_the_middle_one_first(count: int) -> None:
    cases = [f"{number:03d}" for number in range(count)]
    chosen = timing._spread(cases)
    assert chosen[0] == cases[count // 2]
    assert len(set(chosen)) == len(chosen) <= timing.MAX_TIMED_CASES + 1
    assert {cases[0], cases[-1]} <= set(chosen)


def test_a_mean_over_as_many_times_as_asked_for() -> None:
    done: list[int] = []
    assert timing._repeat(lambda: done.append(1), 0.0, 5) >= 0
    assert len(done) == 5
    timing._repeat(lambda: done.append(1), 60.0)
    assert len(done) == 5 + timing.MAX_TIMES


def test_timing_leaves_random_numbers_as_they_were() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002

    with timing._same_random_numbers():
        inside = draw()
    assert draw() == inside


def test_confidences_count_by_the_size_of_their_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = {"a": 1, "b": 2, "c": 5}
    clock = iter([100.0, 103.0])
    monkeypatch.setattr(timing, "reference_cases", lambda _trainer: list(tiles))
    monkeypatch.setattr(timing, "_tiles", lambda _trainer, _folder, case: tiles[case])
    monkeypatch.setattr(timing, "confidence_in_training", lambda _trainer, case: {"b": 0.9}[case])
    monkeypatch.setattr(timing, "monotonic", lambda: next(clock))
    trainer = SimpleNamespace(data=SimpleNamespace(store=Path), settings=SimpleNamespace(store="s"))
    assert timing._reference_s(trainer) == pytest.approx(3.0 * 8 / 2)
    monkeypatch.setattr(timing, "reference_cases", lambda _trainer: [])
    assert timing._reference_s(trainer) == 0.0


@pytest.mark.parametrize("heads", [2, 3, 5])
def test_pseudo_labels_are_timed_with_every_class_in_them(heads: int) -> None:
    nothing = torch.zeros(heads, 4, 6, 10)
    nothing[0] = 5.0
    shown = timing._showing_all(lambda image: nothing.clone())(torch.zeros(1, 4, 6, 10))
    assert set(shown.argmax(0).flatten().tolist()) == set(range(heads))
    assert all((shown[number] > 0).any() for number in range(heads))  # regions: what is likelier than not
