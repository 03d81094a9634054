"""Compare the content of a file with the shape that it should have: a damaged file is named, not stumbled over.

A shape is one of these:

* ``str``, ``int``, ``float`` (finite, or a whole number), ``bool``, ``None``; ``object`` for anything;
* ``NUMBER``: a number that may be NaN or infinite, as nnU-Net writes it;
* ``NAME``: text that becomes part of a path, and leads to no other folder;
* a tuple of shapes: one of them;
* a list with one shape: a list of so many as there are; with several: a list of exactly these;
* a mapping from names to shapes: an object with these names, and perhaps others. A name that ends in "?" may be
  missing; the shape of ``...`` is that of all names that are not listed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

NUMBER = "a number"
NAME = "a plain name"
_DOTS = ("", ".", "..")
# Of what lies in several files.
CORRECTION = {"case": NAME, "mask": NAME, "split": str, "model": NAME, "round": int}
SPLIT = {
    "name": NAME, "seed": int, "labeled": [str], "validation": [str], "unlabeled": [str], "hidden": [str],
    "history?": [CORRECTION],
}  # fmt: skip
SCHEDULE = {"steps_per_epoch": int, "supervised_epochs": int, "rounds": int, "epochs_per_round": int}
# nnU-Net's dataset.json of a model or a planned data set: a class has a value, a region a list of them.
LABELS = {"labels": {...: (int, [int])}}
DATASET = {**LABELS, "channel_names": {...: str}, "regions_class_order?": ([int], None)}
# What 64 bits hold.
MAX_WHOLE = 2**63 - 1
_WORDS = {
    NUMBER: NUMBER,
    NAME: NAME,
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    None: "null",
    object: "anything",
}


def mismatch(value: Any, shape: Any, place: str = "") -> str | None:
    """Return in what ``value`` differs from ``shape`` first, as "place: expected …, found …"; None where it fits."""
    if isinstance(shape, Mapping):
        return _of_object(value, shape, place)
    if isinstance(shape, list):
        if not isinstance(value, (list, tuple)):
            return _differs(value, "a list", place)
        if len(shape) > 1 and len(value) != len(shape):
            return _differs(value, f"a list of {len(shape)}", place)
        shapes = shape if len(shape) > 1 else shape * len(value)
        found = (mismatch(entry, shapes[index], f"{place}[{index}]") for index, entry in enumerate(value))
        return next((each for each in found if each is not None), None)
    if isinstance(shape, tuple):
        findings = [mismatch(value, each, place) for each in shape]
        # Of a value that may be null, what is wrong with it otherwise.
        return None if None in findings else findings[0]
    return None if _is(value, shape) else _differs(value, _WORDS[shape], place)


def _is(value: Any, shape: Any) -> bool:
    if shape is object:
        return True
    if shape in (str, NAME):
        # A byte of zero ends a name for the system, and is of no use in any other text.
        plain = isinstance(value, str) and "\0" not in value
        return plain and (shape is str or ("/" not in value and value not in _DOTS))
    if shape is bool or shape is None:
        return isinstance(value, bool) if shape is bool else value is None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if isinstance(value, int):
        return abs(value) <= MAX_WHOLE
    return shape is not int and (shape == NUMBER or math.isfinite(value))


def _of_object(value: Any, shape: Mapping[Any, Any], place: str) -> str | None:
    if not isinstance(value, Mapping):
        return _differs(value, "an object", place)
    listed = {str(name).removesuffix("?"): (each, str(name).endswith("?")) for name, each in shape.items()
              if name is not ...}  # fmt: skip
    for name, (each, optional) in listed.items():
        where = f"{place}.{name}".lstrip(".")
        if name not in value:
            if not optional:
                return f"{where}: missing"
        elif (found := mismatch(value[name], each, where)) is not None:
            return found
    if ... in shape:
        for name in value:
            if name not in listed:
                found = mismatch(value[name], shape[...], f"{place}.{name}".lstrip("."))
                if found is not None:
                    return found
    return None


def _differs(value: Any, expected: str, place: str) -> str:
    return f"{place or 'the file'}: expected {expected}, found {shown(value)}"


def shown(value: Any, limit: int = 60) -> str:
    """Return a short text for a value of whatever kind, size or depth."""
    try:
        text = re.sub(r"\s+", " ", repr(value))
    except (RecursionError, ValueError):  # too deep, or a number of thousands of digits
        text = f"{type(value).__name__} of a size that cannot be shown"
    return text if len(text) <= limit else f"{text[:limit]} …"
