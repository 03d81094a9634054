"""F36: what killed processes left, and files that nobody asked for, are in nobody's way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from shell import Shell

from pcl_auto.workspace.atomic import STAGING, staging_folder
from pcl_auto.workspace.files import write_text

LEAVE = """
import os, sys
from pathlib import Path
from pcl_auto.workspace.atomic import staging_folder
with staging_folder(Path(sys.argv[1])) as staged:
    (staged / "half").write_text("x")
    os._exit(9)
"""


def test_f36_what_a_killed_process_staged_is_swept(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    subprocess.run([sys.executable, "-c", LEAVE, target], check=False)
    (left,) = (tmp_path / STAGING).iterdir()
    assert (left / "half").is_file()
    write_text(target, "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_f36_what_a_living_process_or_another_machine_stages_stays(tmp_path: Path) -> None:
    elsewhere = tmp_path / STAGING / "another-machine-1-abc"
    elsewhere.mkdir(parents=True)
    foreign = tmp_path / STAGING / "notes"
    foreign.mkdir()
    with staging_folder(tmp_path / "a") as mine:
        write_text(tmp_path / "b", "whole")
        assert mine.is_dir()
    assert elsewhere.is_dir()
    assert foreign.is_dir()
    assert str(os.getpid()) in mine.name


@pytest.mark.slow
def test_f36_stray_files_among_prepared_cases(shell: Shell, planned: Path) -> None:
    command = ["--workspace", planned, "--recipe", "tiny.toml", "--epochs", "3"]
    shell.train(*command, "--prepare-only")
    (view,) = planned.rglob("labeled_3d_fullres")
    (store,) = (path for path in planned.rglob("pclauto/store/*") if path.is_dir())
    for folder in (view, store):
        (folder / "x.tmp").write_text("stray")
        (folder / ".case.tmp.b2nd").write_text("stray")
    shell.train(*command)
    assert not (view / "x.tmp").exists()
