"""Test that an interrupted verb prints the command that goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from pcl_auto.cli.commands.predict import predict
from pcl_auto.cli.console.interrupt import Terminated
from pcl_auto.inference import predict as prediction
from pcl_auto.training import find_model


@pytest.mark.parametrize(("interrupt", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_interrupted_prediction_says_how_to_go_on(
    interrupt: type[BaseException],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_inputs: Any, **_how: Any) -> None:
        raise interrupt

    monkeypatch.setattr(find_model, "find_model", lambda *_names, **_which: tmp_path)
    monkeypatch.setattr(prediction, "predict", interrupted)
    monkeypatch.setattr(sys, "argv", ["pclauto", "predict", "my scans", "-o", "out"])
    with pytest.raises(typer.Exit) as ended:
        predict([tmp_path], tmp_path / "out", device="cpu")
    assert ended.value.exit_code == code
    assert "resume with: pclauto predict 'my scans' -o out" in capfd.readouterr().err
