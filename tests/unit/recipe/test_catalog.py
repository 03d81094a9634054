"""Test what is said of every setting, and recipes and a schema that are written from it."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pcl_auto.recipe.catalog import all_settings, tables
from pcl_auto.recipe.load import load_recipe, recipe_folder
from pcl_auto.recipe.schema import json_schema
from pcl_auto.recipe.settings import Recipe, range_text
from pcl_auto.recipe.write import WIDTH, as_toml

SHIPPED = sorted(path.stem for path in recipe_folder().glob("*.toml"))
MARK = "  # changed; default: "


def test_every_key_is_listed_and_says_what_it_does() -> None:
    keys = {
        (table.name, entry.name) for table in fields(Recipe) if table.name in tables()
        for entry in fields(getattr(Recipe(""), table.name))
    }  # fmt: skip
    assert {(setting.table, setting.key) for setting in all_settings()} == {("", "name"), ("", "description"), *keys}
    for setting in all_settings():
        assert setting.help.endswith("."), setting.name
        assert setting.help[0].isupper() or setting.help[0].isdigit(), setting.name
    assert all(tables().values())


def test_every_number_has_a_range_and_every_default_lies_in_it() -> None:
    for setting in all_settings():
        if setting.kind in (int, float):
            assert setting.limits is not None, setting.name
            assert setting.limits[0] <= setting.default <= setting.limits[1], setting.name
        elif setting.choices:
            assert setting.default in setting.choices, setting.name


def test_ranges_in_words() -> None:
    assert range_text((1, 100_000)) == "1 to 100,000"
    assert range_text((1e-7, 0.99)) == "1e-07 to 0.99"


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_written_of_a_recipe_is_the_recipe(name: str, tmp_path: Path) -> None:
    recipe, file = load_recipe(name), tmp_path / f"{name}.toml"
    file.write_text(as_toml(recipe), encoding="utf-8")
    assert load_recipe(str(file)) == recipe
    mine = file.rename(tmp_path / "mine.toml")
    assert load_recipe(str(mine)) == replace(recipe, name="mine"), "a copy is a recipe of its own"


def test_what_is_written_marks_what_differs_and_explains_every_key() -> None:
    recipe = load_recipe("default")
    lines = as_toml(recipe).splitlines()
    marked = {line.split(" = ")[0] for line in lines if MARK in line}
    differing = {
        setting.key for setting in all_settings() if setting.table and setting.value_in(recipe) != setting.default
    }
    assert marked == differing
    assert f'mirroring = "symmetric"{MARK}"all"' in lines
    assert max(len(line) for line in lines if line.startswith("#")) <= WIDTH
    for number, line in enumerate(lines):
        if " = " in line and not line.startswith("#"):
            assert lines[number - 1].startswith("# "), line


@pytest.mark.parametrize("text", ['"quoted" \\ back', "two\nlines", "\x7f\x9b31m", "ö λ 🫀", "# not a comment"])
def test_any_description_survives(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(as_toml(Recipe("mine", description=text)), encoding="utf-8")
    assert load_recipe(str(file)).description == text
    assert not {"\x7f", "\x9b"} & set(file.read_text(encoding="utf-8"))


def test_a_schema_has_every_key_with_its_limits() -> None:
    schema = json_schema()
    for setting in all_settings():
        place: Any = schema["properties"][setting.table] if setting.table else schema
        found = place["properties"][setting.key]
        assert not place["additionalProperties"]
        assert found["description"] == setting.help
        assert found.get("enum") == (list(setting.choices) or None)
        assert (found.get("minimum"), found.get("maximum")) == (setting.limits or (None, None))
        assert isinstance(setting.default, type(found.get("default")))
    assert "extends" in schema["properties"]
