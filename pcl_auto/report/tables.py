"""Choose and name the rows of a report's tables: pseudo-labels of a ledger, settings of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pcl_auto.recipe.load import load_recipe


def heading(column: str) -> str:
    """Return a reader's name for a column of the ledger."""
    named = {"dice_to_last_round": "Dice to round before", "agreement": "agreement"}
    return named.get(column, column.replace("volume_ml_", "ml ").replace("components_", "parts "))


def best_median_worst(ranked: Sequence[dict[str, str]]) -> list[tuple[str, dict[str, str]]]:
    """Select the first, middle and last of ``ranked``, each once."""
    chosen: dict[int, str] = {}
    for name, index in {"best": 0, "worst": len(ranked) - 1, "median": len(ranked) // 2}.items():
        if ranked:
            chosen.setdefault(index, name)
    return [(name, ranked[index]) for index, name in sorted(chosen.items())]


def recipe_lines(recipe: Mapping[str, Any], default: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List every setting of ``recipe``: its dotted name, its value, and the default's value (None: the same)."""
    before = dict(_flat(default))
    lines = []
    for name, value in _flat(recipe):
        differs = name in before and before[name] != value
        lines.append((name, value, before[name] if differs else None))
    return lines


def default_recipe() -> dict[str, Any]:
    """Return the recipe that a run takes when none is named, without what names it."""
    values = load_recipe("default").as_dict()
    return {key: value for key, value in values.items() if key not in ("name", "description")}


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    lines: list[tuple[str, Any]] = []
    for key, value in values.items():
        lines += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return lines
