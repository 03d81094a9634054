"""F34: a place that cannot be written is refused at the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from shell import Shell


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_f34_a_read_only_place(shell: Shell, task: Path) -> None:
    refused = shell.pclauto("plan", task, "--workspace", "/proc/pclauto", "--gpu-memory-gb", "1", code=5)
    assert "/proc/pclauto" in refused.stderr
    assert "--workspace" in refused.stderr


def test_f34_a_file_in_the_way(shell: Shell, task: Path, tmp_path: Path) -> None:
    in_the_way = tmp_path / "nnUNet_preprocessed"
    in_the_way.write_text("a file")
    refused = shell.pclauto("plan", task, "--workspace", tmp_path, "--gpu-memory-gb", "1", code=5)
    assert str(in_the_way) in refused.stderr
    assert in_the_way.read_text() == "a file"
