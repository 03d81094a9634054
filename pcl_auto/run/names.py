"""Names of files, cases and classes, which anyone may have chosen, where they are shown or written."""

from __future__ import annotations

import json
import re
from typing import Any

# Of what JSON leaves as it is: controls of a terminal, changes of the direction of text, halves of characters.
_STEERING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    """``text`` without control characters: a file name must not steer the terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def json_text(value: Any, **options: Any) -> str:
    """``value`` as JSON, readable in every language, steering no terminal; ``options`` are those of json.dumps."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def table_cell(text: str) -> str:
    """``text`` for a CSV file: what a spreadsheet would compute is marked as text."""
    return ("'" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else "") + printable(text)
