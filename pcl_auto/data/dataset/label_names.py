"""Read the names of classes as they are typed: ``1=liver,2=tumor`` or ``liver,tumor``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from pcl_auto.data.labels import BACKGROUND, IGNORE, MAX_VALUES, Labels
from pcl_auto.errors import Problem

_VALUE = re.compile(r"\d{1,4}", re.ASCII)
# What looks like a value and a name that were written otherwise.
_NO_NAME = re.compile(r"\d+(\s.*)?|.*[=:;].*", re.ASCII)
_OPTION = "--labels"
_FIX = "write the value and the name of every class, as in --labels 1=liver,2=tumor, or the names alone, in order"


def parse_labels(text: str) -> tuple[Labels, list[Problem]]:
    """Return the classes that ``text`` names, the background among them, and everything that is wrong with it.

    Names without values are those of 1, 2, … in order.
    """
    parts = [part.strip() for part in text.split(",")]
    numbered = [part.partition("=") for part in parts if "=" in part]
    if not numbered:
        numbered = [(str(value), "=", name) for value, name in enumerate(parts, 1)]
    elif len(numbered) < len(parts):
        found = ", ".join(part for part in parts if "=" not in part)
        return {BACKGROUND: 0}, [_problem("classes without a value among classes with one", found, "a value for each")]
    problems: list[Problem] = []
    classes: list[tuple[int, str]] = []
    for value, _, name in ((value.strip(), equals, name.strip()) for value, equals, name in numbered):
        if not name.isprintable() or not name or _NO_NAME.fullmatch(name):
            problems.append(_problem("a class without a name that can be used", repr(f"{value}={name}"), "a name"))
        elif not _VALUE.fullmatch(value) or int(value) > MAX_VALUES:
            problems.append(_problem("the value of a class is none", repr(f"{value}={name}"), "1, 2, 3, …"))
        elif (int(value) == 0) != (name.casefold() == BACKGROUND):
            expected = "0, which need not be named, for the background alone"
            problems.append(_problem("the background has the value 0", f"{value}={name}", expected))
        elif int(value):
            classes.append((int(value), name.lower() if name.lower() == IGNORE else name))
    problems = problems or _contradictions(classes)
    return {BACKGROUND: 0, **{name: value for value, name in sorted(classes)}}, problems


def _contradictions(classes: Sequence[tuple[int, str]]) -> list[Problem]:
    """Return what is wrong with classes together, each of which makes sense."""
    if not classes:
        return [_problem("no class", "the background alone", "1 or more")]
    problems = [
        _problem(f"two classes have one {kind}", shared, f"a {kind} for each class")
        for kind, items in (
            ("name", (name.casefold() for _, name in classes)),
            ("value", (str(value) for value, _ in classes)),
        )
        for shared in _repeated(items)
    ]
    values = sorted({value for value, _ in classes})
    if values != [*range(1, len(values) + 1)]:
        expected, fix = f"1 to {len(values)}", "name every value; where none is missing, renumber those of the masks"
        problems.append(_problem("the values of the classes leave a gap", ", ".join(map(str, values)), expected, fix))
    elif any(name == IGNORE and value != values[-1] for value, name in classes):
        fix = "give ignored voxels the highest value, in the masks too"
        problems.append(_problem("ignore has not the highest value", "another class above it", "ignore last", fix))
    return problems


def _problem(what: str, found: str, expected: str, fix: str = _FIX) -> Problem:
    return Problem("init.labels", what, _OPTION, fix, expected, found)


def _repeated(items: Iterable[str]) -> list[str]:
    return [item for item, count in Counter(items).items() if count > 1]
