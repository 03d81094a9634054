"""Data sets on disk: which cases there are, and which have a label."""

from __future__ import annotations

import difflib
import os
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pcl_auto.data.case import Case, Source, Task, by_id
from pcl_auto.data.dataset.dataset_json import Description, Entry, read_description
from pcl_auto.data.dataset.nnunet_raw import FOLDER, read_raw
from pcl_auto.data.dataset.safe_paths import DatasetRoot, refuse_case_id, shown
from pcl_auto.data.formats.suffixes import nifti_stem
from pcl_auto.errors import Problem, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_TASK_FOLDER = re.compile(r"Task(\d{1,9})_(.+)", re.ASCII)
_SHORT_TASK = re.compile(r"(?:Task)?(\d{1,9})", re.ASCII)
_LISTED_TASKS = 12
# Volumes in formats that are not read here; other files beside the images (notes, thumbnails) are no cases.

_FOREIGN = (".mha", ".mhd", ".nrrd", ".nhdr", ".dcm", ".img", ".hdr", ".mgz", ".mgh", ".nii.bz2", ".nii.zip")


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
    folder = DatasetRoot.at(root, follow_links=follow_links)
    index = folder.root / "dataset.json"
    if index.is_symlink():
        refusal = folder.refuse_target(index, "dataset.json")
        if refusal:
            return None, [refusal]
    description, problems = read_description(index)
    if description is None:
        return None, problems
    if description.raw is not None:
        if description.channels is None or description.labels is None:
            return None, problems
        raw, found = read_raw(
            folder, description.raw, description.channels, description.labels, use_test_images=use_test_images
        )
        return replace(raw, regions_class_order=description.regions_class_order), [*problems, *found]
    reader = _Reader(folder, str(index))
    cases, test = reader.read(description, use_test_images=use_test_images)
    # A file can be met twice, in the list and in its folder; what is wrong with it is said once.
    problems = list(dict.fromkeys([*problems, *reader.problems]))
    if description.channels is None or description.labels is None:
        return None, problems
    name, number = _parse_name(folder.given.name or folder.root.name)
    task = Task(folder.root, name, number, description.channels, description.labels, cases, test)
    return replace(task, regions_class_order=description.regions_class_order), problems


