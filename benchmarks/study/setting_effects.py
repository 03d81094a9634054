"""Find what a single setting changes: pairs of arms whose recipes differ in it alone, over the draws that both have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from study_list import StudyList
from study_rows import RunRows

from pcl_auto.benchmark.arms import Arm
from pcl_auto.evaluation.statistics import Comparison, compare_arms
from pcl_auto.recipe.catalog import Setting, all_settings


@dataclass(frozen=True)
class Effect:
    """Change of Dice on one data set when ``setting`` goes from the value of one arm to that of another."""

    setting: Setting
    arms: tuple[str, str]
    values: tuple[Any, Any]
    dataset: str
    labels: str
    found: Comparison


def find_effects(runs: Sequence[RunRows], listed: StudyList, order: Sequence[str]) -> list[Effect]:
    """Compare every two arms that differ in one setting, on development scans, setting by setting.

    Args:
        runs: of recipes as they are now.
        listed: the study.
        order: names of arms; of two arms the first is what the other one is compared with.
    """
    arms = listed.current_arms()
    scores: dict[tuple[str, str], dict[str, dict[int, Mapping[str, float]]]] = defaultdict(lambda: defaultdict(dict))
    for entry in runs:
        if entry.run.scans == "development":
            scores[entry.run.dataset, entry.run.labels][entry.run.arm][entry.run.draw] = entry.dice
    effects = []
    for (dataset, labels), by_arm in scores.items():
        for before, after in combinations(sorted(by_arm, key=order.index), 2):
            setting = single_difference(arms[dataset, before], arms[dataset, after])
            found = compare_arms({after: by_arm[after]}, by_arm[before])
            if setting is not None and found:
                first, second = (setting.value_in(arms[dataset, name].recipe) for name in (before, after))
                effects.append(Effect(setting, (before, after), (first, second), dataset, labels, found[after]))
    settings, datasets = all_settings(), list(listed.datasets)
    return sorted(
        effects,
        key=lambda each: (settings.index(each.setting), datasets.index(each.dataset), each.labels),
    )


def single_difference(one: Arm, other: Arm) -> Setting | None:
    """Return the setting in which the recipes of two arms differ, None if it is none or not the only one."""
    differing = [
        setting
        for setting in all_settings()
        if setting.table and setting.value_in(one.recipe) != setting.value_in(other.recipe)
    ]
    alike = (one.baseline, one.all_labels) == (other.baseline, other.all_labels)
    return differing[0] if alike and len(differing) == 1 else None
