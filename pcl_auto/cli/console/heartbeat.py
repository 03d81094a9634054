"""Print a line now and then while work is silent, where no bar shows that it goes on."""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING

from pcl_auto.recipe.time_budget import format_duration

if TYPE_CHECKING:
    from pcl_auto.cli.console.terminal import Terminal

SECONDS = 30.0


class Heartbeat:
    """Say every 30 seconds what a command is at, unless something else was printed; nothing on a terminal.

    A thread does it, since some work tells nothing before it is done.
    """

    def __init__(self, terminal: Terminal, doing: str) -> None:
        self.doing = doing
        self._terminal = terminal
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Heartbeat:
        """Begin to watch."""
        if self._terminal.is_interactive and not self._terminal.err.is_terminal:
            self._thread = threading.Thread(target=self._watch, args=(monotonic(),), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        """End it."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, began: float) -> None:
        while not self._end.wait(max(0.0, SECONDS - self._terminal.silent_s)):
            if self._terminal.silent_s >= SECONDS:
                self._terminal.print_line(f"… {self.doing}, for {format_duration(monotonic() - began)} by now")
