"""Damage text files in ways that files are damaged in, or that somebody would try."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

DEEP = "[" * 100_000
# What may stand in the place of any value; the last ones as they are written, for JSON has them but Python does not.
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 10**400, 1e308, -0.5, "", "x", "\x1b[2J[red]", "a\0b", "../../x", "\u202e\u200b",
    "\ud800", [], {}, [[]], {"x": {}}, ["x"], [None],
)  # fmt: skip
RAW = ("NaN", "Infinity", "1e999", "9" * 5000, "[" * 200 + "]" * 200)
_MARK = "@raw@"


def mutations(content: bytes, seed: int, number: int) -> Iterator[tuple[str, bytes]]:
    """Yield ``number`` damaged forms of a text file, each with a word on how; then those that every file is given."""
    draw = random.Random(seed)
    yield from whole(content)
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    for _ in range(number):
        if value is not None and draw.random() < 0.8:
            yield _in_json(value, draw)
        else:
            yield _in_bytes(content, draw)


def whole(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what may be there in place of any text file."""
    half = content[: len(content) // 2]
    yield from {
        "empty": b"", "null": b"null", "a list": b"[]", "a number": b"1", "an object": b"{}", "a string": b'"x"',
        "deep": DEEP.encode(), "digits": b"9" * 5000, "binary": b"\xff\xfe\x00", "zeros": bytes(100), "half": half,
        "twice": content + content, "BOM": b"\xef\xbb\xbf" + content,
    }.items()  # fmt: skip


def _in_bytes(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    at = draw.randrange(max(1, len(content)))
    new = draw.choice([b"", b"\x00", b"\x1b", b"\xff", b"9", b",", b'"', b"\n", b"x", b"-", b"{", b"1e999"])
    return f"byte {at} {new!r}", content[:at] + new + content[at + 1 :]


def _in_json(value: Any, draw: random.Random) -> tuple[str, bytes]:
    changed = copy.deepcopy(value)
    places = list(_places(changed))
    if not places:
        return "as it is", json.dumps(value).encode()
    parent, key = draw.choice(places)
    if draw.random() < 0.15:
        del parent[key]
        return f"without {key!r}", json.dumps(changed).encode()
    if isinstance(parent, dict) and draw.random() < 0.1:
        parent[draw.choice(["x", "../x", "\x1b[2J", ""])] = parent.pop(key)
        return f"{key!r} renamed", json.dumps(changed).encode()
    if draw.random() < 0.2:
        raw = draw.choice(RAW)
        parent[key] = _MARK
        return f"{key!r} = {raw[:9]}", json.dumps(changed).replace(f'"{_MARK}"', raw).encode()
    parent[key] = draw.choice(VALUES)
    return f"{key!r} = {str(parent[key])[:20]!a}", json.dumps(changed).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])
