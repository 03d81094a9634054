"""Probe every file of a task before any work begins, and list all problems at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pcl_auto.data.checks.shown_classes import absent_classes, empty_cases
from pcl_auto.data.formats.nifti import Volume, compare_grids, probe_channels, probe_label
from pcl_auto.data.formats.suffixes import nifti_stem
from pcl_auto.data.formats.usable_voxels import FEW_VALUES
from pcl_auto.data.identity import FileState, Identity, identify
from pcl_auto.data.labels import Labels, all_values, ignore_value
from pcl_auto.errors import Problem, format_names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pcl_auto.data.case import Case, Task

# To be raised whenever probes judge differently, so that no earlier result is believed.
_SCHEMA = 4


@dataclass(frozen=True)
class _Record:
    """The result of probing one image or label, and what its files were at that time; None where they are not there."""

    path: Path
    identity: Identity | None
    volume: Volume | None
    problems: tuple[Problem, ...]
    # The values that were allowed, for labels: other values would give other problems.
    allowed: tuple[int, ...] | None = None

    def has_digest(self, digest: str) -> bool:
        return self.identity is not None and self.identity.digest == digest

    def as_dict(self) -> dict[str, Any]:
        values = self.volume.label_values if self.volume else None
        facts: dict[str, Any] = {
            "path": str(self.path),
            **(self.identity.as_dict() if self.identity else {}),
            "volume": self.volume.as_dict() if self.volume else None,
            "problems": [problem.as_dict() for problem in self.problems],
        }
        if self.allowed is not None:
            facts["allowed"] = list(self.allowed)
            facts["label_values"] = None if values is None else {str(value): n for value, n in values.items()}
        return facts

    @classmethod
    def from_dict(cls, path: Path, facts: Mapping[str, Any]) -> _Record:
        """Return the record of `as_dict`; raise KeyError, TypeError or ValueError if it is none."""
        allowed, values, volume = facts.get("allowed"), facts.get("label_values"), facts["volume"]
        counts = None if values is None else {int(value): int(number) for value, number in values.items()}
        return cls(
            path,
            Identity.recall(facts),
            None if volume is None else Volume.from_dict(path, volume, counts),
            tuple(Problem(**problem) for problem in facts["problems"]),
            None if allowed is None else tuple(map(int, allowed)),
        )


@dataclass(frozen=True)
class Checks:
    """The findings of `check_cases`.

    ``images`` maps case to image facts; it depends on the image files alone, never on a label, so that it stays the
    same whichever labels are hidden. A case whose image cannot be read is not in it.
    """

    images: dict[str, Volume]
    problems: list[Problem]
    warnings: list[Problem]
    _image_records: dict[str, _Record] = field(repr=False)
    _label_records: dict[str, _Record] = field(repr=False)

    def image_identity(self, case: str) -> Identity:
        """Return what the image of a case was when it was read."""
        identity = self._image_records[case].identity
        if identity is None:
            raise KeyError(case)
        return identity

    def has_image_of(self, case: str, facts: Any) -> bool:
        """Tell whether the image of ``case`` is that of ``facts``: by its digest, or without one by size and time."""
        return _is_same(self._image_records[case], facts)

    def has_label_of(self, case: str, facts: Any) -> bool:
        """Tell whether the label of ``case`` is the one of these facts, as :meth:`has_image_of` does."""
        return _is_same(self._label_records[case], facts)

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON and as ``known`` of a later `check_cases`.

        Only ``images`` is free of what labels hold; ``labels``, ``problems`` and ``warnings`` are not.
        """
        return {
            "schema": _SCHEMA,
            "images": {case: record.as_dict() for case, record in self._image_records.items()},
            "labels": {case: record.as_dict() for case, record in self._label_records.items()},
            "problems": [problem.as_dict() for problem in self.problems],
            "warnings": [problem.as_dict() for problem in self.warnings],
        }


def known_image(known: Mapping[str, Any] | None, case: str) -> Any:
    """Return what ``known`` (`Checks.as_dict`) says of the image of ``case``, for :func:`identify`."""
    return _known_section(known or {}, "images").get(case)


def image_facts(files: tuple[Path, ...], known: Any) -> Volume | None:
    """Return the facts of an image, or None where it cannot be read; one that is as it was is not read again.

    ``known``: what :func:`known_image` says of it.
    """
    return _probe(files, None, known).volume


def known_label(known: Mapping[str, Any] | None, case: str) -> Any:
    """Return what ``known`` (`Checks.as_dict`) says of the label of ``case``."""
    return _known_section(known or {}, "labels").get(case)


