"""Read recipes: TOML files, what they extend, and every mistake in them at once."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pcl_auto.errors import OldNameWarning, Problem, UsageError
from pcl_auto.recipe.catalog import all_settings, tables
from pcl_auto.recipe.settings import Range, Recipe, range_text
from pcl_auto.workspace.shapes import MAX_WHOLE, shown

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

MAX_BYTES = 2**20
# The name stands in names of folders, where nnU-Net takes two underscores for its separator.
_NAME = re.compile(r"[A-Za-z0-9.-]+(_[A-Za-z0-9.-]+)*", re.ASCII)
_Table = TypeVar("_Table")

# Keys of version 0.1 and what they are called now, as "table.key"; read until version 0.3, with a warning in a file.
RENAMED_KEYS = {
    "judgement.drop_outside_range": "pseudo_label_filter.drop_outside_range",
    "judgement.range_margin": "pseudo_label_filter.range_margin",
    "judgement.agreement": "pseudo_label_filter.min_agreement",
    "judgement.largest_component": "pseudo_label_filter.largest_component",
    "judgement.degenerate_margin": "collapse_guard.volume_margin",
    "judgement.guard": "collapse_guard.enabled",
    "judgement.validation_drop": "collapse_guard.validation_drop",
    "mixing.box": "mixing.box_fraction",
    "teacher.memory": "teacher.ema_rounds",
}
# Switched off, as in every recipe that was shipped, it says nothing.
_CRF = "pseudo_labels.crf"


def _problem(code: str, where: str, what: str, expected: str, found: object) -> Problem:
    return Problem(code=code, what=what, where=where, expected=expected, found=shown(found), fix="correct the recipe")


def _checked(hint: Any, limits: Range | None, value: Any, where: str, problems: list[Problem]) -> Any:
    """Return ``value`` as the field's type, or note a problem."""
    choices = get_args(hint)
    if choices:
        if value not in choices:
            problems.append(
                _problem("recipe.unknown-choice", where, "unknown choice", " | ".join(map(repr, choices)), value)
            )
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_WHOLE:
        value = float(value)
    if type(value) is not hint:
        problems.append(_problem("recipe.wrong-type", where, "wrong type", hint.__name__, value))
    elif limits is not None and not limits[0] <= value <= limits[1]:
        problems.append(_problem("recipe.out-of-range", where, "value out of range", range_text(limits), value))
    return value


def _meant(place: str) -> str:
    """Return how to correct an unknown table or key: by what was probably meant."""
    key = place.rpartition(".")[2]
    known = [setting.name for setting in all_settings()] if "." in place else list(tables())
    # A known key in another table is likelier than another key with letters in common.
    meant = [name for name in known if name.endswith(f".{key}")] or get_close_matches(place[:100], known, 1)
    if place in RENAMED_KEYS:
        meant = [RENAMED_KEYS[place]]
    return f"write {' or '.join(meant)}, if that is meant" if meant else "`pclauto recipes default` shows every key"


def _table(kind: type[_Table], values: Any, where: str, problems: list[Problem]) -> _Table:
    hints = get_type_hints(kind)
    known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(values, Mapping):
        problems.append(_problem("recipe.wrong-type", where, "wrong type", "a table", values))
        return kind()
    given: dict[str, Any] = {}
    for key, value in values.items():
        place = f"{where}.{key}" if where else key
        if place == _CRF:
            problems.append(
                Problem(
                    code="recipe.crf-moved",
                    what="the random field is no setting of a recipe any more",
                    where=place,
                    fix="leave the key out; benchmarks/paper/dense_crf.py has the paper's refinement",
                )
            )
        elif key not in known:
            problems.append(
                Problem(
                    code="recipe.unknown-key",
                    what="unknown key",
                    where=place,
                    expected=" | ".join(known),
                    found=shown(key),
                    fix=_meant(place),
                )
            )
        elif hasattr(hints[key], "__dataclass_fields__"):
            given[key] = _table(hints[key], value, place, problems)
        else:
            given[key] = _checked(hints[key], known[key].metadata.get("range"), value, place, problems)
    return kind(**given)


