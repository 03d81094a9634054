"""Find classes that labels do not show: all labels of a data set together, or those that a training learns from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pcl_auto.data.labels import Labels, foreground, format_values, ignore_value, values_of
from pcl_auto.data.split import Split
from pcl_auto.errors import Problem, format_names

# Of a case: every value in its label with its voxels.
Counts = Mapping[int, int]


def empty_cases(counts: Mapping[str, Counts], labels: Labels) -> list[str]:
    """Return the cases whose labels show no class: background and ignored voxels alone."""
    nothing = (0, ignore_value(labels))
    return [case for case, own in counts.items() if not any(n and value not in nothing for value, n in own.items())]


def absent_classes(counts: Collection[Counts], labels: Labels) -> list[str]:
    """Return the classes and regions that no label shows, by value and name."""
    present = {value for own in counts for value, n in own.items() if n}
    return [
        f"{format_values(value)} ({name})"
        for name, value in foreground(labels).items()
        if present.isdisjoint(values_of(value))
    ]


def judge_split(
    split: Split, counts: Mapping[str, Counts], labels: Labels, parts: Sequence[Sequence[str]]
) -> tuple[list[Problem], list[Problem]]:
    """Judge what the labels of a split show, before anything is learned from them.

    Args:
        split: whose labeled and validation cases alone are looked at.
        counts: of these cases.
        labels: of the data set.
        parts: the labeled cases of each fold, where not all are learned from together.

    Returns:
        what keeps the split from being trained on, and warnings.
    """
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for role, cases in (("labeled", split.labeled), ("validation", split.validation)):
        own = {case: counts[case] for case in cases if case in counts}
        empty = empty_cases(own, labels)
        if own and len(empty) == len(own):
            problems.append(_nothing_shown(split, role, empty))
            continue
        if empty:
            what, fix = (
                f"{role} cases whose labels show no class",
                "nothing, if these scans show none; else restore them",
            )
            warnings.append(Problem("label.empty", what, f"split {split.name}", fix, found=format_names(empty)))
        warnings += [_absent(split, role, name) for name in absent_classes(list(own.values()), labels)] if own else []
    nothing_shown = set(empty_cases(counts, labels))
    of_folds = [_nothing_shown(split, "labeled", part) for part in parts if nothing_shown.issuperset(part)]
    return problems or of_folds, warnings


def _nothing_shown(split: Split, role: str, cases: Sequence[str]) -> Problem:
    """Describe labels of which none shows a class."""
    use = "there is nothing to learn from" if role == "labeled" else "no model can be chosen by them"
    what = f"no {role} case shows a class, so {use}"
    fix = f"choose other {role} cases, or restore their labels"
    found = f"background only in {format_names(cases)}"
    return Problem("split.no-class-shown", what, f"split {split.name}", fix, "voxels of the classes", found)


def _absent(split: Split, role: str, name: str) -> Problem:
    fix = "choose cases that show it: it cannot be learned"
    if role == "validation":
        fix = "choose cases that show it: its Dice is not defined"
    what = f"no {role} case shows class {name}"
    return Problem("label.class-absent", what, f"split {split.name}", fix, "1 voxel or more", "none")
