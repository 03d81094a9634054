"""Curves for TensorBoard; its writer is a stub, since the package is optional."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pcl_auto.workspace.events import with_tensorboard


def test_every_curve_of_an_epoch_is_written_and_the_listener_still_hears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, tuple[float, int]] = {}
    heard: list[str] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written[name] = value, step

        def flush(self) -> None:
            pass

    stub = ModuleType("torch.utils.tensorboard")
    vars(stub)["SummaryWriter"] = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stub)
    listen = with_tensorboard(lambda event, _values: heard.append(event), tmp_path)
    epoch: dict[str, Any] = {
        "epoch": 3,
        "losses": {"loss": 0.5, "contrast": 1.5},
        "patch_dice": [0.25, 0.75],
        "learning_rate": 1e-3,
    }
    listen("started", {"epochs": 4})
    listen("epoch", epoch)
    assert heard == ["started", "epoch"]
    assert written == {
        "loss/loss": (0.5, 3),
        "loss/contrast": (1.5, 3),
        "patch_dice/1": (0.25, 3),
        "patch_dice/2": (0.75, 3),
        "learning_rate": (1e-3, 3),
    }
