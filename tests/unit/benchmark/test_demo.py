"""A demo writes over nothing of others."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusal import refused

from pcl_auto.benchmark.demo import NAMES, run_demo
from pcl_auto.errors import LockedError, UsageError
from pcl_auto.workspace.events import silent
from pcl_auto.workspace.output import sole_writer_in, visible


def demo(folder: Path) -> None:
    run_demo(folder, seed=0, device="cpu", print_line=lambda _line: None, listener=silent)


@pytest.mark.parametrize("name", NAMES)
def test_a_demo_takes_no_name_that_something_else_has(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with refused(UsageError, "output.not-ours"):
        demo(tmp_path)
    assert [path.read_text() for path in visible(tmp_path)] == ["mine"]


def test_a_demo_goes_into_no_data_set_and_beside_no_other(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").touch()
    with refused(UsageError, "output.input-folder"):
        demo(tmp_path)
    with sole_writer_in(tmp_path / "demo"), refused(LockedError, "lock.held"):
        demo(tmp_path / "demo")
    assert visible(tmp_path / "demo") == []
