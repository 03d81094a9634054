"""List every setting of a recipe with its type, range, choices and text, for those who choose values."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, get_args, get_type_hints

from pcl_auto.recipe.settings import Range, Recipe, range_text

_TYPES = {bool: "true or false", int: "whole number", float: "number", str: "text"}


@dataclass(frozen=True)
class Setting:
    """A key of a recipe; ``table`` is empty for those that stand above all tables. ``default`` is None for a name."""

    table: str
    key: str
    kind: type
    default: Any
    limits: Range | None
    choices: tuple[str, ...]
    help: str

    @property
    def name(self) -> str:
        """Name as ``--set`` takes it, table.key."""
        return f"{self.table}.{self.key}" if self.table else self.key

    @property
    def allowed(self) -> str:
        """Values that the setting may have, in words."""
        if self.choices:
            return " | ".join(self.choices)
        return _TYPES[self.kind] + (f", {range_text(self.limits)}" if self.limits else "")

    def value_in(self, recipe: Recipe) -> Any:
        """Return the value that ``recipe`` has for the setting."""
        return getattr(getattr(recipe, self.table) if self.table else recipe, self.key)

    def as_dict(self, recipe: Recipe) -> dict[str, Any]:
        """Return the setting and its value in ``recipe`` for ``--json``."""
        value = self.value_in(recipe)
        return {
            "name": self.name,
            "value": value,
            "default": self.default,
            "changed": value != self.default,
            "type": self.kind.__name__,
            "range": self.limits,
            "choices": list(self.choices) or None,
            "help": self.help,
        }


@cache
def all_settings() -> tuple[Setting, ...]:
    """Return every setting, table by table, in the order of a recipe file."""
    return tuple(_settings_of(Recipe, ""))


@cache
def tables() -> dict[str, str]:
    """Return every table of a recipe, with what it is about."""
    hints = get_type_hints(Recipe)
    return {
        entry.name: " ".join((inspect.getdoc(hints[entry.name]) or "").split())
        for entry in fields(Recipe)
        if hasattr(hints[entry.name], "__dataclass_fields__")
    }


def _settings_of(table: Any, name: str) -> Iterator[Setting]:
    hints = get_type_hints(table)
    for entry in fields(table):
        hint = hints[entry.name]
        if hasattr(hint, "__dataclass_fields__"):
            yield from _settings_of(hint, entry.name)
            continue
        choices = get_args(hint)
        yield Setting(
            table=name,
            key=entry.name,
            kind=str if choices else hint,
            default=None if entry.default is MISSING else entry.default,
            limits=entry.metadata.get("range"),
            choices=choices,
            help=entry.metadata.get("help", ""),
        )
