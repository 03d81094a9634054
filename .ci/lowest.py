#!/usr/bin/env python3
"""Print constraints for pip that hold every direct dependency at its lower bound in pyproject.toml.

python .ci/lowest.py [EXTRA ...]

``name>=1.2,<3; marker`` becomes ``name==1.2; marker``, of what builds the package, of its dependencies, and of the
extras named.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)\s*(\[[^]]*\])?(?P<bounds>[^;]*)(?P<marker>;.*)?")
LOWER = re.compile(r"(?:>=|==|~=)\s*(?P<version>[\w.]+)")


def requirements(project: dict[str, Any], extras: Iterable[str]) -> list[str]:
    """Collect what builds the package, what it depends on, and what ``extras`` add."""
    optional = project["project"]["optional-dependencies"]
    listed = [project["build-system"]["requires"], project["project"]["dependencies"], *(optional[e] for e in extras)]
    return [requirement for requirements in listed for requirement in requirements]


def lowest(requirement: str) -> tuple[str, str]:
    """Split a requirement into what it is for, and the constraint that holds it at its lower bound.

    Raises:
        ValueError: It has no lower bound.
    """
    parts = REQUIREMENT.fullmatch(requirement.strip())
    bound = parts and LOWER.search(parts["bounds"])
    if not parts or not bound:
        raise ValueError(f"pyproject.toml: {requirement!r} has no lower bound")
    name, marker = re.sub(r"[-_.]+", "-", parts["name"]).lower(), parts["marker"] or ""
    return name + marker, f"{name}=={bound['version']}{marker}"


def constraints(requirements: Iterable[str]) -> list[str]:
    """Hold each of ``requirements`` at its lower bound.

    Raises:
        ValueError: One has no lower bound, or two of them have different ones for the same package.
    """
    found: dict[str, str] = {}
    for requirement in requirements:
        subject, constraint = lowest(requirement)
        if found.setdefault(subject, constraint) != constraint:
            raise ValueError(f"pyproject.toml: two lower bounds, {found[subject]} and {constraint}")
    return sorted(found.values())


def main(extras: Sequence[str]) -> None:
    """Print the constraints for the package and ``extras``."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))
    try:
        lines = constraints(requirements(project, extras))
    except ValueError as error:
        sys.exit(str(error))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