def find_task(name: str, folders: Sequence[Path]) -> Path:
    """The folder of the task that ``name`` means: a path, a folder's name, or "5", "Task05", "Prostate".

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
    near = difflib.get_close_matches(name, _all_names(tasks), n=3, cutoff=0.5)
    found = f"similar names: {', '.join(near)}" if near else _list_names(tasks)
    if os.path.lexists(direct):
        found = f"{shown(direct)}, but no dataset.json in it"
    fix = "name a folder that holds a dataset.json, by its path or by its name in one of these folders"
    raise UsageError(
        Problem("data.unknown-task", f"no task {name!r}", places, fix, "a folder with a dataset.json", found)
    )


@dataclass
class _Reader:
    """Turns entries and folders into cases, and collects what is wrong with them."""

    folder: DatasetRoot
    where: str
    problems: list[Problem] = field(default_factory=list)
    # Images that dataset.json names, also those whose entry was refused: they are not unlisted.
    claimed: set[Path] = field(default_factory=set)

    def read(self, description: Description, *, use_test_images: bool) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
        """The pool and the test cases, each sorted by name."""
        training = self._listed(description.training, "training")
        test = self._listed(self._present(description.test, use_test_images=use_test_images), "imagesTs")
        test += self._unlisted("imagesTs", "imagesTs")
        self._refuse_shared(training, test)
        pool = training + self._unlisted_unlabeled(training)
        pool += self._unlisted("imagesUn", "imagesUn")
        if use_test_images:
            # An image that is both has been reported; here it would only be reported again.
            paths = {case.image for case in training}
            pool += [case for case in test if case.image not in paths]
        self._refuse_repeated(pool, "the training cases")
        self._refuse_repeated(test, "the test cases")
        if not any(case.label for case in pool):
            found = f"{len(pool)} unlabeled cases" if pool else "no cases"
            fix = 'give at least one training entry a "label"'
            self.problems.append(Problem("data.no-labeled", "no labeled case", self.where, fix, "1 or more", found))
        return by_id(pool), by_id(test)

    def _present(self, entries: Sequence[Entry], *, use_test_images: bool) -> list[Entry]:
        """Test entries to look for: many copies of a task lack ``imagesTs``, and training needs none of it."""
        if use_test_images or (self.folder.root / "imagesTs").exists():
            return list(entries)
        spelled = [(entry, *self.folder.spell(entry.image, self._place(entry))) for entry in entries]
        self.problems += [refusal for _, _, refusal in spelled if refusal]
        return [entry for entry, path, _ in spelled if path and path.parts[0] != "imagesTs"]

    def _listed(self, entries: Iterable[Entry], source: Source) -> list[Case]:
        found = (self._listed_case(entry, source) for entry in entries)
        return [case for case in found if case]

    def _listed_case(self, entry: Entry, source: Source) -> Case | None:
        place = self._place(entry)
        image, refusal = self.folder.locate(entry.image, place, "image")
        if refusal:
            self.problems.append(refusal)
        label = None
        if entry.label and source == "training":
            label, refusal = self.folder.locate(entry.label, place, "label")
            if refusal:
                self.problems.append(refusal)
                if image:
                    self.claimed.add(image)
                return None
        if image is None:
            return None
        self.claimed.add(image)
        return self._case(image, label, source)

    def _unlisted(self, name: str, source: Source) -> list[Case]:
        """The images of a folder that no entry names."""
        files, problems = self.folder.list_files(name)
        self.problems += problems
        cases = []
        for path in files:
            if path in self.claimed:
                continue
            if nifti_stem(path.name) is None:
                if path.name.lower().endswith(_FOREIGN):
                    fix = "convert the file to NIfTI (.nii or .nii.gz), or take it out of this folder"
                    problem = Problem(
                        "data.not-named-nifti",
                        "image is not named as NIfTI",
                        shown(path),
                        fix,
                        ".nii or .nii.gz",
                        path.suffix,
                    )
                    self.problems.append(problem)
                continue
            refusal = self.folder.refuse_target(path, "image")
            case = None if refusal else self._case(path, None, source)
            if refusal:
                self.problems.append(refusal)
            if case:
                cases.append(case)
        return cases

    def _unlisted_unlabeled(self, training: list[Case]) -> list[Case]:
        """The images of ``imagesTr`` that no entry names, without those beside whose name a label lies.

        What such a label means is unclear: it may be forgotten in the list, or be meant to stay hidden.
        """
        files, problems = self.folder.list_files("labelsTr")
        self.problems += problems
        labels = {nifti_stem(path.name): path for path in files}
        for case in training:
            labels.pop(case.id, None)
        cases = self._unlisted("imagesTr", "imagesTr")
        what = "labelsTr holds a label that dataset.json does not list"
        fix = 'list the case under "training" in dataset.json, without "label" to use it as unlabeled'
        self.problems += [
            Problem("data.label-not-listed", what, str(labels[case.id]), fix, "a training entry", f"none for {case.id}")
            for case in cases
            if case.id in labels
        ]
        return [case for case in cases if case.id not in labels]

    def _case(self, image: Path, label: Path | None, source: Source) -> Case | None:
        name = nifti_stem(image.name) or ""
        refusal = refuse_case_id(name, shown(image.parent))
        if refusal:
            self.problems.append(refusal)
            return None
        return Case(name, image, label, source)

    def _refuse_shared(self, training: list[Case], test: list[Case]) -> None:
        """Training and test must not meet, not even through links to one file."""
        trained = {_identity(case.image): case for case in training}
        for case in test:
            twin = trained.get(_identity(case.image))
            if twin:
                fix = "take the image out of one of the two lists in dataset.json"
                found = f"{case.image} in test" if twin.image == case.image else f"the same file as {case.image}"
                self.problems.append(
                    Problem(
                        "data.train-and-test",
                        "image is in training and in test",
                        str(twin.image),
                        fix,
                        "one of the two",
                        found,
                    )
                )

    def _refuse_repeated(self, cases: list[Case], kind: str) -> None:
        names: dict[str, list[Case]] = defaultdict(list)
        files: dict[object, list[Case]] = defaultdict(list)
        for case in cases:
            # Names that differ in case only are one file where the file system ignores case.
            names[case.id.lower()].append(case)
            files[_identity(case.image)].append(case)
        for same in names.values():
            if len(same) > 1:
                fix = "list every case once, under a name of its own (upper and lower case are the same here)"
                found = ", ".join(f"{case.image} ({case.source})" for case in same)
                what = f"case name used twice among {kind}"
                self.problems.append(Problem("data.case-twice", what, self.where, fix, f"one {same[0].id}", found))
        for same in files.values():
            if len({case.id.lower() for case in same}) > 1:
                found = ", ".join(str(case.image) for case in same)
                fix = "keep one of the names: the others are links to the same file"
                what = f"one image under two names among {kind}"
                self.problems.append(Problem("data.image-twice", what, self.where, fix, "one case per image", found))

    def _place(self, entry: Entry) -> str:
        return f"{self.where} ({entry.place})"


def _identity(path: Path) -> object:
    """What tells one file from another, whatever links lead to it."""
    status = path.stat()
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _parse_name(folder: str) -> tuple[str, int | None]:
    match = _TASK_FOLDER.fullmatch(folder) or FOLDER.fullmatch(folder)
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
    """The short forms of a task's folder, the number written with as many zeros as in ``name``."""
    title, number = _parse_name(folder)
    if number is None:
        return ()
    asked = _SHORT_TASK.fullmatch(name)
    return (title, name) if asked and int(asked[1]) == number else (title,)


def _all_names(tasks: Iterable[Path]) -> list[str]:
    return sorted({name for task in tasks for name in (task.name, _parse_name(task.name)[0])})


def _list_names(tasks: Sequence[Path]) -> str:
    names = ", ".join(dict.fromkeys(task.name for task in tasks[:_LISTED_TASKS]))
    rest = len(tasks) - _LISTED_TASKS
    return (names + (f" and {rest} more" if rest > 0 else "")) or "no tasks"
