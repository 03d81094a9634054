"""Test that docs/files.md names every event and its fields."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from documents import DOCS, ROOT
from golden import fold


def documented_events() -> dict[str, set[str]]:
    """Return the table of events: an event's fields, those that are not always there included."""
    text = (DOCS / "files.md").read_text(encoding="utf-8")
    section = text.split("## events.jsonl")[1].split("\n## ")[0]
    found = {}
    for name, fields in re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE):
        found[name] = set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", fields)))
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


def test_the_page_tells_every_event_and_its_fields(unperturbed: Path) -> None:
    documented, emitted = documented_events(), emitted_events()
    assert documented.keys() == emitted.keys()
    for name, fields in emitted.items():
        assert fields <= documented[name], name
    perhaps = {"from_model", "from_shared_start", "pretrained"}
    seen = set()
    for line in (fold(unperturbed) / "events.jsonl").read_text().splitlines():
        fields = json.loads(line).keys() - {"time"}
        name = json.loads(line)["event"]
        assert documented[name] - perhaps <= fields - {"event"} <= documented[name], name
        seen.add(name)
    assert seen >= {"started", "epoch", "pseudo_labels", "trained"}
