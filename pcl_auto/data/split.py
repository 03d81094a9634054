"""Splits: which cases a run may learn from, and how; drawn before anything is trained."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pcl_auto.errors import Problem, StateError, UsageError
from pcl_auto.workspace.files import read_json
from pcl_auto.workspace.shapes import SPLIT

SCHEMA_VERSION = 1
_PLAIN_NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]{1,250}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GROUPS = ("labeled", "validation", "unlabeled", "hidden")


@dataclass(frozen=True)
class Correction:
    """A pseudo-label that was corrected by hand and is used as the case's label.

    ``mask``: SHA-256 of the corrected mask. ``model``: whose pseudo-label it was, of round ``round``. Names and mask
    become parts of paths.

    Raises:
        ValueError: a field is nothing of the kind.
    """

    case: str
    mask: str
    split: str
    model: str
    round: int

    def __post_init__(self) -> None:
        names = (self.case, self.split, self.model)
        if not all(isinstance(name, str) and _PLAIN_NAME.fullmatch(name) for name in names):
            raise ValueError(f"a correction's case, split and model are plain names, not {names}")
        if not (isinstance(self.mask, str) and _SHA256.fullmatch(self.mask)):
            raise ValueError(f"the mask of a correction is a SHA-256, not {self.mask!r}")
        if type(self.round) is not int:
            raise ValueError(f"the round of a correction is a number, not {self.round!r}")


@dataclass(frozen=True)
class Split:
    """The cases of a run, grouped by what may be read of them.

    ``labeled``: image and label. ``validation``: image and label, never trained on. ``unlabeled``: the image alone;
    ``hidden`` names those among them that have a label which this split must not open.
    """

    name: str
    seed: int
    labeled: tuple[str, ...]
    validation: tuple[str, ...]
    unlabeled: tuple[str, ...]
    hidden: tuple[str, ...]
    # Corrections in the order they were made; of one case the last one counts.
    history: tuple[Correction, ...] = ()

    @property
    def corrected(self) -> dict[str, str]:
        """The masks (SHA-256) that are used as labels, by case."""
        return {entry.case: entry.mask for entry in self.history}

    def refuse_closed_labels(self, cases: Iterable[str]) -> None:
        """Make sure that the split opens the label of every case whose label is about to be read.

        Raises:
            ValueError: a case is neither labeled nor for validation; its label, should it have one, is hidden.
        """
        if closed := set(cases) - {*self.labeled, *self.validation}:
            raise ValueError(f"split {self.name} keeps the labels of these cases closed: {sorted(closed)}")

    def as_dict(self) -> dict[str, Any]:
        """Return the split as plain values, which :func:`from_dict` reads."""
        groups = {group: list(getattr(self, group)) for group in _GROUPS}
        history = {"history": [asdict(entry) for entry in self.history]} if self.history else {}
        return {"schema_version": SCHEMA_VERSION, "name": self.name, "seed": self.seed, **groups, **history}


def from_dict(values: dict[str, Any]) -> Split:
    """Return the split that :meth:`Split.as_dict` wrote.

    Raises:
        StateError: they are no split.
    """
    try:
        history = tuple(Correction(**entry) for entry in values.get("history", ()))
        labeled, validation, unlabeled, hidden = (tuple(values[group]) for group in _GROUPS)
        return Split(values["name"], values["seed"], labeled, validation, unlabeled, hidden, history)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        fix = "restore the record of the split, or remove it and the runs made with it"
        where, found = "the record of a split", f"{type(error).__name__}: {error}"
        raise StateError(Problem("split.record-unreadable", "no split", where, fix, found=found)) from error


def read_split(file: Path) -> Split:
    """Read the record of a split.

    Raises:
        StateError: the file is missing or damaged.
    """
    return from_dict(read_json(file, SPLIT))


def with_corrections(split: Split, corrections: Sequence[Correction]) -> Split:
    """Move corrected cases to the labeled ones; the new name tells how many and which."""
    history = (*split.history, *corrections)
    latest = {entry.case: entry.mask for entry in history}
    root = split.name.split("_plus")[0]
    return replace(
        split,
        name=f"{root}_plus{len(latest)}_{_digest(*([case, mask] for case, mask in sorted(latest.items())))}",
        labeled=tuple(sorted({*split.labeled, *latest})),
        unlabeled=tuple(case for case in split.unlabeled if case not in latest),
        # Their own labels, where they have some, stay as closed as before: the corrections stand for them.
        hidden=tuple(case for case in split.hidden if case not in latest),
        history=history,
    )


def cross_validation(cases: Sequence[str], folds: int) -> list[tuple[list[str], list[str]]]:
    """Return the training and the held-out cases of every fold; the order of ``cases`` does not matter.

    Raises:
        UsageError: fewer than two folds, or more folds than cases.
    """
    if not 2 <= folds <= len(cases):
        what = f"no {folds} folds of {len(cases)} labeled cases"
        fix = "label more cases, or leave out --folds: one model learns from all of them"
        expected = f"2 to {len(cases)}" if len(cases) > 1 else "2 labeled cases or more"
        raise UsageError(Problem("split.fold-count", what, "--folds", fix, expected))
    shuffled = np.random.default_rng(folds).permutation(sorted(cases))
    held_out = [sorted(map(str, part)) for part in np.array_split(shuffled, folds)]
    return [([case for case in sorted(cases) if case not in part], part) for part in held_out]


def _digest(*groups: Iterable[str]) -> str:
    return hashlib.sha256("|".join(",".join(group) for group in groups).encode()).hexdigest()[:6]


def _seed_suffix(seed: int) -> str:
    """Return the part of a name for a seed that draws no case: runs of several seeds need different names."""
    return f"_s{seed}" if seed else ""


def order_of_draw(with_label: Iterable[str], seed: int) -> list[str]:
    """Order the cases that have a label, as a seed draws them: the same order however many are taken from it."""
    cases = sorted(with_label)
    return [cases[index] for index in np.random.default_rng(seed).permutation(len(cases))]


def draw_split(
    with_label: Sequence[str],
    without_label: Sequence[str],
    *,
    labeled: int | None,
    validation: int = 0,
    seed: int = 0,
) -> Split:
    """Draw ``labeled`` and ``validation`` cases among those with a label; all others become unlabeled.

    A seed orders the cases with labels; labeled cases are taken from the front and validation cases from the end. So
    a smaller number is a subset of a larger one, whatever the size of the other group, and adding unlabeled cases
    changes neither.

    Args:
        with_label: ids of cases that have a label.
        without_label: ids of cases that have none.
        labeled: how many labels to use; None for all that validation leaves.
        validation: how many labeled cases to hold out.
        seed: of the draw.

    Raises:
        UsageError: fewer labels than asked for.
    """
    order = order_of_draw(with_label, seed)
    count = len(order) - validation if labeled is None else labeled
    if count < 1 or validation < 0 or count + validation > len(order):
        where, expected = "--labeled and --validation", f"1 to {len(order)} together"
        found = f"{count} labeled and {validation} for validation"
        raise UsageError(
            Problem("split.too-few-labeled", "not enough labeled cases", where, "ask for fewer", expected, found)
        )
    suffix = f"_V{validation}" if validation else ""
    drawn = f"_s{seed}" if count + validation < len(order) or validation else f"_all{_seed_suffix(seed)}"
    held_out = order[len(order) - validation :]
    return _split(f"L{count}{suffix}{drawn}", seed, order[:count], held_out, with_label, without_label)


def choose_split(
    with_label: Sequence[str],
    without_label: Sequence[str],
    *,
    labeled: Sequence[str],
    validation: Sequence[str] = (),
    unlabeled: Sequence[str] | None = None,
    seed: int = 0,
    name: str | None = None,
) -> Split:
    """Make the split whose labeled and validation cases are named.

    Args:
        with_label: ids of cases that have a label.
        without_label: ids of cases that have none.
        labeled: to learn from, with their labels.
        validation: never trained on.
        unlabeled: to learn from without their labels; None for all others.
        seed: of the run.
        name: of the split; by default one that says which cases these are.

    Raises:
        UsageError: unknown cases, cases without a label, or a case in two groups or twice in one, all at once.
    """
    problems = []
    known, has_label = {*with_label, *without_label}, set(with_label)
    groups = {"labeled": labeled, "validation": validation, "unlabeled": unlabeled or ()}
    for group, ids in groups.items():
        where = f"the {group} cases"
        for case in dict.fromkeys(ids):
            if case not in known:
                problems.append(
                    Problem("split.unknown-case", f"no case called {case!r}", where, "name cases of this task")
                )
            elif case not in has_label and group != "unlabeled":
                what, fix = f"case {case!r} has no label", "name cases that have a label"
                problems.append(Problem("split.unlabeled-case", what, where, fix))
    for case, times in Counter(case for ids in groups.values() for case in ids).items():
        if times > 1:
            what, fix = f"case {case!r} is in the split more than once", "keep it in one group, once"
            found = ", ".join(group for group, ids in groups.items() for each in ids if each == case)
            problems.append(Problem("split.case-twice", what, "the split", fix, found=found))
    if not labeled:
        fix = "name at least one case that has a label"
        problems.append(Problem("split.no-labeled", "no labeled case", "the split", fix))
    if problems:
        raise UsageError(problems)
    suffix = f"_V{len(validation)}" if validation else ""
    chosen = [sorted(labeled), sorted(validation)]
    used = known if unlabeled is None else {*labeled, *validation, *unlabeled}
    if used != known:
        suffix += f"_U{len(used) - len(labeled) - len(validation)}"
        chosen.append(sorted(used - {*labeled, *validation}))
    name = name or f"L{len(labeled)}{suffix}_c{_digest(*chosen)}{_seed_suffix(seed)}"
    with_label, without_label = ([case for case in ids if case in used] for ids in (with_label, without_label))
    return _split(name, seed, labeled, validation, with_label, without_label)


def _split(
    name: str,
    seed: int,
    labeled: Iterable[str],
    validation: Iterable[str],
    with_label: Sequence[str],
    without_label: Sequence[str],
) -> Split:
    used = {*labeled, *validation}
    hidden = sorted(set(with_label) - used)
    return Split(
        name=name,
        seed=seed,
        labeled=tuple(sorted(set(labeled))),
        validation=tuple(sorted(set(validation))),
        unlabeled=tuple(sorted({*hidden, *without_label})),
        hidden=tuple(hidden),
    )
