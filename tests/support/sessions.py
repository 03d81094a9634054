"""Trainings in a session of their own, and what of one is left when it has ended."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def command(workspace: Path) -> list[str]:
    """Return the arguments of the training that is ended."""
    return ["train", "--workspace", str(workspace), "--recipe", "tiny.toml", "--device", "cpu", "--workers", "1"]


def processes_of_session(session: int) -> list[str]:
    """Return the processes of a session that still run (Linux; none elsewhere)."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # pid (name) state parent group session
            state, _, _, its_session = file.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                found.append(file.parent.name)
    return found
