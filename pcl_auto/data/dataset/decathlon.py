"""Data sets on disk: which cases there are, and which have a label."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pcl_auto.data.case import Case, Source, Task, by_id
from pcl_auto.data.dataset.dataset_json import RAW_FOLDER, Description, Entry, read_description
from pcl_auto.data.dataset.nnunet_raw import read_raw
from pcl_auto.data.dataset.safe_paths import DatasetRoot, shown
from pcl_auto.data.formats.suffixes import nifti_stem
from pcl_auto.errors import Problem, UsageError, format_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_TASK_FOLDER = re.compile(r"Task(\d{1,9})_(.+)", re.ASCII)
_SHORT_TASK = re.compile(r"(?:Task)?(\d{1,9})", re.ASCII)


def read_task(
    root: Path, *, use_test_images: bool = False, follow_links: bool = False
) -> tuple[Task | None, list[Problem]]:
    """Read a ``dataset.json``, a decathlon task's or nnU-Net's, and find its files, without opening one of them.

    Args:
        root: the folder that holds ``dataset.json``.
        use_test_images: take ``imagesTs`` into the pool, as unlabeled cases.
        follow_links: accept links that lead out of the folder.

    Returns:
        The task with every case that could be made out, or None if channels, classes or the list of cases
        cannot; and all problems. A task that comes with problems is good for further checks, not for training.
    """
    folder = DatasetRoot(root, follow_links=follow_links)
    index = folder.root / "dataset.json"
    if index.is_symlink() and not folder.accepts(index, "dataset.json"):
        return None, folder.problems
    description, problems = read_description(index)
    if description is None:
        return None, problems
    folder.problems += problems
    channels, labels, raw = description.channels, description.labels, description.raw
    if raw is not None:
        if channels is None or labels is None:
            return None, problems
        task = read_raw(folder, raw, channels, labels, use_test_images=use_test_images)
        order, passed_over = description.regions_class_order, tuple(folder.passed_over)
        return replace(task, regions_class_order=order, passed_over=passed_over), folder.problems
    cases, test = _Reader(folder).read(description, use_test_images=use_test_images)
    # A file can be met twice, in the list and in its folder; its problem is listed once.
    problems = list(dict.fromkeys(folder.problems))
    if channels is None or labels is None:
        return None, problems
    name, number = _parse_name(folder.given.name or folder.root.name)
    order, passed_over = description.regions_class_order, tuple(folder.passed_over)
    return Task(folder.root, name, number, channels, labels, cases, test, order, passed_over), problems


def find_task(name: str, folders: Sequence[Path]) -> Path:
    """Find the folder of the task that ``name`` means: a path, a folder's name, or "5", "Task05", "Prostate".

    Args:
        name: what the user typed; upper and lower case matter.
        folders: where to look for it, in this order; those that do not exist are passed over.

    Raises:
        UsageError: there is no such task, or a short form fits several.
    """
    direct = Path(name)
    if name and _holds_task(direct):
        return direct
    tasks = [task for folder in folders for task in _list_tasks(folder)]
    exact = [task for task in tasks if task.name == name]
    if exact:
        return exact[0]
    fitting = {os.path.realpath(task): task for task in tasks if name in _short_forms(task.name, name)}
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    places = ", ".join(dict.fromkeys(map(shown, folders))) or "no folder at all"
    if fitting:
        found = ", ".join(shown(task) for task in fitting.values())
        fix = "give the folder's full name or path"
        raise UsageError(Problem("data.task-ambiguous", f"{name!r} fits several tasks", places, fix, "one task", found))
    known = dict.fromkeys(task.name for task in tasks)
    titles = {_parse_name(folder)[0] for folder in known}
    near = difflib.get_close_matches(name, sorted({*known, *titles}), n=3, cutoff=0.5)
    found = f"similar names: {', '.join(near)}" if near else format_names(known) or "no tasks"
    if os.path.lexists(direct):
        found = f"{shown(direct)}, but no dataset.json in it"
    fix = "name a folder that holds a dataset.json, by its path or by its name in one of these folders"
    raise UsageError(
        Problem("data.unknown-task", f"no task {name!r}", places, fix, "a folder with a dataset.json", found)
    )


class _Reader:
    """Turns entries and folders into cases; the folder gets the problems."""

    def __init__(self, folder: DatasetRoot) -> None:
        self.folder = folder
        self.where = str(folder.root / "dataset.json")
        # Images that dataset.json names, also those whose entry was refused: they are not unlisted.
        self.claimed: set[Path] = set()

    def read(self, description: Description, *, use_test_images: bool) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
        """Return the pool and the test cases, each sorted by name."""
        training = self._listed(description.training, "training")
        test = self._listed(self._present(description.test, use_test_images=use_test_images), "imagesTs")
        test += self._unlisted("imagesTs")
        self.folder.refuse_test_images(training, test)
        pool = training + self._unlisted_unlabeled(training) + self._unlisted("imagesUn")
        if use_test_images:
            # An image that is both has been reported; here it would only be reported again.
            paths = {case.image for case in training}
            pool += [case for case in test if case.image not in paths]
        for cases, kind in ((pool, "the training cases"), (test, "the test cases")):
            self.folder.refuse_repeated_ids(cases, kind)
            self.folder.refuse_repeated_images(cases, kind)
        self.folder.refuse_shared_labels(training)
        self._refuse_foreign_labels(training, {case.id for case in (*pool, *test)})
        if not any(case.label for case in pool):
            found = f"{len(pool)} unlabeled cases" if pool else "no cases"
            fix = 'give at least one training entry a "label"'
            self.folder.report_problem("data.no-labeled", "no labeled case", self.where, fix, "1 or more", found)
        return by_id(pool), by_id(test)

    def _present(self, entries: Sequence[Entry], *, use_test_images: bool) -> list[Entry]:
        """Return the test entries to look for: many copies of a task lack ``imagesTs``, and training needs none."""
        if use_test_images or (self.folder.root / "imagesTs").exists():
            return list(entries)
        spelled = [(entry, self.folder.spell(entry.image, self._place(entry))) for entry in entries]
        return [entry for entry, path in spelled if path and path.parts[0] != "imagesTs"]

    def _listed(self, entries: Iterable[Entry], source: Source) -> list[Case]:
        found = (self._listed_case(entry, source) for entry in entries)
        return [case for case in found if case]

    def _listed_case(self, entry: Entry, source: Source) -> Case | None:
        image = self.folder.locate(entry.image, self._place(entry), "image")
        if image:
            self.claimed.add(image)
        label = None
        if entry.label and source == "training":
            label = self.folder.locate(entry.label, self._place(entry), "label")
            if label is None:
                return None
        return self._case(image, label, source) if image else None

    def _unlisted(self, source: Source) -> list[Case]:
        """Return the images of a folder that no entry names."""
        cases = []
        for path in self.folder.list_volumes(source, "image"):
            if path not in self.claimed:
                case = self._case(path, None, source) if self.folder.accepts(path, "image") else None
                cases += [case] if case else []
        return cases

    def _unlisted_unlabeled(self, training: list[Case]) -> list[Case]:
        """Return the images of ``imagesTr`` that no entry names, without those that ``labelsTr`` has a label for.

        What such a label means is unclear: it may be forgotten in the list, or be meant to stay hidden.
        """
        files = self.folder.list_volumes("labelsTr", "label")
        self.folder.refuse_twins(files, "label")
        listed = {case.label for case in training}
        labels = {nifti_stem(path.name): path for path in files if path not in listed}
        for case in training:
            labels.pop(case.id, None)
        cases = self._unlisted("imagesTr")
        what = "labelsTr holds a label that dataset.json does not list"
        fix = 'list the case under "training" in dataset.json, without "label" to use it as unlabeled'
        for case in cases:
            if case.id in labels:
                where, found = str(labels[case.id]), f"none for {case.id}"
                self.folder.report_problem("data.label-not-listed", what, where, fix, "a training entry", found)
        of_cases = {case.id for case in cases}
        self.folder.passed_over += [path for case, path in labels.items() if case not in of_cases]
        return [case for case in cases if case.id not in labels]

    def _case(self, image: Path, label: Path | None, source: Source) -> Case | None:
        name = nifti_stem(image.name) or ""
        is_safe = self.folder.accepts_case_id(name, shown(image.parent))
        return Case(name, image, label, source) if is_safe else None

    def _refuse_foreign_labels(self, training: list[Case], names: set[str]) -> None:
        """Refuse labels that are named after another case than the one that they are listed for."""
        for case in training:
            name = None if case.label is None else nifti_stem(case.label.name)
            if name != case.id and name in names:
                fix = "pair each image with its own label; or rename the label, if it is that of this image"
                what = "label is named after another case"
                self.folder.report_problem("label.of-other-case", what, self.where, fix, f"one called {case.id}", name)

    def _place(self, entry: Entry) -> str:
        return f"{self.where} ({entry.place})"


def _parse_name(folder: str) -> tuple[str, int | None]:
    match = _TASK_FOLDER.fullmatch(folder) or RAW_FOLDER.fullmatch(folder)
    return (match[2], int(match[1])) if match else (folder, None)


def _holds_task(folder: Path) -> bool:
    # os.path, because Path.is_file raises for folders without permission and for names that are too long.
    return os.path.isfile(folder / "dataset.json")  # noqa: PTH113


def _list_tasks(folder: Path) -> list[Path]:
    try:
        children = sorted(folder.iterdir())
    except OSError:
        return []  # the folders are a search path; the error of a fruitless search names them all
    return [child for child in children if _holds_task(child)]


def _short_forms(folder: str, name: str) -> tuple[str, ...]:
    """Return the short forms of a task's folder, the number written with as many zeros as in ``name``."""
    title, number = _parse_name(folder)
    if number is None:
        return ()
    asked = _SHORT_TASK.fullmatch(name)
    return (title, name) if asked and int(asked[1]) == number else (title,)
