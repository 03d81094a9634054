"""The pages that users read, and the commands that they show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
COMMANDS_PAGE = DOCS / "commands.md"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
# Of fenced blocks; those of other languages hold output, files or code.
_SHELL = {"", "sh", "bash"}
_INLINE = re.compile(r"`(pclauto [^`]+)`")


def block_lines(page: Path) -> Iterator[str]:
    """Yield the lines of shell in a page's code blocks, fenced or indented."""
    language = None
    for line in page.read_text(encoding="utf-8").splitlines():
        if fence := re.match(r" *```(\w*)", line):
            language = fence[1] if language is None else None
        elif language in _SHELL or (language is None and line.startswith("    ")):
            yield line.strip()


def block_commands(page: Path) -> list[list[str]]:
    """Return the arguments of every ``pclauto`` command in a page's code blocks, without the file it is written to."""
    commands = [line.partition(" > ")[0] for line in block_lines(page) if line.startswith("pclauto ")]
    return [shlex.split(command, comments=True)[1:] for command in commands]


def inline_commands(page: Path) -> list[list[str]]:
    """Return the words after ``pclauto`` in a page's inline code; there may be placeholders among them."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [words.split()[1:] for words in _INLINE.findall(text.replace("\n", " "))]


def make_targets(page: Path) -> set[str]:
    """Return the targets of make that a page names as commands."""
    lines = [*block_lines(page), *re.findall(r"`(make [^`]+)`", page.read_text(encoding="utf-8"))]
    return {found[1] for line in lines if (found := re.match(r"make ([a-z-]+)", line))}
