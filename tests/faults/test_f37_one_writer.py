"""F37, F38: one writer per run; runs that share prepared data leave each other alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from shell import Shell

from pcl_auto.run.lock import sole_writer


def test_f37_a_second_writer_is_told_who_the_first_is(shell: Shell, trained: Path, model: Path) -> None:
    command = ["train", "--workspace", trained, "--recipe", "tiny.toml", "--device", "cpu"]
    with sole_writer(model):
        refused = shell.pclauto(*command, code=6)
    assert f"process {os.getpid()} on {socket.gethostname()} since 20" in refused.stderr
    # Nothing has to be unlocked by hand; and the run was finished before.
    shell.pclauto(*command)


def test_f38_two_runs_of_one_data_set_at_once(shell: Shell, task: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shell.pclauto("plan", task, "--workspace", work, "--gpu-memory-gb", "1")
    command = [
        "train",
        "--workspace",
        work,
        "--recipe",
        "tiny.toml",
        "--device",
        "cpu",
        "--labeled",
        "1",
        "--epochs",
        "3",
    ]
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "pcl_auto", *map(str, [*command, "--seed", seed, *options])],
            cwd=shell.folder, env=shell.environment(OMP_NUM_THREADS="1"), stderr=subprocess.PIPE, text=True,
        )
        for seed, options in ((0, []), (0, ["--supervised-only"]))
    ]  # fmt: skip
    for run in runs:
        _, said = run.communicate(timeout=600)
        assert run.returncode == 0, said
    records = [json.loads(file.read_text()) for file in work.rglob("run.json")]
    assert len(records) == 2
    assert all("checkpoint_final.pth" in record["outputs"] for record in records)
