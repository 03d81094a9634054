"""F73: what reads a finished run reads it as its training left it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from shared import model_of
from shell import Shell, codes


def exchange_classes(run: Path) -> None:
    file = run.parent / "dataset.json"
    description = json.loads(file.read_text())
    first, second, *_ = (name for name in description["labels"] if name != "background")
    description["labels"] |= {first: description["labels"][second], second: description["labels"][first]}
    file.write_text(json.dumps(description))


def exchange_axes(run: Path) -> None:
    file = run.parent / "plans.json"
    plans = json.loads(file.read_text())
    file.write_text(json.dumps({**plans, "transpose_forward": [2, 1, 0], "transpose_backward": [2, 1, 0]}))


def exchange_cases(run: Path) -> None:
    (file, *_) = sorted(run.glob("pseudo_labels/round_*/ledger.csv"), reverse=True)
    head, first, second, *others = file.read_text().splitlines()
    (one, *facts), (two, *others_facts) = first.split(","), second.split(",")
    swapped = [",".join([two, *facts]), ",".join([one, *others_facts])]
    file.write_text("\n".join([head, *swapped, *others]) + "\n")


def exchange_network(run: Path) -> None:
    file = run / "checkpoint_final.pth"
    file.write_bytes(file.read_bytes() + b"\0")


CHANGES: dict[str, Callable[[Path], None]] = {
    "dataset.json": exchange_classes,
    "plans.json": exchange_axes,
    "ledger.csv": exchange_cases,
    "checkpoint_final.pth": exchange_network,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_f73_no_command_goes_on_from_a_run_that_was_changed(
    shell: Shell, own_trained: Path, tmp_path: Path, name: str
) -> None:
    run = model_of(own_trained) / "fold_all"
    CHANGES[name](run)
    before = sorted(own_trained.rglob("*"))
    ours = ("--workspace", own_trained, "--model", run.parent.name)
    for verb in (
        ("review", *ours, "-n", "1"),
        ("suggest", *ours, "-n", "1", "--device", "cpu"),
        ("continue", *ours, "--device", "cpu"),
        ("report", *ours, "-o", tmp_path / "report.html"),
    ):
        problems = shell.refusal(*verb, code=4)
        assert codes(problems) == ["run.file-changed"], verb
        assert Path(problems[0]["where"]).name == name
    assert sorted(own_trained.rglob("*")) == before
    assert not (tmp_path / "report.html").exists()
