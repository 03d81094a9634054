"""F30, F31: a run killed anywhere and repeated ends like one that nobody killed."""

from __future__ import annotations

import pytest
from kills import kill_everything


@pytest.mark.slow
def test_f30_f31_f88_killed_commands_end_like_unbroken_ones() -> None:
    # The long form, with the commands that take longer, is `make soak`.
    account = kill_everything(kills=1, stride=300, seed=0, only=["plan", "train", "predict", "download"])
    assert account.wrong == []
    assert account.kills >= 4
