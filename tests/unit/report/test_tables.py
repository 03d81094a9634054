from __future__ import annotations

from pathlib import Path

import pytest

from pcl_auto.report.tables import ledger_rows
from pcl_auto.training.run_facts import Round

ODD = "core has 9 ml, expected 1 to 8"
KEPT = "kept as one of the best: outside the labeled range"


@pytest.mark.parametrize(
    ("used", "remarks", "unused", "shown"),
    [
        ("1", "", "", ("1", "")),
        ("1", ODD, "", ("1", f"used although {ODD}")),
        ("1", f"{ODD}; {KEPT}", "", ("1", f"{ODD}; {KEPT}")),
        ("0", f"{ODD}; dropped: outside", "", ("0", f"{ODD}; dropped: outside")),
        ("1", ODD, "rolled back", ("0", f"rolled back; {ODD}")),
        ("0", "dropped: outside", "rolled back", ("0", "dropped: outside")),
    ],
)
def test_a_row_says_whether_it_was_used_and_why(used: str, remarks: str, unused: str, shown: tuple[str, str]) -> None:
    entry = Round(1, Path("ledger.csv"), [{"case": "a", "volume_ml_core": "9", "used": used, "remarks": remarks}])
    (row,) = ledger_rows(entry, unused)
    assert (row["used"], row["remarks"]) == shown
    assert list(row)[:3] == ["case", "used", "remarks"]