def with_current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's plain values with the keys of version 0.1 renamed.

    A key that is there under both names keeps its old one, which :func:`from_dict` then refuses as unknown.
    """
    renamed: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()
    }
    for old in old_keys(values):
        (old_table, old_key), (table, key) = old.split("."), RENAMED_KEYS.get(old, old).split(".")
        target = renamed.setdefault(table, {})
        if old == _CRF or (isinstance(target, dict) and key not in target):
            value = renamed[old_table].pop(old_key)
            if old != _CRF:
                target[key] = value
        if not renamed[old_table]:
            del renamed[old_table]
    return renamed


def recorded_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain values of a recipe on record under current keys.

    A setting that the record does not know, since it is newer, has its default: what was before there was a choice.
    """
    return overlaid(Recipe(name="").as_dict(), with_current_names(values))


def old_keys(values: Mapping[str, Any]) -> list[str]:
    """List the keys of version 0.1 in a recipe's plain values, as "table.key"."""
    given = [f"{table}.{key}" for table, keys in values.items() if isinstance(keys, Mapping) for key in keys]
    off = (
        [_CRF]
        if isinstance(values.get("pseudo_labels"), Mapping) and values["pseudo_labels"].get("crf") is False
        else []
    )
    return [key for key in given if key in RENAMED_KEYS or key in off]


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """Make the recipe that ``values`` describe, with current keys or those of version 0.1.

    Raises:
        UsageError: unknown keys, wrong types or values out of range, all of them at once.
    """
    problems: list[Problem] = []
    recipe = _table(Recipe, {"name": "unnamed", **with_current_names(values)}, "", problems)
    if isinstance(recipe.name, str) and not usable_name(recipe.name):
        problems.append(
            _problem(
                "recipe.unusable-name", "name", "unusable name", "letters, digits, '.', '-' and single '_'", recipe.name
            )
        )
    if recipe.batch.patches == 1:
        problems.append(
            _problem(
                "recipe.out-of-range",
                "batch.patches",
                "value out of range",
                "0, or 2 and more: labeled and unlabeled",
                1,
            )
        )
    if not problems and 0 < recipe.contrast.mean_voxels < recipe.contrast.min_voxels:
        expected = f"at most contrast.mean_voxels, {recipe.contrast.mean_voxels}: no more are drawn"
        problems.append(
            _problem(
                "recipe.out-of-range",
                "contrast.min_voxels",
                "value out of range",
                expected,
                recipe.contrast.min_voxels,
            )
        )
    if not problems and recipe.pseudo_labels.network != "last" and recipe.teacher.ema_rounds:
        expected = "'last', or teacher.ema_rounds = 0: both would make the pseudo-labels"
        problems.append(
            _problem(
                "recipe.teacher-and-best",
                "pseudo_labels.network",
                "weights chosen by validation beside an EMA teacher",
                expected,
                recipe.pseudo_labels.network,
            )
        )
    problems += _not_together(recipe)
    if problems:
        raise UsageError(problems)
    return recipe


def check_values(values: Mapping[str, Any]) -> list[Problem]:
    """List the tables and keys that no recipe has, and values of other types or out of range; each by itself."""
    problems: list[Problem] = []
    _table(Recipe, {"name": "any", **values}, "", problems)
    return problems


def usable_name(name: str) -> bool:
    """Tell whether a recipe can be called so: its name stands in names of folders and of nnU-Net's plans."""
    return _NAME.fullmatch(name) is not None


