"""Change settings of a recipe without a file: ``--set contrast.weight=0.2``."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pcl_auto.errors import Problem, UsageError
from pcl_auto.recipe.catalog import all_settings
from pcl_auto.recipe.load import check_values, from_dict, load_recipe, overlaid, usable_name
from pcl_auto.recipe.settings import Recipe
from pcl_auto.workspace.shapes import shown

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

OPTION = "--set"
# Longer names of folders are hard to read.
MAX_NAME = 40
_KEY = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)


def load_changed(name: str | Recipe, changes: Sequence[str]) -> Recipe:
    """Load a recipe, or take the one that is given, and change it as :func:`change_recipe` does.

    Raises:
        UsageError: what is wrong with the recipe, and with the changes.
    """
    try:
        recipe = name if isinstance(name, Recipe) else load_recipe(name)
    except UsageError as error:
        raise UsageError([*error.problems, *_read_changes(changes)[1]]) from None
    return change_recipe(recipe, changes)


def change_recipe(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Return the recipe that a file would be that extends ``recipe`` and has these ``changes``, each table.key=value.

    It is called after its changes, so that models of other settings lie elsewhere. Where nothing is changed it is
    ``recipe`` itself.

    Raises:
        UsageError: everything that is wrong with the changes.
    """
    values, problems = _read_changes(changes)
    if problems:
        raise UsageError(problems)
    try:
        changed = from_dict(overlaid(recipe.as_dict(), values))
    except UsageError as error:
        raise UsageError(_of_option(error.problems, values)) from None
    different = {
        setting.name: setting.value_in(changed)
        for setting in all_settings()
        if setting.value_in(changed) != setting.value_in(recipe)
    }
    return replace(changed, name=_name(recipe.name, different)) if different else recipe


def as_changes(settings: Mapping[str, object]) -> tuple[str, ...]:
    """Return ``{"contrast.weight": 0.2}`` as the options of a command would say it."""
    return tuple(f"{name}={json.dumps(value, default=str)}" for name, value in settings.items())


def _name(recipe: str, different: Mapping[str, Any]) -> str:
    """Name a changed recipe by what is changed, or where that is long or has no place in a name, by a checksum."""
    values = [f"{name}-{value if isinstance(value, str) else json.dumps(value)}" for name, value in different.items()]
    name = "-".join([recipe, *values])
    if len(name) <= MAX_NAME and usable_name(name):
        return name
    digest = hashlib.sha256(json.dumps(different, sort_keys=True).encode()).hexdigest()[:8]
    return f"{recipe}-{digest}"


def _read_changes(changes: Iterable[str]) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """Read changes into the tables of a recipe, and list all that is wrong with each by itself."""
    values: dict[str, dict[str, Any]] = {}
    problems = []
    for change in changes:
        name, equals, text = (part.strip() for part in change.partition("="))
        value = _value(text)
        if not equals or not _KEY.fullmatch(name) or value is None:
            expected = "table.key=value, the value as in TOML: contrast.weight=0.2, optimizer.name=adamw"
            fix = "correct the option; `pclauto recipes default` shows every setting"
            problems.append(Problem("recipe.not-set-syntax", "not a setting", OPTION, fix, expected, shown(change)))
            continue
        table, key = name.split(".")
        if key in values.setdefault(table, {}):
            what, fix = "setting that is given twice", "keep one of them"
            problems.append(Problem("recipe.set-twice", what, f"{OPTION} {name}", fix, found=shown(change)))
        values[table][key] = value
    return values, [*problems, *_of_option(check_values(values), values)]


def _value(text: str) -> Any:
    """Return a value of TOML, or a bare word as it is; None where the text is neither."""
    try:
        read = tomllib.loads(f"value = {text}")
    except (RecursionError, ValueError):
        return text if _WORD.fullmatch(text) else None
    return read["value"] if read.keys() == {"value"} else None


def _of_option(problems: Iterable[Problem], values: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    """Say of problems with settings that are given as options that they are."""
    given = {*values, *(f"{table}.{key}" for table, keys in values.items() for key in keys)}
    fixes = {"correct the recipe": "correct the option"}
    return [
        replace(problem, where=f"{OPTION} {problem.where}", fix=fixes.get(problem.fix, problem.fix))
        if problem.where in given
        else problem
        for problem in problems
    ]
