"""The content of a file has the shape that it should have, or it is said where it has not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pcl_auto.workspace.shapes import NAME, NUMBER, mismatch, shown

SHAPE = {"name": NAME, "size": int, "share?": (float, None), "tags": [str], "more?": {"a": bool, ...: float}}
SOUND: dict[str, Any] = {"name": "a", "size": 1, "share": 0.5, "tags": ["x"], "more": {"a": True, "b": 1}, "new": []}


@pytest.mark.parametrize("changes", [{}, {"share": None}, {"share": 1}, {"tags": []}, {"size": -(2**63) + 1}])
def test_what_fits(changes: dict[str, Any]) -> None:
    assert mismatch({**SOUND, **changes}, SHAPE) is None


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"name": "../x"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": ".."}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\0"}, "name"),
        ({"name": 1}, "name"),
        ({"size": 1.0}, "size"),
        ({"size": True}, "size"),
        ({"size": 2**63}, "size"),
        ({"size": 10**5000}, "size"),
        ({"share": math.nan}, "share"),
        ({"share": math.inf}, "share"),
        ({"share": "1"}, "share"),
        ({"share": 10**400}, "share"),
        ({"tags": "x"}, "tags"),
        ({"tags": ["x", None]}, "tags[1]"),
        ({"more": []}, "more"),
        ({"more": {}}, "more.a"),
        ({"more": {"a": 1}}, "more.a"),
        ({"more": {"a": True, "b": "x"}}, "more.b"),
    ],
)
def test_what_does_not_fit_is_said_by_its_place(changes: dict[str, Any], place: str) -> None:
    found = mismatch({**SOUND, **changes}, SHAPE)
    assert found is not None
    assert found.startswith(f"{place}: ")


@pytest.mark.parametrize("value", [None, [], "x", 1, {}])
def test_another_top_level(value: Any) -> None:
    assert mismatch(value, SHAPE) is not None
    assert mismatch(value, object) is None


def test_lists_of_a_length() -> None:
    assert mismatch([[1, 2.5], [3, 4]], [[float, float]]) is None
    assert mismatch([[1, 2], [3]], [[float, float]]) == "[1]: expected a list of 2, found [3]"
    assert mismatch([1, "x"], [int, str]) is None
    assert mismatch(["x", 1], [int, str]) == "[0]: expected a whole number, found 'x'"
    assert mismatch("ab", [str, str]) == "the file: expected a list, found 'ab'"


def test_what_is_missing() -> None:
    assert mismatch({key: value for key, value in SOUND.items() if key != "size"}, SHAPE) == "size: missing"


def test_numbers_of_nnunet_may_be_none() -> None:
    assert mismatch([math.nan, -math.inf, 1, 0.5], [NUMBER]) is None
    assert mismatch(["nan"], [NUMBER]) is not None


def test_whatever_it_is_can_be_shown() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, 10**5000, "x" * 1000, {"a": 1}, None, "a\nb"):
        assert len(shown(value)) < 80
    assert shown("a") == "'a'"
