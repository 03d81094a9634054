"""``pclauto recipes``: what it prints is a recipe, a list or a schema."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pcl_auto.cli import main
from pcl_auto.recipe.changes import change_recipe
from pcl_auto.recipe.load import load_recipe, shipped_recipes


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Return what a command prints on stdout."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["pclauto", "recipes", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.run()
        assert not ended.value.code
        return capfd.readouterr().out

    return run


def test_the_list_has_every_shipped_recipe_with_its_length(printed: Any) -> None:
    lines = printed().splitlines()
    assert lines[1].split()[:5] == ["default", "1000", "×", "250", "9"]
    listed = json.loads(printed("--json"))["recipes"]
    assert sorted(entry["name"] for entry in listed) == shipped_recipes()
    for entry in listed:
        schedule = load_recipe(entry["name"]).schedule
        assert (entry["epochs"], entry["rounds"]) == (schedule.epochs, schedule.rounds)
        assert entry["description"] == load_recipe(entry["name"]).description != ""


def test_what_is_printed_is_a_recipe_file(printed: Any, tmp_path: Path) -> None:
    changes = ["contrast.weight=0.2"]
    changed = change_recipe(load_recipe("quick"), changes)
    file = tmp_path / f"{changed.name}.toml"
    file.write_text(printed("quick", "--set", *changes), encoding="utf-8")
    assert load_recipe(str(file)) == changed
    assert printed(str(file)) == file.read_text(encoding="utf-8"), "a file is shown as a shipped recipe is"


def test_json_has_values_ranges_choices_and_texts(printed: Any) -> None:
    shown = json.loads(printed("default", "--json"))
    settings = {entry["name"]: entry for entry in shown["settings"]}
    assert shown["name"] == "default"
    assert settings["schedule.rounds"] == {
        "name": "schedule.rounds", "value": 9, "default": 3, "changed": True, "type": "int", "range": [0, 100],
        "choices": None, "help": settings["schedule.rounds"]["help"],
    }  # fmt: skip
    assert settings["optimizer.name"]["choices"] == ["sgd", "adam", "adamw"]
    assert settings["mixing.copy_paste"]["range"] is None


def test_settings_alone_change_the_default(printed: Any) -> None:
    assert json.loads(printed("--set", "schedule.rounds=4", "--json"))["name"] == "default-schedule.rounds-4"


def test_the_schema_is_json(printed: Any) -> None:
    assert "schedule" in json.loads(printed("--schema"))["properties"]
