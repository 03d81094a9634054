"""F52: names that look like code, markup or control sequences stay names, wherever they are written."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from pcl_auto.benchmark.table import as_csv
from pcl_auto.cli.console.terminal import Terminal
from pcl_auto.data.dataset.safe_paths import refuse_case_id
from pcl_auto.errors import Problem
from pcl_auto.workspace.events import EventLog
from pcl_auto.workspace.files import json_text, read_json, table_cell, write_json

NASTY = [
    "=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\x1b[2J", "\x9b2J", "\x1b]0;title\x07",
    "</td><script>alert(1)</script>", "[bold]name[/bold]", "[link=x]y[/link]", "a\nb", "\u202egnp.exe", "\udc80",
    "$(touch canary)", "`touch canary`", "; rm -rf x", "| [a](b) |", "Größe µ",
]  # fmt: skip
every_name = pytest.mark.parametrize("name", NASTY, ids=ascii)


def steers(text: str) -> bool:
    return any(not char.isprintable() for char in text.replace("\n", ""))


@every_name
def test_f52_the_terminal(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.problems([Problem("data.bad", "bad file", name, f"rename {name}", found=name)])
    terminal.json({name: [name]})
    terminal.print_table([name], [[name]], title=name)
    terminal.print_facts([(name, name)], title=name)
    terminal.print_result(name)
    out, err = capfd.readouterr()
    assert not steers(out)
    assert not steers(err)
    assert len(err.splitlines()) == 1
    document, end = json.JSONDecoder().raw_decode(out)
    assert document == {name: [name]}
    # Markup is shown, not obeyed.
    assert name.isprintable() is False or name in out[end:]


@every_name
def test_f52_json_files_and_events(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "a.json", {name: name})
    EventLog(tmp_path / "events.jsonl").emit("done", name=name)
    assert read_json(tmp_path / "a.json") == {name: name}
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == name
    assert not steers((tmp_path / "a.json").read_text())
    assert not steers(line)
    assert json_text("Größe µ") == '"Größe µ"'


@every_name
def test_f52_a_table_of_results_computes_nothing(name: str) -> None:
    entry = {
        "settings": {"arm": name, "labeled": 2, "draw": 0},
        "cases": [{"id": name, "dice": -0.5, "hd95_mm": 2.0}],
    }
    text = as_csv({"run": entry})
    assert not steers(text)
    _, (arm, _, _, case, dice, _) = csv.reader(io.StringIO(text))
    assert arm == case == table_cell(name)
    assert arm[0] not in "=+-@\t\r\n"
    assert dice == "-0.5"


def test_f52_ordinary_names_stay_as_they_are() -> None:
    assert [table_cell(name) for name in ("prostate_01", "a-b", "1=2")] == ["prostate_01", "a-b", "1=2"]


@pytest.mark.parametrize("name", [name for name in NASTY if name != "Größe µ"])
def test_f52_no_such_case_comes_as_far_as_the_ledger_and_the_log(name: str) -> None:
    assert refuse_case_id(name, "dataset.json") is not None
    assert refuse_case_id("prostate_01", "dataset.json") is None
