"""Hold the pages to the program: commands and options, make's targets, the page that is made from the help."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from documents import COMMANDS_PAGE, DOCS, PAGES, ROOT, block_commands, inline_commands, make_targets

PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.fixture(scope="module")
def maker() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "make_commands.py"))


@pytest.fixture(scope="module")
def verbs(maker: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = maker["commands"]()
    return found


@PAGE
def test_commands_in_blocks_are_understood(
    page: Path, verbs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for verb, *arguments in block_commands(page):
        for folder in (word for word in arguments if word.endswith("/")):
            Path(folder).mkdir(parents=True, exist_ok=True)  # some options take what is there alone
        if not verb.startswith("-"):
            verbs[verb].make_context(verb, list(arguments))


@PAGE
def test_verbs_and_options_in_the_text_exist(page: Path, verbs: dict[str, Any]) -> None:
    for verb, *words in inline_commands(page):
        if verb.startswith("-") or verb == "VERB":
            continue
        known = {name for parameter in verbs[verb].params for name in (*parameter.opts, *parameter.secondary_opts)}
        options = {word.split("=")[0].rstrip(",;:") for word in words if word.startswith("-") and word != "-"}
        assert options <= {*known, "--help", "-h", "--debug"}, (verb, words)


def test_guides_show_every_verb(verbs: dict[str, Any]) -> None:
    shown = {command[0] for page in PAGES if page != COMMANDS_PAGE for command in block_commands(page)}
    assert shown >= verbs.keys()


def test_the_page_of_commands_is_up_to_date(maker: dict[str, Any]) -> None:
    assert COMMANDS_PAGE.read_text(encoding="utf-8") == maker["page"](), "python docs/make_commands.py writes it anew"


@PAGE
def test_targets_of_make_exist(page: Path) -> None:
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    assert [target for target in make_targets(page) if not any(line.startswith(f"{target}:") for line in lines)] == []
