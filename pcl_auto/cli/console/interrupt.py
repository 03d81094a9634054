"""End a verb in order at the first Ctrl-C or SIGTERM, and at once at the second."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pcl_auto.cli.console.terminal import Terminal


class Terminated(KeyboardInterrupt):
    """SIGTERM, as batch systems send it before they kill. Whatever cleans up after Ctrl-C cleans up after it."""


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Return 128 and the signal's number, as shells have it."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


_received: list[int] = []


def terminated() -> bool:
    """Return True if it was SIGTERM that ended the verb."""
    return signal.SIGTERM in _received


def end_in_order() -> None:
    """Let SIGTERM end a verb as Ctrl-C does, and a second signal of either kind at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell makes jobs in the background deaf to Ctrl-C: they stay so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise_once)


def _raise_once(number: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(each) is _raise_once:
            signal.signal(each, signal.SIG_DFL)
    _received.append(number)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def postponed() -> Iterator[None]:
    """Let a first signal take effect after what is done inside."""
    numbers = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) is _raise_once]
    received: list[int] = []
    for each in numbers:
        signal.signal(each, lambda number, _frame: received.append(number))
    try:
        yield
    finally:
        for each in numbers:
            signal.signal(each, _raise_once)
    if received:
        _raise_once(received[0], None)


@contextmanager
def resumable(terminal: Terminal) -> Iterator[None]:
    """Say how to go on when what is done inside is interrupted."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        command = [argument for argument in sys.argv[1:] if argument != "--restart"]
        terminal.print_line(f"interrupted; resume with: {shlex.join(['pclauto', *command])}")
        raise typer.Exit(exit_code(interrupt)) from None
