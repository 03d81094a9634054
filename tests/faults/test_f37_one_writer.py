"""F37, F38: one writer per run; runs that share prepared data leave each other alone."""

from __future__ import annotations

import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from shared import model_of
from shell import Shell

from pcl_auto.workspace.lock import sole_writer


@pytest.mark.slow
def test_f37_a_second_writer_is_told_who_the_first_is(shell: Shell, own_trained: Path) -> None:
    command = ["train", "--workspace", own_trained, "--recipe", "tiny.toml", "--device", "cpu"]
    with sole_writer(model_of(own_trained)):
        (problem,) = shell.refusal(*command, code=6)
    assert problem["code"] == "lock.held"
    assert f"process {os.getpid()} on {socket.gethostname()} since 20" in str(problem)
    # Nothing has to be unlocked by hand; and the run was finished before.
    shell.pclauto(*command, pictures=False)


@pytest.mark.slow
def test_f38_two_runs_of_one_data_set_at_once(shell: Shell, planned: Path) -> None:
    command = ["--workspace", planned, "--recipe", "tiny.toml", "--labeled", "1", "--epochs", "3"]
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(shell.train, *command, *options) for options in ([], ["--supervised-only"])]
    for run in runs:
        run.result()
    records = [json.loads(file.read_text()) for file in planned.rglob("run.json")]
    assert len(records) == 2
    assert all("checkpoint_final.pth" in record["outputs"] for record in records)
