"""Write a recipe as TOML, complete and with comments, for people to begin their own with."""

from __future__ import annotations

import json
import re
import textwrap

from pcl_auto.recipe.catalog import Setting, all_settings, tables
from pcl_auto.recipe.settings import Recipe

WIDTH = 100
# What JSON leaves as it is, and TOML does not take or a terminal obeys.
_CONTROL = re.compile("[\x7f-\x9f]")


def toml_value(value: object) -> str:
    """Return a value as TOML has it."""
    text = json.dumps(value, ensure_ascii=False)
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def as_toml(recipe: Recipe) -> str:
    """Return a recipe file of every setting of ``recipe``, each with what it does and the values that it may have.

    It has no name: a recipe is called as its file is, so that runs of a copy are not taken for runs of the original.
    """
    lines = _comment(
        f"Recipe {recipe.name}: {recipe.schedule.epochs} epochs of {recipe.schedule.steps_per_epoch} steps. Every "
        "setting is here; keys that are left out have their defaults. A recipe is called as its file is."
    )
    lines += ["", "# One line about the recipe.", f"description = {toml_value(recipe.description)}"]
    for table, about in tables().items():
        lines += ["", "", *_comment(about), f"[{table}]"]
        for setting in all_settings():
            if setting.table == table:
                lines += ["", *_comment(setting.help), *_comment(setting.allowed), _line(setting, recipe)]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False)]


def _line(setting: Setting, recipe: Recipe) -> str:
    value = setting.value_in(recipe)
    mark = "" if value == setting.default else f"  # changed; default: {toml_value(setting.default)}"
    return f"{setting.key} = {toml_value(value)}{mark}"
