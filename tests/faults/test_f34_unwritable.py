"""F34: a place that cannot be written is refused at the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared import PLAN_OPTIONS
from shell import Shell


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_f34_a_read_only_place(shell: Shell, task: Path) -> None:
    (problem,) = shell.refusal("plan", task, "--workspace", "/proc/pclauto", *PLAN_OPTIONS, code=5)
    assert problem["code"] == "disk.unwritable"
    assert problem["where"].startswith("/proc/pclauto")
    assert "--workspace" in problem["fix"]


def test_f34_a_file_in_the_way(shell: Shell, task: Path, tmp_path: Path) -> None:
    in_the_way = tmp_path / "nnUNet_preprocessed"
    in_the_way.write_text("a file")
    (problem,) = shell.refusal("plan", task, "--workspace", tmp_path, *PLAN_OPTIONS, code=5)
    assert (problem["code"], problem["where"]) == ("disk.unwritable", str(in_the_way))
    assert in_the_way.read_text() == "a file"
