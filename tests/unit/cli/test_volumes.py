"""Test the table of volumes that ``pclauto predict`` prints, in terminals of different widths."""

from __future__ import annotations

import pytest

from pcl_auto.cli.commands.predict import _show_volumes
from pcl_auto.cli.console.terminal import Terminal
from pcl_auto.inference.predict import Prediction


def shown(capfd: pytest.CaptureFixture[str], volumes_ml: dict[str, float], name: str = "scan 1") -> list[str]:
    _show_volumes(Terminal(), [Prediction(name, "out/x.nii.gz", "done", volumes_ml=volumes_ml)])
    return [line.rstrip() for line in capfd.readouterr().out.splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_a_column_per_class(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert shown(capfd, {"[red]gland": 12.34, "tumor": 0.0}) == [
        "volumes in ml",
        "scan    [red]gland  tumor",
        "scan 1        12.3    0.0",
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_thirty_classes(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = shown(capfd, {f"vertebra_{number}": number / 2 for number in range(30)})
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert all(f"vertebra_{number} {number / 2:.1f}" in text for number in range(30))


def test_no_name_is_cut_and_none_steers(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown(capfd, {"gland": 1.0}, "x" * 100 + "\x1b[2J")
    assert "".join(lines).count("x") == 101
    assert "\x1b" not in "".join(lines)
