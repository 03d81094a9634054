"""F42: odd paths, no home, a strict umask, another folder, a clock that went back."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from shell import Shell


def test_f42_a_run_in_odd_surroundings(shell: Shell, task: Path, tmp_path: Path) -> None:
    folder = tmp_path / "größe (2) with spaces" / ("long" * 20)
    folder.mkdir(parents=True)
    copy = Path(shutil.copytree(task, folder / task.name))
    recipe = Path(shutil.copyfile(shell.folder / "tiny.toml", folder / "tiny.toml"))
    for file in copy.rglob("*.nii.gz"):  # written in the future, as this machine sees it
        os.utime(file, (4e9, 4e9))
    environment = {key: value for key, value in shell.environment().items() if key != "HOME"}

    def pclauto(*arguments: object) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "pcl_auto", *map(str, arguments)],
            cwd=folder, env=environment, umask=0o077, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    pclauto("plan", task.name, "--gpu-memory-gb", "1")
    pclauto("train", "--recipe", recipe.name, "--epochs", "3", "--device", "cpu")
    pclauto("predict", copy / "imagesTs", "-o", "out", "--device", "cpu", "--no-mirroring")
    masks = sorted((folder / "out").glob("*.nii.gz"))
    assert len(masks) == 2
    made = [
        *masks,
        *(path for path in (folder / "pclauto_work").rglob("*") if path.is_file() and not path.is_symlink()),
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
