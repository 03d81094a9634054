"""F30, F31: a run killed anywhere and repeated ends like one that nobody killed."""

from __future__ import annotations

import re
from pathlib import Path

from shell import Shell


def test_f30_f31_killed_commands_end_like_unbroken_ones(shell: Shell) -> None:
    # The long form is `make soak`.
    done = shell.python(Path(__file__).with_name("kills.py"), "--kills", 5, "--stride", 45, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    (kills,) = re.findall(r"^(\d+) kills, \d+ commands", done.stdout, re.MULTILINE)
    assert int(kills) >= 5 + 3 + 3 + 3
