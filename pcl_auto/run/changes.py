"""What is on record must be what is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pcl_auto.errors import Problem, StateError
from pcl_auto.run.events import Listener


def refuse_changes(
    recorded: dict[str, Any],
    wanted: dict[str, Any],
    folder: Path,
    fix: str = "repeat the settings it was started with, or start over with --restart",
    *,
    code: str = "run.settings-changed",
) -> None:
    """Make sure that a run folder holds the run that is wanted.

    Raises:
        StateError: every setting that differs, with both values.
    """
    problems = [
        Problem(
            code=code,
            what=f"the run there has another {key}",
            where=str(folder),
            expected=before,
            found=now,
            fix=fix,
        )
        for key, before, now in _differences(recorded, wanted)
    ]
    if problems:
        raise StateError(problems)


def compare_versions(
    before: dict[str, str], now: dict[str, str], folder: Path, *, deterministic: bool, listener: Listener
) -> None:
    """Tell ``listener`` of packages that the run in ``folder`` goes on with in other versions.

    Raises:
        StateError: the run is deterministic, which other versions may not keep.
    """
    if deterministic:
        fix = "install the versions it was started with, or start over with --restart"
        refuse_changes(before, now, folder, fix, code="run.versions-changed")
    changed = {name: (before.get(name), version) for name, version in now.items() if before.get(name) != version}
    if changed:
        listener("versions", changed)


def _differences(before: Any, now: Any, path: str = "") -> list[tuple[str, str, str]]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for key in sorted({*before, *now})
            for difference in _differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if before == now else [(path, str(before), str(now))]
