"""Results on stdout, everything else on stderr, both out of reach of nnU-Net's output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pcl_auto.errors import Problem
from pcl_auto.workspace.files import finite, json_text, printable
from pcl_auto.workspace.processes import started_rank

if TYPE_CHECKING:
    from rich.console import Console

MAX_PROBLEMS_SHOWN = 40


def _duplicate(descriptor: int, stream: TextIO) -> TextIO:
    """A stream to where ``descriptor`` leads now, whatever it is redirected to later."""
    try:
        return os.fdopen(os.dup(descriptor), "w", buffering=1, encoding=stream.encoding or "utf-8", errors="replace")
    except OSError:
        return stream


class Terminal:
    """Where a verb writes; rich is imported when something is rendered, not before."""

    def __init__(self) -> None:
        self._out, self._err = _duplicate(1, sys.stdout), _duplicate(2, sys.stderr)
        if started_rank() > 0:  # one of several processes speaks; each says what is wrong with it
            self._out = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (as long as the process)
        self.is_interactive = started_rank() == 0

    @cached_property
    def out(self) -> Console:
        """For results."""
        from rich.console import Console

        return Console(file=self._out, highlight=False)

    @cached_property
    def err(self) -> Console:
        """For messages and progress."""
        from rich.console import Console

        return Console(file=self._err, highlight=False)

    def json(self, value: Any) -> None:
        """One JSON document on stdout; numbers that are none become null."""
        self._out.write(json_text(finite(value), indent=2, default=str, allow_nan=False) + "\n")
        self._out.flush()

    def print_line(self, text: str) -> None:
        """A message, as it is but for control characters: file names may hold what rich takes for markup."""
        if self.is_interactive:
            self._print(text)

    def _print(self, text: str) -> None:
        self.err.print("\n".join(map(printable, text.split("\n"))), markup=False, soft_wrap=True)

    def problems(self, problems: Iterable[Problem], word: str = "error") -> None:
        """Every problem on a line of its own; on a terminal so many that the first ones stay in sight."""
        listed = list(problems)
        shown = listed[:MAX_PROBLEMS_SHOWN] if self.err.is_terminal else listed
        for problem in shown:
            self._print(f"{word}: {printable(str(problem))}")
        if len(shown) < len(listed):
            self.print_line(
                f"{word}: and {len(listed) - len(shown)} more; `2> FILE` behind the command keeps all of them"
            )


def cell(text: str) -> str:
    """``text`` for a table of rich, which takes some names for markup."""
    from rich.markup import escape

    return escape(printable(text))
