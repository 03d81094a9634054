"""F30, F31: a run killed anywhere and repeated ends like one that nobody killed."""

from __future__ import annotations

import re

import pytest
from shared import SUPPORT
from shell import Shell


@pytest.mark.slow
def test_f30_f31_killed_commands_end_like_unbroken_ones(shell: Shell) -> None:
    # The long form is `make soak`.
    done = shell.python(SUPPORT / "kills.py", "--kills", 3, "--stride", 45)
    assert done.returncode == 0, done.stdout + done.stderr
    (kills,) = re.findall(r"^(\d+) kills, \d+ commands", done.stdout, re.MULTILINE)
    assert int(kills) >= 3 + 3 + 3 + 3
