"""Trainings that begin with labels carried over by registration, with warped cases, and with an early teacher."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from shared import PLAN_OPTIONS, make_coarse_phantom, shell_in
from shell import Shell

pytestmark = pytest.mark.slow

# Of the phantom.
CLASSES = (1, 2, 3)
BEGIN = """
extends = "tiny.toml"
[pseudo_labels]
start = "registration"
divide_loss = true
[registration]
min_agreement = {agreement}
max_cases = 3
[augmentation]
warped_cases = 5
[optimizer]
flat_share = 0.5
[teacher]
from_start = true
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A planned phantom; the two labels that a draw of two hides are broken behind the plan."""
    folder = tmp_path_factory.mktemp("registration")
    shell = shell_in(folder)
    make_coarse_phantom(folder, labeled=4, unlabeled=3)
    shell.pclauto("plan", "Task99_Phantom", *PLAN_OPTIONS)
    shell.train("--labeled", "2", "--recipe", "tiny.toml", "--prepare-only")
    (split,) = (json.loads(file.read_text()) for file in folder.rglob("splits/L2_s0.json"))
    for case in split["hidden"]:
        (folder / "Task99_Phantom" / "labelsTr" / f"{case}.nii.gz").write_bytes(b"no label")
    return shell


def trained(shell: Shell, agreement: float, labeled: int = 2) -> tuple[Path, str]:
    """Return the folder of a training's fold, and what was printed."""
    recipe = shell.folder / "begin.toml"
    recipe.write_text(BEGIN.format(agreement=agreement))
    done = shell.train("--labeled", labeled, "--recipe", recipe, "--restart")
    found = [each for each in shell.folder.rglob("fold_all") if f"L{labeled}_s0_begin" in str(each)]
    assert len(found) == 1
    return found[0], done.stdout + done.stderr


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


def ledger(run: Path, number: int) -> list[dict[str, str]]:
    with (run / "pseudo_labels" / f"round_{number}" / "ledger.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_training_begins_with_registered_labels(shell: Shell) -> None:
    run, printed = trained(shell, agreement=0.05)
    rows = ledger(run, 0)
    assert len(rows) == 3
    assert {row["source"] for row in rows} == {"registration"}
    assert all(0.05 <= float(row["agreement"]) <= 1 for row in rows)
    assert {row["used"] for row in rows} == {"1"}
    assert re.search(r"round 0: \d+ pseudo-labels", printed)
    # The supervised epochs are joint ones, and the first round has something to be compared with.
    stages = [event["stage"] for event in events(run, "epoch")]
    assert stages == ["round 0"] * 2 + ["round 1"] * 2 + ["round 2"] * 2
    assert all("contrast" in event["losses"] for event in events(run, "epoch"))
    compared = {row["case"]: row["dice_to_last_round"] for row in ledger(run, 1)}
    assert {case for case, dice in compared.items() if dice} == {row["case"] for row in rows}
    # As nnU-Net reads them: every class of the phantom, on the grid of the image.
    folder = run / "pseudo_labels" / "round_0" / "cases"
    for row in rows:
        image, labels, _, properties = nnUNetDatasetBlosc2(str(folder), [row["case"]]).load_case(row["case"])
        assert image.shape[1:] == labels.shape[1:]
        assert {*np.unique(np.maximum(labels[:], 0)).tolist()} == {0, *CLASSES}
        assert {*CLASSES} <= {*properties["class_locations"]}
    # The warped cases were there, and have gone with the end of training.
    assert "shape of unlabeled ones, 5 times" in printed
    assert not (run / "warped").exists()
    assert events(run, "epoch")[2]["learning_rate"] == pytest.approx(2e-3)
    assert events(run, "epoch")[-1]["learning_rate"] < 2e-3


def test_where_registration_does_not_work_labels_alone_teach(shell: Shell) -> None:
    run, printed = trained(shell, agreement=1.0)
    assert {row["used"] for row in ledger(run, 0)} == {"0"}
    assert {row["remarks"].split("; ")[-1] for row in ledger(run, 0)} == {"dropped: registration does not work here"}
    assert "labels alone teach" in printed
    assert [event["stage"] for event in events(run, "epoch")][:2] == ["supervised"] * 2
    assert not (run / "pseudo_labels" / "round_0" / "cases").exists()
    assert {row["dice_to_last_round"] for row in ledger(run, 1)} == {""}


def test_one_labeled_case_cannot_be_judged(shell: Shell) -> None:
    run, printed = trained(shell, agreement=0.05, labeled=1)
    assert "registration is left out" in printed
    assert events(run, "registration_off")[0]["labeled"] == 1
    assert not (run / "pseudo_labels" / "round_0").exists()
