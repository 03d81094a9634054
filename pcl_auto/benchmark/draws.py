"""Draw the labeled cases of a benchmark's runs: the same for every arm, and together showing every class.

Which classes a case shows is in its label. A benchmark may look: it knows the labels that its trainings keep closed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pcl_auto.data.formats.nifti import probe_label
from pcl_auto.data.labels import all_values, foreground, values_of
from pcl_auto.data.split import Split, choose_split, draw_split, order_of_draw
from pcl_auto.errors import DataError, Problem, UsageError
from pcl_auto.planning.plan import Plan


def draw_labeled(
    plan: Plan, kept_out: Collection[str], *, labeled: int | None, draw: int, every_class: bool = True
) -> Split:
    """Return the split of a draw: its labeled cases, and all others but ``kept_out`` without their labels.

    Args:
        plan: of the data set.
        kept_out: cases that the benchmark scores on, neither labeled nor unlabeled in any run.
        labeled: how many; None for all.
        draw: its number, which is the seed.
        every_class: draw cases that show every class together, as far as that is possible with so few.

    Raises:
        UsageError: fewer labels than asked for, or than it takes to show every class.
        DataError: a label that cannot be read.
    """
    pool = [case for case in plan.cases.values() if case.id not in kept_out]
    with_label, without_label = ([case.id for case in pool if (case.label is not None) is has] for has in (True, False))
    split = draw_split(with_label, without_label, labeled=labeled, seed=draw)
    if every_class and labeled is not None:
        classes = {*foreground(plan.dataset_json["labels"])}
        order = show_every_class(order_of_draw(with_label, draw), lambda case: _shown(plan, case), classes)
        if labeled < len(order) and {*order[:labeled]} != {*split.labeled}:
            name = f"L{labeled}_s{draw}_every_class"
            split = choose_split(with_label, without_label, labeled=order[:labeled], seed=draw, name=name)
        _refuse_missing(plan, split)
    return replace(split, name=f"{split.name}_H{len(kept_out)}") if kept_out else split


def show_every_class(
    order: Sequence[str], shown: Callable[[str], Collection[str]], classes: Collection[str]
) -> list[str]:
    """Move cases to the front of ``order`` until they show all ``classes`` together.

    One after the other, that which shows the most of the missing classes; of equal ones the first. A case is asked for
    what it shows only if none before it shows all that is missing. So fewer labeled cases are a part of more.

    Raises:
        UsageError: no case shows some of the classes.
    """
    front: list[str] = []
    missing = set(classes)
    while missing:
        best, found = "", 0
        for case in order:
            new = len(missing & {*shown(case)})
            if case not in front and new > found:
                best, found = case, new
            if found == len(missing):
                break
        if not found:
            what, fix = f"no labeled case shows {', '.join(sorted(missing))}", "draw any cases: --any-cases"
            raise UsageError(Problem("benchmark.class-never-shown", what, "--labeled", fix))
        front.append(best)
        missing -= {*shown(best)}
    return [*front, *(case for case in order if case not in front)]


def _refuse_missing(plan: Plan, split: Split) -> None:
    shown = {name for case in split.labeled for name in _shown(plan, case)}
    if missing := {*foreground(plan.dataset_json["labels"])} - shown:
        what = f"{len(split.labeled)} labeled cases cannot show every class: {', '.join(sorted(missing))} is missing"
        fix = "ask for more, or draw any cases: --any-cases"
        raise UsageError(Problem("benchmark.too-few-for-every-class", what, "--labeled", fix))


def _shown(plan: Plan, case: str) -> frozenset[str]:
    label = plan.cases[case].label
    values = frozenset() if label is None else values_in(label, tuple(all_values(plan.dataset_json["labels"])))
    return frozenset(
        name for name, value in foreground(plan.dataset_json["labels"]).items() if values & {*values_of(value)}
    )


@lru_cache(maxsize=4096)
def values_in(label: Path, allowed: tuple[int, ...]) -> frozenset[int]:
    """Return the values that a label shows, which is read to its end.

    Raises:
        DataError: it is damaged, or no label map of the ``allowed`` values.
    """
    volume, problems = probe_label(label, allowed)
    if problems or volume is None:
        raise DataError(problems)
    return frozenset(value for value, voxels in (volume.label_values or {}).items() if voxels)
