"""Describe recipe files as a JSON Schema, by which an editor completes keys and marks mistakes."""

from __future__ import annotations

from typing import Any

from pcl_auto.recipe.catalog import Setting, all_settings, tables

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe file."""
    found: dict[str, dict[str, Any]] = {name: {} for name in ("", *tables())}
    for setting in all_settings():
        found[setting.table][setting.key] = _property(setting)
    extends = {"type": "string", "description": "Recipe that this file changes: a shipped one, or a file beside it."}
    described = {table: {"description": about, **_object(found[table])} for table, about in tables().items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of pclauto",
        **_object({"extends": extends, **found[""], **described}),
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _property(setting: Setting) -> dict[str, Any]:
    made: dict[str, Any] = {"type": _TYPES[setting.kind], "description": setting.help}
    if setting.default is not None:
        made["default"] = setting.default
    if setting.choices:
        made["enum"] = list(setting.choices)
    if setting.limits:
        made["minimum"], made["maximum"] = setting.limits
    return made