def _is_same(record: _Record, facts: Any) -> bool:
    identity = record.identity
    if identity is None or not isinstance(facts, Mapping):
        return False
    if facts.get("digest"):
        return bool(facts["digest"] == identity.digest)
    return (facts.get("size"), facts.get("mtime_ns")) == (identity.state.size, identity.state.mtime_ns)


def image_stats(*files: Path) -> dict[str, int]:
    """Return size in bytes and last change of an image's files, by which changed files are found.

    Raises:
        OSError: a file is not there.
    """
    found = [file.stat() for file in files]
    return {"size": sum(each.st_size for each in found), "mtime_ns": max(each.st_mtime_ns for each in found)}


def check_cases(
    task: Task,
    *,
    threads: int,
    known: Mapping[str, Any] | None = None,
    progress: Callable[[], None] | None = None,
) -> Checks:
    """Probe every image and label of the training pool, and compare what belongs together.

    Args:
        task: the task; its test cases are not looked at.
        threads: files read at once; each takes the memory of its volume.
        known: `Checks.as_dict` of an earlier call; files that have still the same bytes are not probed again.
        progress: called in this thread after every file.
    """
    allowed = tuple(all_values(task.labels))
    images, labels = _probe_all(task.cases, allowed, threads, known or {}, progress or (lambda: None))
    problems = [
        problem
        for case in task.cases
        for problem in _judge_case(case, images[case.id], labels.get(case.id), len(task.channels), task.labels)
    ]
    where = str(task.root)
    of_labels, of_classes = _judge_classes(task, labels)
    warnings = [
        *_passed_over(task),
        *_named_otherwise(task),
        *equal_labels(_label_contents(labels), where),
        *of_classes,
    ]
    warnings += _warn_of_two_places(images, labels, where)
    warnings += [*_channels_twice(images, where), *_like_labels(images, allowed, where)]
    readable = {case: record.volume for case, record in images.items() if record.volume is not None}
    problems += [*_images_that_are_labels(images, labels), *of_labels]
    return Checks(readable, problems, warnings, images, labels)


@dataclass(frozen=True)
class CheckedLabel:
    """A label as it was checked: the digest of its bytes, and the voxels of every value."""

    digest: str
    counts: dict[int, int]


def check_labels(
    cases: Collection[Case], labels: Labels, channels: int, *, threads: int, known: Mapping[str, Any] | None = None
) -> tuple[dict[str, CheckedLabel], list[Problem]]:
    """Check again, before they are used, labels and how they fit their images.

    Args:
        cases: whose labels are about to be read.
        labels: of the data set.
        channels: of its images.
        threads: as of `check_cases`.
        known: `Checks.as_dict` of `check_cases`; files that have still the same bytes are not probed again.

    Returns:
        what the label of each case is and holds, and all problems.
    """
    images, found = _probe_all(cases, tuple(all_values(labels)), threads, known or {}, lambda: None)
    problems = [
        each for case in cases for each in _judge_case(case, images[case.id], found.get(case.id), channels, labels)
    ]
    problems += _images_that_are_labels(images, found)
    checked = {
        case: CheckedLabel(record.identity.digest, (record.volume and record.volume.label_values) or {})
        for case, record in found.items()
        if record.identity
    }
    return checked, problems


def _probe_all(
    cases: Collection[Case],
    allowed: tuple[int, ...],
    threads: int,
    known: Mapping[str, Any],
    progress: Callable[[], None],
) -> tuple[dict[str, _Record], dict[str, _Record]]:
    """Return image and label records by case, in the order of ``cases``."""
    known_images, known_labels = (_known_section(known, name) for name in ("images", "labels"))
    with ThreadPoolExecutor(max(1, threads)) as pool:
        images = {case.id: pool.submit(_probe, case.files, None, known_images.get(case.id)) for case in cases}
        labels = {
            case.id: pool.submit(_probe, (case.label,), allowed, known_labels.get(case.id))
            for case in cases
            if case.label
        }
        try:
            for future in as_completed([*images.values(), *labels.values()]):
                future.result()
                progress()
        except BaseException:
            # Ctrl-C must not wait for hundreds of files that nobody wants any more.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    of_images, of_labels = ({case: done.result() for case, done in each.items()} for each in (images, labels))
    return of_images, of_labels


