"""F45: too little memory is said to be that, with what to do; a prediction tries once more with less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from refusal import refused
from tiny_model import make_model, make_scan

from pcl_auto.errors import ResourceError
from pcl_auto.nnunet.errors import LESS_MEMORY_TO_TRAIN, memory_errors
from pcl_auto.nnunet.inference import memory_demand as inference_demand
from pcl_auto.nnunet.inference.predictor import ModelPredictor
from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised

FULL = "CUDA out of memory. Tried to allocate 20.00 GiB."


def predictor(folder: Path, monkeypatch: pytest.MonkeyPatch, failures: int) -> tuple[ModelPredictor, list[bool]]:
    """Return a predictor whose device is full so many times, and a list of whether it kept results there."""
    made = ModelPredictor(make_model(folder), torch.device("cpu"), mirroring=False)
    made._window._nnunet.perform_everything_on_device = True
    on_device: list[bool] = []
    plain = made._window._nnunet._internal_predict_sliding_window_return_logits

    def full(data: Any, slicers: Any, do_on_device: bool = True) -> Any:
        on_device.append(do_on_device)
        if len(on_device) <= failures:
            raise torch.cuda.OutOfMemoryError(FULL)
        return plain(data, slicers, do_on_device)

    monkeypatch.setattr(made._window._nnunet, "_internal_predict_sliding_window_return_logits", full)
    return made, on_device


def test_f45_a_prediction_tries_once_more_with_its_results_in_main_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = make_scan(tmp_path / "a.nii.gz")
    expected, *_ = ModelPredictor(make_model(tmp_path / "m"), torch.device("cpu"), mirroring=False).segment([scan])
    made, on_device = predictor(tmp_path / "model", monkeypatch, failures=1)
    mask, *_ = made.segment([scan])
    assert on_device == [True, False]
    assert mask.shape == expected.shape


def test_f45_a_second_failure_names_the_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = make_scan(tmp_path / "a.nii.gz")
    made, on_device = predictor(tmp_path / "model", monkeypatch, failures=2)
    with refused(ResourceError, "memory.too-small") as refusal:
        made.segment([scan])
    problem = refusal.problem
    assert (problem.where, problem.found) == (str(scan), FULL)
    assert "--device cpu" in problem.fix
    assert on_device == [True, False]


def test_f45_a_scan_that_cannot_fit_is_refused_before_it_is_segmented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = make_scan(tmp_path / "a.nii.gz")
    made, on_device = predictor(tmp_path / "model", monkeypatch, failures=0)
    monkeypatch.setattr(inference_demand, "available_memory_mb", lambda: 0)
    with refused(ResourceError, "memory.too-small") as refusal:
        made.segment([scan])
    problem = refusal.problem
    assert (problem.where, problem.found) == (str(scan), "0 MB free")
    assert on_device == []


def test_f45_a_scan_that_does_not_fit_at_once_is_segmented_in_slabs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a network that looks at one voxel alone, what the cuts change is what they change of the resampling."""
    made = ModelPredictor(make_model(tmp_path / "model"), torch.device("cpu"), mirroring=False)
    monkeypatch.setattr(made._window, "logits", lambda image, _where: torch.cat([-image, image]))
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in (30, 40, 90)), indexing="ij")
    ball = 100 - 60 * np.sqrt(sum(axis**2 for axis in axes)).astype(np.float32)
    counts = []
    for spacing_mm in (1.0, 0.7):
        scan = tmp_path / f"{spacing_mm}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(ball, np.diag([spacing_mm] * 3 + [1])), scan)
        monkeypatch.setattr(inference_demand, "available_memory_mb", lambda: 10**6)
        whole = made.segment([scan], confidence=True)
        assert whole.slabs == 1
        memory_mb = inference_demand._LIBRARIES_MB + 3
        monkeypatch.setattr(inference_demand, "available_memory_mb", lambda mb=memory_mb: mb)
        cut = made.segment([scan], confidence=True)
        counts.append(cut.slabs)
        assert (whole.confidence is None, cut.confidence) == (False, None)
        assert cut.mask.dtype == whole.mask.dtype
        assert cut.properties["sitk_stuff"] == whole.properties["sitk_stuff"]
        # On the network's own grid there is nothing to resample.
        assert np.mean(cut.mask != whole.mask) <= (0 if spacing_mm == 1 else 0.002)
        assert 0.1 < whole.mask.mean() < 0.9
    assert min(counts) > 1


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError(FULL),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        MemoryError(),
    ],
)
def test_f45_a_training_says_how_to_need_less(error: Exception) -> None:
    class Trainer:
        epoch = 4
        closed = ended = False

        def on_train_start(self) -> None: ...

        def learn(self) -> None:
            raise error

        def _close_streams(self) -> None:
            self.closed = True

        def on_train_end(self) -> None:
            self.ended = True

    trainer = Trainer()
    with refused(ResourceError, "memory.too-small") as refusal:
        nnUNetTrainerPCLSupervised.run_training(trainer)  # type: ignore[arg-type]
    problem = refusal.problem
    assert problem.where == "epoch 5"
    assert problem.fix == LESS_MEMORY_TO_TRAIN
    assert all(word in problem.fix for word in ("batch.patches", "--gpu-memory-gb", "--device cpu"))
    assert trainer.closed
    assert not trainer.ended


def test_f45_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), memory_errors(lambda: "here", "nothing"):
        raise RuntimeError("shapes differ")
