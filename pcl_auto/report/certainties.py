"""How certain the finished network is of scans without a label, as the training has left it on file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from pcl_auto.method.quality import LEAST_REFERENCES, REVIEW_SHARE
from pcl_auto.nnunet.quality import REFERENCE
from pcl_auto.run.files import read_json


@dataclass(frozen=True)
class Certainties:
    """Certainties of unlabelled scans: ``values`` in ascending order, and ``cases``, which an older file lacks."""

    file: Path
    values: list[float] = field(default_factory=list)
    cases: Mapping[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Of all values."""
        return median(self.values)

    @property
    def review(self) -> float | None:
        """The highest value that still calls for review; None where too few scans were looked at to judge by them."""
        if len(self.values) < LEAST_REFERENCES:
            return None
        return max(value for place, value in enumerate(self.values) if place / len(self.values) < REVIEW_SHARE)


def read_certainties(run: Path) -> Certainties:
    """Those of the run in folder ``run``; none where its training has left none."""
    file = run / REFERENCE
    found = read_json(file) if file.is_file() else {"certainties": []}
    return Certainties(file, sorted(map(float, found["certainties"])), found.get("cases", {}))
