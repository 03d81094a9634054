"""Packages that only some settings need."""

from __future__ import annotations

import pytest

from pcl_auto.errors import UsageError
from pcl_auto.run.extras import require


def test_a_missing_package_is_refused_with_the_way_to_get_it() -> None:
    with pytest.raises(UsageError, match="no_such_module is not installed") as caught:
        require("no_such_module", "crf", "pseudo_labels.crf")
    (problem,) = caught.value.problems
    assert problem.where == "pseudo_labels.crf"
    assert "pip install 'pclauto[crf]'" in problem.fix


def test_a_package_that_is_there_is_enough() -> None:
    require("numpy", "crf", "pseudo_labels.crf")
