"""A data set: its channels, its classes, and its cases with their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pcl_auto.data.labels import Labels

Source = Literal["training", "imagesTr", "imagesUn", "imagesTs"]


@dataclass(frozen=True)
class Case:
    """One image, with its label or without; ``source`` is where the case was found.

    ``further`` holds the files of the channels after the first, where each channel has a file of its own.
    """

    id: str
    image: Path
    label: Path | None
    source: Source
    further: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the image: one, or one per channel."""
        return (self.image, *self.further)


@dataclass(frozen=True)
class Task:
    """A data set: channels in the order of their numbers, classes or regions with their values, cases by name.

    ``cases`` is the training pool, labeled and unlabeled; ``test`` is what ``test`` and ``imagesTs`` hold,
    never with a label. The paths lie in ``root``, whose links are resolved. ``passed_over`` lies in the folders of
    images and labels, and is neither.
    """

    root: Path
    name: str
    number: int | None
    channels: tuple[str, ...]
    labels: Labels
    cases: tuple[Case, ...]
    test: tuple[Case, ...]
    regions_class_order: tuple[int, ...] | None = None
    passed_over: tuple[Path, ...] = ()

    @property
    def labeled(self) -> tuple[Case, ...]:
        """The cases of the pool that have a label."""
        return tuple(case for case in self.cases if case.label is not None)

    @property
    def unlabeled(self) -> tuple[Case, ...]:
        """The cases of the pool that have none."""
        return tuple(case for case in self.cases if case.label is None)


def by_id(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Sort cases by name."""
    return tuple(sorted(cases, key=lambda case: (case.id, case.image)))
