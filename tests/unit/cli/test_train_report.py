from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pcl_auto.cli.commands import train
from pcl_auto.report import page
from pcl_auto.workspace.folders import Workspace


@pytest.mark.parametrize("fault", [OSError("no room"), KeyError("epoch"), ZeroDivisionError("x")])
def test_a_report_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    def fail(*_: Any) -> None:
        raise fault

    printed: list[str] = []
    monkeypatch.setattr(page, "write_report", fail)
    run: Any = SimpleNamespace(folder=tmp_path)
    terminal: Any = SimpleNamespace(print_line=printed.append)
    train._report(terminal, run, Workspace.at(tmp_path, "test"), done=False)
    assert len(printed) == 1
    assert printed[0].startswith(f"warning: no report: {fault}")
