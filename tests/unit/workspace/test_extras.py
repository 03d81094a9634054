"""Packages that only some settings need."""

from __future__ import annotations

from refusal import refused

from pcl_auto.errors import UsageError
from pcl_auto.workspace.system import require


def test_a_missing_package_is_refused_with_the_way_to_get_it() -> None:
    with refused(UsageError, "run.package-missing") as refusal:
        require("no_such_module", "crf", "pseudo_labels.crf")
    assert "no_such_module" in refusal.problem.what
    problem = refusal.problem
    assert problem.where == "pseudo_labels.crf"
    assert "pip install 'pclauto[crf]'" in problem.fix


def test_a_package_that_is_there_is_enough() -> None:
    require("numpy", "crf", "pseudo_labels.crf")
