"""Choose and name the rows of a report's tables: pseudo-labels of a ledger, settings of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pcl_auto.method.pseudo_labels import KEPT
from pcl_auto.recipe.load import load_recipe
from pcl_auto.training.run_facts import JUDGMENTS, Round


def heading(column: str) -> str:
    """Return a reader's name for a column of the ledger."""
    named = {"dice_to_last_round": "Dice to round before", "remarks": "reason"}
    return named.get(column, column.replace("volume_ml_", "ml ").replace("components_", "parts "))


def ledger_rows(entry: Round, unused: str = "") -> list[dict[str, str]]:
    """Return the rows of a ledger as they are read: case, whether it was used and why not, then its numbers.

    Args:
        entry: the ledger of a round.
        unused: why the network has learned from none of them, where it has not.
    """
    rows, first = [], ("case", "used", "remarks", *JUDGMENTS)
    for row in entry.rows:
        chosen, remarks = row.get("used") == "1", row.get("remarks", "")
        if chosen and unused:
            remarks = "; ".join(filter(None, [unused, remarks]))
        elif chosen and remarks and KEPT not in remarks:
            remarks = f"used although {remarks}"
        rows.append(
            {
                "case": row["case"],
                "used": "1" if chosen and not unused else "0",
                "remarks": remarks,
                **{column: row[column] for column in JUDGMENTS if column in row},
                **{column: value for column, value in row.items() if column not in first},
            }
        )
    return rows


STABLE = ("most stable", "median", "least stable")
BY_DICE = ("best", "median", "worst")
BY_NAME = ("first", "middle", "last")


def first_middle_last(
    ranked: Sequence[dict[str, str]], names: tuple[str, str, str]
) -> list[tuple[str, dict[str, str]]]:
    """Select the first, middle and last of ``ranked``, each once, under these names; of two the first and last."""
    chosen: dict[int, str] = {}
    for name, index in zip((names[0], names[2], names[1]), (0, len(ranked) - 1, len(ranked) // 2), strict=True):
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
