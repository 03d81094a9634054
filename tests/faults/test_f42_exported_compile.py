"""F42: with nnUNet_compile exported, as for the steps of a training, prediction and pseudo-labels stay as they are."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_model import make_model, make_scan
from torch import nn
from torch._dynamo import OptimizedModule

from pcl_auto.nnunet.inference.predictor import ModelPredictor
from pcl_auto.nnunet.inference.sliding_window import segmenter
from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised


def test_f42_predict_is_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, scan = make_model(tmp_path / "model"), make_scan(tmp_path / "a.nii.gz")
    expected = ModelPredictor(model, torch.device("cpu")).segment([scan], confidence=True)
    monkeypatch.setenv("nnUNet_compile", "t")
    found = ModelPredictor(model, torch.device("cpu")).segment([scan], confidence=True)
    np.testing.assert_array_equal(found.mask, expected.mask)
    assert found.confidence == expected.confidence
    assert os.environ["nnUNet_compile"] == "t"


def test_f42_pseudo_labels_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    monkeypatch.setenv("nnUNet_compile", "t")
    monkeypatch.setattr(torch, "compile", compiled.append)
    trainer = SimpleNamespace(
        device=torch.device("cpu"),
        plans_manager=SimpleNamespace(get_label_manager=lambda _description: None),
        configuration_manager=None,
        dataset_json={},
        inference_allowed_mirroring_axes=None,
    )
    optimized = OptimizedModule(nn.Identity(), lambda module, *_: module)  # type: ignore[arg-type]
    segmenter(trainer, optimized, mirroring=False)
    assert compiled == []


def test_f42_without_a_compiler_training_does_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    trainer = nnUNetTrainerPCLSupervised.__new__(nnUNetTrainerPCLSupervised)
    trainer.device = torch.device("cuda")
    monkeypatch.setattr(trainer, "settings", SimpleNamespace(deterministic=False), raising=False)
    monkeypatch.setattr(trainer, "print_to_log_file", said.append)
    for name in ("CC", "nnUNet_compile"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "include").mkdir()
    # As on Debian, where the default scheme names a folder for what is installed later.
    monkeypatch.setattr("sysconfig.get_default_scheme", lambda: "posix_local")
    folders = {"posix_local": "local", "posix_prefix": "include"}
    monkeypatch.setattr("sysconfig.get_path", lambda _name, scheme: str(tmp_path / folders[scheme]))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not trainer._do_i_compile()
    compiler = tmp_path / "clang"
    compiler.touch(mode=0o755)
    assert not trainer._do_i_compile()
    assert [line.rpartition("torch.compile needs ")[2] for line in said] == [
        "a C compiler (gcc or clang)", "Python's header files (python3-dev)"
    ]  # fmt: skip
    (tmp_path / "include" / "Python.h").touch()
    assert trainer._do_i_compile()
    compiler.unlink()
    monkeypatch.setenv("CC", "cc")
    assert trainer._do_i_compile()
    monkeypatch.setattr(trainer.settings, "deterministic", True)  # whose kernels are not chosen by time
    assert not trainer._do_i_compile()
    monkeypatch.setattr(trainer.settings, "deterministic", False)
    monkeypatch.setenv("nnUNet_compile", "f")
    assert not trainer._do_i_compile()
    assert len(said) == 2
