"""The whole way on a small phantom, as a user goes it, with the promises that matter most.

The one end-to-end test of ``make test``. Two trainings: one that nobody perturbs, and one on a copy of the data set
whose hidden labels are scrambled, which is killed once and repeated. If they end with the same bytes, hidden labels
were not read and the kill lost nothing.
"""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from golden import (
    TRAIN,
    events,
    fold,
    learned_from,
    ledgers,
    read_mask,
    scramble,
    stock_mask,
    user,
    weights,
)
from shared import PLAN_OPTIONS, made_once
from shell import Shell


@pytest.fixture(scope="session")
def perturbed(shared_folder: Path, five_labels: Path) -> Path:
    """The same with scrambled hidden labels, and a training that was killed in a round and repeated."""

    def make(folder: Path) -> None:
        shell = user(folder, five_labels)
        # Drawn as the command will draw it.
        for number, case in enumerate(hidden_cases(shell)):
            scramble(folder / "Task99_Phantom" / "labelsTr" / f"{case}.nii.gz", number)
        shell.pclauto("plan", "Task99_Phantom", *PLAN_OPTIONS)
        # Among the pseudo-labels of the second round.
        killed = shell.python("-m", "pcl_auto", *TRAIN, PCLAUTO_FAULT="sync:34", pictures=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert [event["epoch"] for event in events(folder, "epoch")] == [1, 2, 3, 4]
        cases = fold(folder) / "pseudo_labels" / "round_2" / "cases"
        assert 0 < len(list(cases.glob("*_seg.b2nd"))) < 4
        assert "going on after epoch 4" in shell.pclauto(*TRAIN, pictures=False).stderr

    return made_once(shared_folder / "perturbed", make)


def hidden_cases(shell: Shell) -> list[str]:
    drawn = shell.python(
        "-c",
        "import json; from pcl_auto.data.split import draw_split;"
        "cases = [f'phantom_{n:03d}' for n in range(1, 7)];"
        "print(json.dumps(draw_split(cases[:5], cases[5:], labeled=2, seed=3).hidden))",
    )
    hidden: list[str] = json.loads(drawn.stdout)
    return hidden


def test_scrambled_hidden_labels_and_a_kill_change_no_byte(unperturbed: Path, perturbed: Path) -> None:
    (split,) = (json.loads(file.read_text()) for file in perturbed.rglob("splits/L2_s3.json"))
    assert len(split["hidden"]) == 3
    for case in split["hidden"]:
        labels = [
            (root / "Task99_Phantom/labelsTr" / f"{case}.nii.gz").read_bytes() for root in (unperturbed, perturbed)
        ]
        assert labels[0] != labels[1]
    before, after = learned_from(unperturbed), learned_from(perturbed)
    assert any(name.endswith("_seg.b2nd") for name in before)
    assert before == after
    assert weights(unperturbed) == weights(perturbed)
    assert ledgers(unperturbed) == ledgers(perturbed)
    assert len(ledgers(unperturbed)) == 3  # two rounds and the last check
    assert not list(perturbed.rglob(".tmp")), "staging folders stay behind"


def test_a_training_leaves_its_record_and_a_stock_checkpoint(unperturbed: Path) -> None:
    run = fold(unperturbed)
    record = json.loads((run / "run.json").read_text())
    assert record["identity"]["recipe"]["name"] == "tiny"
    assert record["versions"]["nnunetv2"].startswith("2.8")
    epochs = events(unperturbed, "epoch")
    assert [event["stage"] for event in epochs] == ["supervised"] * 2 + ["round 1"] * 2 + ["round 2"] * 2
    assert all(np.isfinite(list(event["losses"].values())).all() for event in epochs)
    assert all(event["losses"]["contrast"] > 0 for event in epochs[2:])
    for number in (1, 2):
        with (run / "pseudo_labels" / f"round_{number}" / "ledger.csv").open(newline="") as table:
            assert len(list(csv.DictReader(table))) == 4  # three hidden, one without a label
    content = torch.load(run / "checkpoint_final.pth", weights_only=True)
    assert content["trainer_name"] == "nnUNetTrainer"
    assert content["current_epoch"] == 6
    assert not any("head" in key for key in content["network_weights"])
    assert {"head", "settings"} <= set(content["pclauto"])


def test_predict_equals_stock_nnunet_and_is_scored_and_reported(unperturbed: Path, tmp_path: Path) -> None:
    shell = Shell(unperturbed)
    test = unperturbed / "Task99_Phantom"
    shell.pclauto("predict", test / "imagesTs", "-o", tmp_path / "ours")
    (scan,) = (test / "imagesTs").iterdir()
    mask, image = nibabel.load(tmp_path / "ours" / scan.name), nibabel.load(scan)
    assert mask.shape == image.shape[:3]
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4)
    assert len(np.unique(np.asanyarray(mask.dataobj))) > 1

    theirs = stock_mask(shell, fold(unperturbed).parent, scan, tmp_path)
    np.testing.assert_array_equal(read_mask(tmp_path / "ours" / scan.name), theirs)

    scores = json.loads(shell.pclauto("evaluate", tmp_path / "ours", test / "labelsTs", "--json").stdout)
    assert 0 <= scores["mean"]["dice"] <= 1
    shell.pclauto("report", "-o", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{scores['mean']['dice']:.3f}" in text
    assert "cannot be shown" not in text
