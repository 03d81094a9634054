"""One training in two processes, as on two GPUs; killed, it goes on in one."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shell import Shell

pytestmark = pytest.mark.slow


def test_two_processes_train_and_one_goes_on(shell: Shell, planned: Path) -> None:
    command = ["train", "--workspace", planned, "--recipe", "tiny.toml", "--device", "cpu"]
    killed = subprocess.run(
        [sys.executable, "-m", "pcl_auto", *map(str, command), "--gpus", "2"],
        cwd=shell.folder, capture_output=True, text=True, timeout=600,
        env=shell.environment(OMP_NUM_THREADS="1", PCLAUTO_FAULT="sync:22"),
    )  # fmt: skip
    assert killed.returncode == 128 + signal.SIGKILL
    assert killed.stderr.count("epoch 1/6") == 1  # one process speaks
    (fold,) = (planned / "nnUNet_results").glob("*/*/fold_all")
    begun = [json.loads(line)["event"] for line in (fold / "events.jsonl").read_text().splitlines()]
    assert begun.count("started") == 1
    assert 1 <= begun.count("epoch") < 6

    done = shell.pclauto(*command, pictures=False)
    assert "going on after epoch" in done.stderr
    final = torch.load(fold / "checkpoint_final.pth", weights_only=True)
    assert final["current_epoch"] == 6
    assert not any(name.startswith("module.") for name in (*final["network_weights"], *final["pclauto"]["head"]))
    for number in (1, 2):
        rows = list(csv.DictReader((fold / "pseudo_labels" / f"round_{number}" / "ledger.csv").open()))
        assert len(rows) == 4


@pytest.mark.soak
def test_two_processes_begin_with_the_labels_of_one(shell: Shell, planned: Path) -> None:
    (shell.folder / "begin.toml").write_text(
        'extends = "tiny.toml"\n[pseudo_labels]\nstart = "registration"\n[registration]\nmin_agreement = 0.0\n'
        "[augmentation]\nwarped_cases = 3\n"
    )
    command = ["train", "--workspace", planned, "--recipe", "begin.toml", "--epochs", "3", "--device", "cpu"]
    ledgers = []
    for more in (["--gpus", "2"], ["--restart"]):
        shell.pclauto(*command, *more, pictures=False)
        (fold,) = (planned / "nnUNet_results").glob("*/*/fold_all")
        ledgers.append((fold / "pseudo_labels" / "round_0" / "ledger.csv").read_text())
    assert ledgers[0] == ledgers[1]
    rows = list(csv.DictReader(ledgers[0].splitlines()))
    assert [row["source"] for row in rows] == ["registration"] * 4
