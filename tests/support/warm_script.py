"""A console script in a fork of a warm process: ``python warm_script.py ADDRESS NAME ARGUMENTS``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from warm import Command

LOAD = """
import sys
from importlib.metadata import entry_points
(script,) = entry_points(group="console_scripts", name=sys.argv[1])
del sys.argv[0]
sys.exit(script.load()())
"""

if __name__ == "__main__":
    address, *arguments = sys.argv[1:]
    sys.exit(
        Command(
            address, ["-c", LOAD, *arguments], cwd=Path.cwd(), env=os.environ, stdout=1, stderr=2, spawns=False
        ).wait()
    )