def _not_together(recipe: Recipe) -> list[Problem]:
    """List the settings, most of them for a round's pseudo-labels, that must be off where another method teaches."""
    if recipe.unlabeled_loss.method == "pseudo_labels":
        return []
    settings = {
        "contrast.weight": recipe.contrast.weight,
        "pseudo_labels.segmentation_weight": recipe.pseudo_labels.segmentation_weight,
        "pseudo_labels.start": recipe.pseudo_labels.start == "registration",
        "pseudo_labels.restart_network": recipe.pseudo_labels.restart_network,
        "pseudo_labels.student_noise": recipe.pseudo_labels.student_noise,
        "pseudo_labels.match_volumes": recipe.pseudo_labels.match_volumes,
        # Cases would be left out for pseudo-labels that teach nothing.
        "pseudo_label_filter.drop_outside_range": recipe.pseudo_label_filter.drop_outside_range,
        "pseudo_label_filter.min_agreement": recipe.pseudo_label_filter.min_agreement,
        "mixing.copy_paste": recipe.mixing.copy_paste,
        # Its second network would see other patches than the first.
        "mixing.mixup_alpha": recipe.unlabeled_loss.method == "cross_supervision" and recipe.mixing.mixup_alpha,
    }
    return [
        Problem(
            code="recipe.not-together",
            what=f"{where} beside unlabeled_loss.method = {recipe.unlabeled_loss.method!r}",
            where=where,
            fix="switch one of the two off",
            expected="false" if value is True else "0",
            found=repr(value),
        )
        for where, value in settings.items()
        if value
    ]


def recipe_folder() -> Path:
    """Return the folder of the recipes that ship with the package, installed or in a checkout."""
    here = Path(__file__).resolve().parents[1]
    installed = here / "plans"
    return installed if installed.is_dir() else here.parent / "plans"


def shipped_recipes() -> list[str]:
    """List the names of the recipes that ship with the package."""
    return sorted(path.stem for path in recipe_folder().glob("*.toml"))


def load_recipe(name: str) -> Recipe:
    """Load the recipe called ``name`` (``default``, ``paper``, ``quick``), or the TOML file at that path.

    A file with ``extends = "default"`` says what it changes in that recipe.

    Raises:
        UsageError: there is no such recipe, or it does not parse, or its values are wrong.

    Warns:
        OldNameWarning: keys of version 0.1, each with its new name.
    """
    path, values = _read_toml(name)
    chain = [path]
    while "extends" in values:
        base, extended = _read_toml(str(values.pop("extends")), chain[-1].parent)
        extended.pop("name", None)
        if base in chain:
            names = " extends ".join(file.stem for file in [*chain, base])
            raise UsageError(
                _problem(
                    "recipe.extends-itself",
                    "extends",
                    "recipes that extend each other",
                    "a recipe that stands alone",
                    names,
                )
            )
        chain.append(base)
        values = overlaid(extended, values)
    return from_dict({"name": path.stem, **values})


def overlaid(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Overlay ``base`` with the settings that ``changes`` name, table by table."""
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        merged[key] = {**before, **value} if both else value  # type: ignore[dict-item]
    return merged


def _read_toml(name: str, folder: Path = Path()) -> tuple[Path, dict[str, Any]]:
    """Read a recipe file, shipped or in ``folder``; return its path and content."""
    shipped = {path.stem: path for path in sorted(recipe_folder().glob("*.toml"))}
    path = shipped.get(name, folder / name)
    if not path.is_file():
        raise UsageError(
            Problem(
                code="recipe.unknown",
                what=f"no recipe called {name!r}",
                where="the shipped recipes" if path.suffix != ".toml" else str(path.absolute().parent),
                expected=" | ".join(shipped),
                fix="name one of these, or give the path of a TOML file",
            )
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    # ValueError: of TOML, of its encoding, of numbers of thousands of digits.
    except (OSError, RecursionError, ValueError) as error:
        raise UsageError(
            Problem(
                code="recipe.not-toml",
                what="not a TOML file",
                where=str(path),
                found=str(error),
                fix="correct the recipe",
            )
        ) from error
    for old in old_keys(values):
        now = f"is now {RENAMED_KEYS[old]}" if old in RENAMED_KEYS else "is gone"
        warnings.warn(f"{path}: {old} {now}; the old name is read until version 0.3", OldNameWarning, stacklevel=3)
    # Under current names before it is overlaid: a recipe may extend one that was written with the old ones.
    return path, with_current_names(values)
