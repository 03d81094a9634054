"""F42: odd paths, no home, a strict umask, another folder, a clock that went back."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from shared import copy_of, shell_in
from shell import Shell

STRICT = """
import os, runpy, sys
os.umask(0o077)
del os.environ["HOME"]
sys.argv[0] = "pcl_auto"
runpy.run_module("pcl_auto", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_f42_a_run_in_odd_surroundings(task: Path, tmp_path: Path) -> None:
    shell = shell_in(tmp_path / "größe (2) with spaces" / ("long" * 20))
    copy = copy_of(task, shell.folder / task.name)
    for file in copy.rglob("*.nii.gz"):  # written in the future, as this machine sees it
        os.utime(file, (4e9, 4e9))

    pclauto(shell, "plan", task.name, "--gpu-memory-gb", "1")
    pclauto(shell, "train", "--recipe", "tiny.toml", "--epochs", "3", "--device", "cpu")
    pclauto(shell, "predict", copy / "imagesTs", "-o", "out", "--device", "cpu", "--no-mirroring")
    masks = sorted((shell.folder / "out").glob("*.nii.gz"))
    assert len(masks) == 2
    made = [
        *masks,
        *(path for path in (shell.folder / "pclauto_work").rglob("*") if path.is_file() and not path.is_symlink()),
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}


def pclauto(shell: Shell, *arguments: object) -> None:
    done = shell.python("-c", STRICT, *arguments)
    assert done.returncode == 0, done.stderr
