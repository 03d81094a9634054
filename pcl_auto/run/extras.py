"""Packages that only some settings need."""

from __future__ import annotations

from importlib.util import find_spec

from pcl_auto.errors import Problem, UsageError


def require(module: str, extra: str, setting: str) -> None:
    """Make sure that a module is installed, before hours are spent on what needs it.

    Args:
        module: as it is imported.
        extra: of this package, that installs it.
        setting: of the recipe, that needs it.

    Raises:
        UsageError: it is not installed.
    """
    if find_spec(module) is None:
        raise UsageError(
            Problem(
                code="run.package-missing",
                what=f"the package {module} is not installed",
                where=setting,
                fix=f"pip install 'pclauto[{extra}]', or do without {setting}",
            )
        )
