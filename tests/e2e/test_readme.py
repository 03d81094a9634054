"""Test that README names every verb, every event and its fields (its commands run in test_documented_commands.py)."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from golden import fold
from readme import COMMANDS, README, ROOT

from pcl_auto.cli.main import app

VERBS = [command.name for command in app.registered_commands]


def test_readme_shows_every_verb() -> None:
    assert {command[0] for command in COMMANDS} >= set(VERBS) - {"demo"}


def documented_events() -> dict[str, set[str]]:
    """Return README's table: an event's fields, those that are not always there included."""
    found = {}
    for name, text in re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE):
        found[name] = set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", text)))
    last_check = found.pop("last_check")
    assert last_check == {"pseudo_labels", "round"}  # told by reference
    return {**found, "last_check": found["pseudo_labels"] - {"round"}}


def emitted_events() -> dict[str, set[str]]:
    """Return what the code can write: names of events, and of the fields that it names there."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / "pcl_auto").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if not isinstance(call, ast.Call) or not ast.unparse(call.func).endswith("emit") or not call.args:
                continue
            event = call.args[0].value if isinstance(call.args[0], ast.Constant) else None
            if isinstance(event, str):
                fields = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
                found[event] = found.get(event, set()) | fields
    return found


def test_readme_tells_every_event_and_its_fields(unperturbed: Path) -> None:
    documented, emitted = documented_events(), emitted_events()
    assert documented.keys() == emitted.keys()
    for name, fields in emitted.items():
        assert fields <= documented[name], name
    perhaps = {"from_model", "from_shared_start"}
    seen = set()
    for line in (fold(unperturbed) / "events.jsonl").read_text().splitlines():
        fields = json.loads(line).keys() - {"time"}
        name = json.loads(line)["event"]
        assert documented[name] - perhaps <= fields - {"event"} <= documented[name], name
        seen.add(name)
    assert seen >= {"started", "epoch", "pseudo_labels", "trained"}


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)$", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
