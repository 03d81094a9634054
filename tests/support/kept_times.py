"""Other bytes under an old time, as ``cp -p`` and ``touch -r`` leave them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def keeping_times(file: Path, change: Callable[[Path], object]) -> None:
    """Let ``change`` write a file, and give it back the time that it had."""
    before = file.stat()
    change(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip_bit(file: Path, at: float = 0.7) -> None:
    """Flip a bit of a file at a part of its length."""
    content = bytearray(file.read_bytes())
    content[int(len(content) * at)] ^= 4
    file.write_bytes(content)


def exchange(first: Path, second: Path) -> None:
    """Let two files change their places, each with its times."""
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
