"""Write results to stdout and everything else to stderr, both out of reach of nnU-Net's output."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from pcl_auto.cli.console.problems import describe_group, group_problems
from pcl_auto.errors import Problem
from pcl_auto.workspace.files import finite, json_text, printable
from pcl_auto.workspace.processes import started_rank

if TYPE_CHECKING:
    from rich.console import Console

MAX_PROBLEMS_SHOWN = 40
# Of what there is one of for each class: with hundreds of classes it would fill the screen.
MAX_OF_CLASSES_SHOWN = 20
# The first words of a message, and how a terminal that has colors shows them.
WORDS = {"error": "bold red", "warning": "yellow", "next": "cyan"}
# A path, or a command.
COPIED = re.compile(r"\S{30}|pclauto ")
Outcome = TypeVar("Outcome")


class _Lasting(io.TextIOWrapper):
    """A stream whose reader may go away, as `head` does: what is written then is lost, and the work goes on."""

    def write(self, text: str) -> int:
        """Write ``text``."""
        return self._lasting(lambda: super(_Lasting, self).write(text))

    def flush(self) -> None:
        """Write what is held back."""
        self._lasting(lambda: super(_Lasting, self).flush())

    def _lasting(self, action: Callable[[], Outcome]) -> Outcome:
        try:
            return action()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return action()


def some_of(texts: Iterable[str], separator: str = "; ") -> str:
    """Join texts, one for each class or reason; of many the first ones, and how many more there are."""
    listed = list(texts)
    if len(listed) > MAX_OF_CLASSES_SHOWN:
        listed[MAX_OF_CLASSES_SHOWN:] = [f"and {len(listed) - MAX_OF_CLASSES_SHOWN} more"]
    return separator.join(listed)


def _duplicate(descriptor: int, stream: TextIO) -> TextIO:
    """Open a stream to where ``descriptor`` leads now, whatever it is redirected to later."""
    try:
        raw = os.fdopen(os.dup(descriptor), "wb")
    except OSError:
        return stream
    return _Lasting(raw, encoding=stream.encoding or "utf-8", errors="backslashreplace", line_buffering=True)


def open_standard_files() -> None:
    """Open the standard files that the caller has closed (``>&-``) to nowhere.

    The next file that is opened would take the number of one of them, and what is printed would be written into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (as long as the process)


def _stays_whole(text: str, console: Console) -> bool:
    """Tell whether a line is left whole; what is to be copied is, and a terminal knows that it broke it."""
    return not console.is_terminal or COPIED.search(text) is not None


def _fitting(
    columns: Sequence[str], rows: Sequence[Sequence[str]], optional: Sequence[str], width: int, gap: int
) -> tuple[list[str], list[list[str]]]:
    """Leave ``optional`` columns out, in that order, until the table fits or none is left."""
    kept, left = list(range(len(columns))), list(optional)

    def needed() -> int:
        table = [[name.removeprefix(">") for name in columns], *rows]
        return sum(max(len(row[index]) for row in table) + gap for index in kept) - gap

    while left and needed() > width:
        name = left.pop(0)
        kept = [index for index in kept if columns[index].removeprefix(">") != name]
    return [columns[index] for index in kept], [[row[index] for index in kept] for row in rows]


class Terminal:
    """Print what a verb has to say; rich is imported when something is rendered, not before."""

    def __init__(self) -> None:
        self._out, self._err = _duplicate(1, sys.stdout), _duplicate(2, sys.stderr)
        if started_rank() > 0:  # one of several processes speaks; each says what is wrong with it
            self._out = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (as long as the process)
        self.is_interactive = started_rank() == 0
        self._printed_at = monotonic()

    @cached_property
    def out(self) -> Console:
        """Return the console of results."""
        from rich.console import Console

        return Console(file=self._out, highlight=False)

    @cached_property
    def err(self) -> Console:
        """Return the console of messages and progress."""
        from rich.console import Console

        return Console(file=self._err, highlight=False)

    def json(self, value: Any) -> None:
        """Write one JSON document to stdout; numbers that are none become null."""
        self._out.write(json_text(finite(value), indent=2, default=str, allow_nan=False) + "\n")
        self._out.flush()

    def print_text(self, text: str) -> None:
        """Write a whole text to stdout as it is; it has no control characters."""
        self._out.write(text)
        self._out.flush()

    def print_line(self, text: str) -> None:
        """Print a message as it is but for control characters: file names may hold what rich takes for markup."""
        if self.is_interactive:
            self._print(text)

    @property
    def silent_s(self) -> float:
        """Seconds since the last message."""
        return monotonic() - self._printed_at

    def _print(self, text: str) -> None:
        from rich.text import Text

        self._printed_at = monotonic()
        line = Text("\n".join(map(printable, text.split("\n"))))
        for word, style in WORDS.items():
            if text.startswith(f"{word}: "):
                line.stylize(style, 0, len(word) + 1)
        self.err.print(line, soft_wrap=_stays_whole(text, self.err))

    def print_result(self, text: str = "", *, style: str = "") -> None:
        """Print a line of the result on stdout, with no markup but ``style`` and no control characters."""
        self.out.print(printable(text), markup=False, soft_wrap=_stays_whole(text, self.out), style=style or None)

    def print_table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        title: str = "",
        gap: int = 2,
        bold_row: int | None = None,
        optional: Sequence[str] = (),
    ) -> None:
        """Print a table on stdout, every text as it is.

        Args:
            columns: their names; one that begins with ">" is set to the right and never broken into lines.
            rows: the cells of each row.
            title: above the table.
            gap: spaces between columns.
            bold_row: the index of a row to be set in bold.
            optional: columns that are left out, the first one first, where the table would be wider than the terminal.
        """
        from rich.table import Table
        from rich.text import Text

        columns, rows = _fitting(columns, [*rows], optional, self.out.width, gap)
        table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, gap, 0, 0))
        if title:
            table.title, table.title_justify = Text(printable(title)), "left"
        for name in columns:
            right = name.startswith(">")
            header = Text(printable(name.removeprefix(">")))
            table.add_column(header, justify="right" if right else "left", no_wrap=right, overflow="fold")
        for index, row in enumerate(rows):
            table.add_row(*(Text(printable(cell)) for cell in row), style="bold" if index == bold_row else None)
        self.out.print(table)

    def print_facts(self, facts: Iterable[tuple[str, str]], *, title: str = "") -> None:
        """Print names and their values in two columns on stdout, every text as it is."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, pad_edge=False)
        if title:
            table.title, table.title_justify = Text(printable(title), style="bold"), "left"
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in facts:
            table.add_row(Text(printable(name)), Text(printable(value)))
        self.out.print(table)

    def problems(self, problems: Iterable[Problem], word: str = "error") -> None:
        """Print problems, those of one kind in one line; where that leaves some out, say how many there are."""
        listed = list(problems)
        groups = group_problems(listed)
        shown = groups[:MAX_PROBLEMS_SHOWN] if self.err.is_terminal else groups
        for group in shown:
            self._print(f"{word}: {printable(describe_group(group))}")
        if 1 < len(groups) < len(listed):
            self._print(f"{word}: {len(listed)} in all; --json lists each")
        elif len(shown) < len(groups):
            self._print(f"{word}: and {len(groups) - len(shown)} more; --json lists each")