def _known_section(known: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = known.get(name) if known.get("schema") == _SCHEMA else None
    return section if isinstance(section, Mapping) else {}


def _probe(files: tuple[Path, ...], allowed: tuple[int, ...] | None, facts: Any) -> _Record:
    """Return the record in ``facts`` if the files have still the same bytes, else read them."""
    path = files[0]
    try:
        identity = identify(files, facts)
    except OSError:
        identity = None  # the probe says what is wrong
    earlier = _recall(path, facts)
    if earlier and identity and earlier.allowed == allowed and earlier.has_digest(identity.digest):
        return replace(earlier, identity=identity)
    volume, problems = probe_channels(files) if allowed is None else probe_label(path, allowed)
    if identity is not None and _state(files) != identity.state:
        fix = "wait until nothing writes it any more, and repeat the command"
        problems = [*problems, Problem("data.changed-meanwhile", "file changed while it was read", str(path), fix)]
    return _Record(path, identity, volume, tuple(problems), allowed)


def _state(files: Sequence[Path]) -> FileState | None:
    try:
        return FileState.of(files)
    except OSError:
        return None


def _recall(path: Path, facts: Any) -> _Record | None:
    if not isinstance(facts, Mapping) or facts.get("path") != str(path):
        return None
    try:
        return _Record.from_dict(path, facts)
    except (KeyError, TypeError, ValueError):
        return None  # a cache that makes no sense is no reason to stop: the file is there to be read


def _judge_case(case: Case, image: _Record, label: _Record | None, channels: int, labels: Labels) -> Iterator[Problem]:
    """Yield the problems of the files of one case, and of how they fit each other and the task."""
    yield from image.problems
    if label:
        yield from label.problems
        yield from ignored_everywhere(label.volume, labels)
    if image.volume is None:
        return
    where = str(case.image)
    found = image.volume.channels
    if found != channels:
        fix = "store all channels of a case in one file, along the fourth dimension, or correct dataset.json"
        what, expected = "wrong number of channels", f"{channels}, as in dataset.json"
        yield Problem("data.channel-count", what, where, fix, expected, str(found))
    # A channel of NaN alone has been reported for what it is.
    if not image.problems:
        yield from constant_channels(image.volume, f"{'a labeled' if case.label else 'an unlabeled'} case")
    if label and label.volume:
        yield from compare_grids(image.volume, label.volume)


def ignored_everywhere(label: Volume | None, labels: Labels) -> list[Problem]:
    """Return the problem of a label whose voxels are ignored, every one: it teaches nothing."""
    ignored = ignore_value(labels)
    if label is None or ignored is None or [*(label.label_values or ())] != [ignored]:
        return []
    fix = "restore the label, or take it out of the data set: without one the image can be learned from too"
    what, where = "every voxel of the label is ignored", str(label.path)
    return [Problem("label.ignored-everywhere", what, where, fix, "voxels that are labeled", f"{ignored} alone")]


def constant_channels(volume: Volume, whose: str) -> list[Problem]:
    """Return the problem of channels with one value, in which nothing is to be seen; ``whose`` they are, in words."""
    if not volume.constant_channels:
        return []
    named = "" if volume.channels == 1 else f" in channel {', '.join(map(str, volume.constant_channels))}"
    fix = "restore the image from its source, or take the case out of the data set"
    what, where = f"image of {whose} is constant{named}", str(volume.path)
    return [Problem("data.constant", what, where, fix, "more than one value", "one value")]


def _passed_over(task: Task) -> list[Problem]:
    """Warn of what lies among images and labels and is no case, in one line: perhaps it was meant to be one."""
    if not task.passed_over:
        return []
    fix = "nothing, if these are no scans and no labels of the data set"
    found = f"{len(task.passed_over)}: " + format_names(
        (str(path.relative_to(task.root)) for path in task.passed_over), limit=5
    )
    what, where = "files and folders passed over", str(task.root)
    return [Problem("data.passed-over", what, where, fix, "volumes .nii.gz or .nii of cases", found)]


def _named_otherwise(task: Task) -> list[Problem]:
    """Warn of labels that are not called as their images, in one line: each may have been drawn on another one."""
    pairs = [
        f"{case.id}: {case.label.name}"
        for case in task.labeled
        if case.label is not None and nifti_stem(case.label.name) != case.id
    ]
    if not pairs:
        return []
    what, fix = "labels are not named as their images", "nothing, if dataset.json pairs each image with its own label"
    found = f"{len(pairs)} of {len(task.labeled)}: {format_names(pairs, limit=3)}"
    return [Problem("label.other-name", what, str(task.root), fix, "one name for both", found)]


def _label_contents(labels: Mapping[str, _Record]) -> dict[str, str]:
    """Return a digest of what each label holds that is not empty."""
    return {
        case: record.volume.digest or (record.identity.digest if record.identity else case)
        for case, record in labels.items()
        if record.volume is not None and any(record.volume.label_values or ())  # a value that is not 0
    }


def _images_that_are_labels(images: Mapping[str, _Record], labels: Mapping[str, _Record]) -> list[Problem]:
    """Refuse images that are a label map, voxel by voxel, as when an editor has saved over the scan."""
    contents = {digest: case for case, digest in _label_contents(labels).items()}
    fix = "restore the image from its source"
    return [
        Problem("data.image-is-label", "the image is a label map", str(record.path), fix, "a scan", f"label of {label}")
        for record in images.values()
        for label in (contents.get(digest) for digest in _channel_digests(record))
        if label is not None
    ]


def _channels_twice(images: Mapping[str, _Record], where: str) -> list[Problem]:
    """Warn of channels that are alike, voxel by voxel, in one image or in two that differ otherwise."""
    owners: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for case, record in images.items():
        for channel, digest in enumerate(_channel_digests(record)):
            if record.volume is not None and channel not in record.volume.constant_channels:
                owners[digest].append((case, channel))
    found = [
        " = ".join(f"channel {channel} of {case}" for case, channel in same)
        for same in owners.values()
        if len(same) > len({case for case, _ in same}) or len({_channel_digests(images[case]) for case, _ in same}) > 1
    ]
    if not found:
        return []
    what, fix = "one channel stands for two", "look at their files: one may have been saved under the wrong name"
    return [Problem("data.channel-twice", what, where, fix, "every channel once", format_names(found, limit=3))]


def _like_labels(images: Mapping[str, _Record], allowed: Collection[int], where: str) -> list[Problem]:
    """Warn of images whose intensities are values of labels: masks may lie among the scans."""
    found = [
        case
        for case, record in images.items()
        if record.volume and any(set(quartiles) <= {*allowed} - {0} for quartiles in record.volume.quartiles)
    ]
    if not found or len(allowed) > FEW_VALUES:
        return []
    what, fix = "images that look like label maps", "nothing, if these are scans; else take them out of the data set"
    named = f"{len(found)} of {len(images)}: {format_names(found, limit=3)}"
    return [Problem("data.like-label", what, where, fix, "intensities of a scan", named)]


def _channel_digests(record: _Record) -> tuple[str, ...]:
    return tuple(record.volume.digest.split("-")) if record.volume is not None and record.volume.digest else ()


def equal_labels(contents: Mapping[str, str], where: str) -> list[Problem]:
    """Warn of labels of several cases that are alike, voxel by voxel; ``contents`` are digests by case."""
    same: dict[str, list[str]] = defaultdict(list)
    for case, digest in contents.items():
        same[digest].append(case)
    fix = "look at them on their images: one may be a copy that was given the wrong name"
    return [
        Problem("label.equal", "cases have the same label", where, fix, "a label for each case", " = ".join(cases))
        for cases in same.values()
        if len(cases) > 1
    ]


def _warn_of_two_places(images: Mapping[str, _Record], labels: Mapping[str, _Record], where: str) -> list[Problem]:
    """Warn of headers that name two places in space: viewers may show another one than is read here."""
    found = []
    for kind, records in (("images", images), ("labels", labels)):
        apart = [case for case, record in records.items() if record.volume and record.volume.other_affines]
        found += [f"{len(apart)} of {len(records)} {kind}: {format_names(apart, limit=3)}"] if apart else []
    if not found:
        return []
    what, fix = (
        "sform, qform and spacing of a header say different things",
        "nothing, if ITK reads these as you mean them",
    )
    return [Problem("nifti.two-places", what, where, fix, "one place (read is what ITK reads)", "; ".join(found))]


def _judge_classes(task: Task, labels: Mapping[str, _Record]) -> tuple[list[Problem], list[Problem]]:
    """Return problems and warnings about all labels together."""
    values = {
        case: record.volume.label_values
        for case, record in labels.items()
        if record.volume and record.volume.label_values is not None
    }
    if not values:
        return [], []
    where = str(task.root)
    empty = empty_cases(values, task.labels)
    if len(empty) == len(values):
        fix = "restore the label maps: training needs voxels of every class"
        found = f"background only in all {len(values)} labels"
        return [Problem("label.all-empty", "no label holds a class", where, fix, "voxels of the classes", found)], []
    warnings = []
    if empty:
        found = f"{len(empty)} of {len(values)}: {format_names(empty)}"
        fix = "nothing, if these scans show none of the classes"
        warnings.append(Problem("label.empty", "labels without any class", where, fix, found=found))
    fix = "check the label maps; without examples the class cannot be learnt, and its scores are not defined"
    for name in absent_classes(list(values.values()), task.labels):
        what = f"no label holds class {name}"
        warnings.append(Problem("label.class-absent", what, where, fix, "1 voxel or more", "none"))
    return [], warnings
