"""Test the help pages: they say what the verbs' docstrings say, fit the terminal, and name what options take."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import typer

from pcl_auto.cli import main
from pcl_auto.cli.verbs import VERBS, load_verb

PLACEHOLDER = re.compile(r"[A-Z.|=]+")


def parameters_of(verb: str) -> list[Any]:
    group: Any = typer.main.get_command(main.app)
    return list(group.get_command(None, verb).params)


def page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, width: int) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "argv", ["pclauto", *arguments])
    with pytest.raises(SystemExit):
        main.app()
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_the_page_of_all_verbs_says_what_the_verb_says(verb: str) -> None:
    assert (load_verb(verb).__doc__ or "").split("\n")[0] == VERBS[verb].summary


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_and_argument_says_what_it_takes(verb: str) -> None:
    for parameter in parameters_of(verb):
        flag = getattr(parameter, "is_flag", False)
        assert flag or PLACEHOLDER.fullmatch(parameter.metavar or ""), parameter.name
        assert parameter.help, parameter.name


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("arguments", [(), ("train", "--help"), ("benchmark", "--help")])
def test_pages_fit_the_terminal(
    arguments: tuple[str, ...], width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page(monkeypatch, capsys, *arguments, width=width)
    # The lines of an example stay whole, to be copied.
    assert all(len(line) <= width or "pclauto " in line for line in text.splitlines())
    assert "<bool>" not in text


def test_train_has_panels_and_its_flags_no_placeholder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page(monkeypatch, capsys, "train", "--help", width=100)
    titles = ["Arguments", "What to learn from", "Recipe and length", "Where", "Advanced", "Options"]
    assert re.findall(r"^╭─ ([\w ]+) ─", text, re.MULTILINE) == titles
    assert re.search(r"--budget TIME ", text)
    assert re.search(r"--supervised-only  +Train", text)
    assert "Default: 0." in text


def test_no_verb_but_the_one_asked_for_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("pcl_auto.cli.commands.")]:
        monkeypatch.delitem(sys.modules, module)
    load_verb("env")
    assert [name for name in sys.modules if name.startswith("pcl_auto.cli.commands.")] == ["pcl_auto.cli.commands.env"]
    with pytest.raises(KeyError):
        load_verb("nothing")
