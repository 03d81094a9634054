"""docs/recipes.md has every setting and every shipped recipe as they are."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from pcl_auto.recipe.catalog import all_settings
from pcl_auto.recipe.load import shipped_recipes

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.fixture(scope="module")
def maker() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "make_recipes.py"))


def test_the_page_is_what_the_settings_say(maker: dict[str, Any]) -> None:
    text = (DOCS / "recipes.md").read_text(encoding="utf-8")
    assert text == maker["page"](maker["measured_before"]()), "python docs/make_recipes.py writes it anew"


def test_the_page_has_every_recipe_and_every_key(maker: dict[str, Any]) -> None:
    text = maker["page"]("")
    assert sorted(maker["WHEN"]) == shipped_recipes()
    for setting in all_settings():
        if setting.table:
            table = text.partition(f"### {setting.table}\n")[2].partition("###")[0]
            assert f"| `{setting.key}` |" in table


def test_a_setting_with_a_measured_effect_links_to_it(maker: dict[str, Any]) -> None:
    text = maker["page"]("\n| `mixing.mixup_alpha` | `0.0` → `0.4` | +.010 |\n")
    linked = [line for line in text.splitlines() if "[Measured](#measured-effects)" in line]
    assert len(linked) == 1
    assert linked[0].startswith("| `mixup_alpha` |")
