"""Test what a training prints of its rounds."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pcl_auto.cli.console import heartbeat
from pcl_auto.cli.console.progress import TrainingProgress, counting
from pcl_auto.cli.console.terminal import Terminal

LABELS: dict[str, Any] = {
    "round": 2,
    "cases": 10,
    "used": 8,
    "kept_best": False,
    "dice_to_last_round": 0.9174,
    "outside_labeled_range": 3,
    "vanished": [],
}


def printed(capfd: pytest.CaptureFixture[str], event: str, **values: Any) -> list[str]:
    TrainingProgress(Terminal())(event, values)
    return capfd.readouterr().err.splitlines()


def test_a_round_says_in_a_line_what_its_pseudo_labels_are(capfd: pytest.CaptureFixture[str]) -> None:
    (line,) = printed(capfd, "pseudo_labels", **LABELS)
    assert line.startswith(
        "round 2: 10 pseudo-labels, 2 of them left out, Dice 0.917 to the last round's; 3 with volumes"
    )
    first = {**LABELS, "round": 1, "used": 10, "dice_to_last_round": None, "outside_labeled_range": 0}
    assert printed(capfd, "pseudo_labels", **first) == ["round 1: 10 pseudo-labels"]


def test_what_is_wrong_with_pseudo_labels_is_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    lines = printed(capfd, "pseudo_labels", **{**LABELS, "used": 2, "kept_best": True, "vanished": ["core"]})
    assert lines[1:] == [
        "warning: no pseudo-label passed the judgment: the best 2 are used",
        "warning: class core is in no pseudo-label of round 2",
    ]


@pytest.mark.parametrize(
    ("ends", "then"), [(False, "the next round tries again from these"), (True, "training ends with these")]
)
def test_a_roll_back_is_plain(capfd: pytest.CaptureFixture[str], ends: bool, then: str) -> None:
    lines = printed(
        capfd, "rolled_back", round=1, epoch=4, reasons=["a has vanished", "b too"], back_to_epoch=2, training_ends=ends
    )
    assert lines == [
        "warning: round 1 ended in a collapse and is rolled back: a has vanished; b too",
        f"the weights are again those of epoch 2; {then}",
    ]


def test_the_weights_that_a_stage_ends_with_are_said(capfd: pytest.CaptureFixture[str]) -> None:
    lines = printed(capfd, "best_of_stage", round=2, epoch=17, patch_dice=0.81249)
    assert lines == ["round 2: from the weights of epoch 17, with the best validation Dice (0.812)"]
    (line,) = printed(capfd, "last_weights")
    assert "no validation cases" in line
    assert "--validation" in line


def test_the_last_check_has_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    rest = {key: value for key, value in LABELS.items() if key != "round"}
    assert printed(capfd, "last_check", **rest) == ["last check: 10 cases, Dice 0.917 to the last round's"]


def test_the_first_epoch_tells_how_long_the_others_will_take(capfd: pytest.CaptureFixture[str]) -> None:
    epoch = {"epochs": 13, "stage": "supervised", "losses": {"loss": 0.5}, "patch_dice": [0.5], "seconds": 25.0}
    progress = TrainingProgress(Terminal())
    for number in (3, 4):
        progress("epoch", {**epoch, "epoch": number, "patch_dice_of": "labeled cases"})
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("about")] == [
        "about 4m10s to go at the pace of this epoch, pseudo-labels not counted"
    ]


def test_with_folds_those_to_come_count_too(capfd: pytest.CaptureFixture[str]) -> None:
    progress = TrainingProgress(Terminal())
    progress("fold", {"fold": 1, "folds": 3})
    epoch = {"epoch": 1, "epochs": 3, "stage": "supervised", "losses": {"loss": 0.5}, "patch_dice": [0.5]}
    progress("epoch", {**epoch, "seconds": 10.0, "patch_dice_of": "labeled cases"})
    assert "about 1m20s to go" in capfd.readouterr().err


@pytest.mark.parametrize("event", ["preprocess", "confidence"])
def test_what_takes_long_beside_the_steps_is_said_once(event: str, capfd: pytest.CaptureFixture[str]) -> None:
    progress = TrainingProgress(Terminal())
    for done in (1, 2, 3):
        progress(event, {"done": done, "total": 3})
    (line,) = capfd.readouterr().err.splitlines()
    assert " 3 " in line


def lines_while(capfd: pytest.CaptureFixture[str], least: int) -> list[str]:
    """Wait until so many lines were printed."""
    lines: list[str] = []
    end = time.monotonic() + 20
    while len(lines) < least and time.monotonic() < end:
        lines += capfd.readouterr().err.splitlines()
        time.sleep(0.02)
    return lines


def test_without_a_terminal_silent_work_says_what_it_is_at(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SECONDS", 0.1)
    with TrainingProgress(Terminal()) as progress:
        progress.begin(6, 250)
        assert lines_while(capfd, 2)[0].startswith("… preparing, for ")
        progress("pseudo_label", {"round": 1, "done": 7, "total": 200})
        assert any(line.startswith("… round 1: pseudo-labels 7/200") for line in lines_while(capfd, 3))
        progress("step", {"epoch": 2, "step": 30})
        assert any(line.startswith("… epoch 3/6: step 30 of 250") for line in lines_while(capfd, 3))
    with counting(Terminal(), {"features": "looking at scans"}) as listener:
        listener("features", {"done": 3, "total": 9})
        assert any(line.startswith("… looking at scans: 3 of 9") for line in lines_while(capfd, 2))
    time.sleep(0.3)
    capfd.readouterr()
    time.sleep(0.3)
    assert capfd.readouterr().err == ""  # the work is done


def test_the_bar_tells_the_epoch_from_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    progress = TrainingProgress(Terminal())
    progress.live = True
    progress.begin(6, 250)

    def shown() -> tuple[str, str]:
        (task,) = progress._bar.tasks
        return task.description, task.fields["note"]

    assert shown() == ("preparing", "")
    progress("preprocess", {"done": 13, "total": 14})
    assert shown() == ("preprocessing", "images 13/14")
    progress("preprocess", {"done": 14, "total": 14})
    assert shown() == ("preprocessing", "images done")
    progress("step", {"epoch": 0, "step": 1})
    assert shown() == ("epoch 1/6", "")
    progress("pseudo_label", {"round": 1, "done": 12, "total": 12})
    progress("step", {"epoch": 2, "step": 1})
    assert shown()[0] == "epoch 3/6"


def test_an_epoch_without_labels_has_no_dice(capfd: pytest.CaptureFixture[str]) -> None:
    values = {"epoch": 1, "epochs": 4, "stage": "masked", "losses": {"loss": 0.5}, "seconds": 60.0}
    first, left = printed(capfd, "epoch", learning_rate=0.1, **values)
    assert first.startswith("epoch 1/4  masked  loss 0.500  ")
    assert "Dice" not in first
    assert left.endswith("at the pace of this epoch")
    with_dice, left = printed(capfd, "epoch", patch_dice=[0.25, 0.5], patch_dice_of="labeled cases", **values)
    assert "loss 0.500  patch Dice 0.25 0.50 (labeled cases)  " in with_dice
    assert left.endswith("pseudo-labels not counted")
