"""Check the files of cases that are to become a data set: what `plan` would refuse, said of the files as they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from pcl_auto.data.case import Case, Task
from pcl_auto.data.checks.check_files import check_cases, constant_channels
from pcl_auto.data.dataset.channel_names import ChosenChannels
from pcl_auto.data.dataset.plain_cases import Found, Sources
from pcl_auto.data.dataset.write_dataset import layout
from pcl_auto.data.formats.nifti import probe_channels, probe_label
from pcl_auto.data.formats.suffixes import NIFTI_SUFFIXES, split_suffix
from pcl_auto.data.formats.to_nifti import write_as_nifti
from pcl_auto.data.labels import BACKGROUND, MAX_VALUES, Labels
from pcl_auto.errors import DataError, Problem, format_names

# So many values without names are the intensities of scans, not classes.
_MAX_UNNAMED = 128
_SWAPPED = "or swap the two folders, if they are the wrong way round"
_OF_GRIDS = {"label.apart", "label.other-axes", "data.channel-grids"}
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Converted:
    """Cases whose files are NIfTI, all of them; ``originals`` are files by what they became."""

    cases: tuple[Case, ...]
    originals: Mapping[Path, Path]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def convert_files(found: Found, root: Path, threads: int, progress: Progress) -> Converted:
    """Write files that are no NIfTI as such below ``root``, each into its place; what cannot be read is left out."""
    places = layout(found.cases)
    foreign = [file for file in places if split_suffix(file.name)[1] not in NIFTI_SUFFIXES]
    problems = list(found.problems)
    originals: dict[Path, Path] = {}

    def convert(file: Path) -> list[Problem]:
        try:
            write_as_nifti(file, root / places[file])
        except DataError as error:
            return [*error.problems]
        return []

    if foreign:
        progress("convert", 0, len(foreign))
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for done, (file, refusals) in enumerate(zip(foreign, pool.map(convert, foreign), strict=True), 1):
            problems += refusals
            originals |= {} if refusals else {root / places[file]: file}
            progress("convert", done, len(foreign))
    new = {file: file for file in places if file not in foreign} | {file: made for made, file in originals.items()}
    cases = [
        replace(
            case,
            image=new[case.image],
            further=tuple(new[file] for file in case.further),
            label=None if case.label is None else new.get(case.label),
        )
        for case in found.cases
        if new.keys() >= {*case.files}
    ]
    return Converted(tuple(cases), originals, tuple(problems), found.warnings)


@dataclass(frozen=True)
class Checked:
    """The channels and classes of cases, and everything that was found wrong with their names and files."""

    channels: tuple[str, ...]
    labels: Labels
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def check_files(
    converted: Converted,
    sources: Sources,
    labels: Labels | None,
    name_channels: Callable[[Mapping[str, Sequence[Path]], int], ChosenChannels],
    threads: int,
    progress: Progress,
) -> Checked:
    """Read every file of the cases to its end, and find what does not fit together.

    Args:
        converted: the cases.
        sources: the folders, for the problems.
        labels: the classes; without, they are called by the values of the masks.
        name_channels: names the channels of sound images, given by case, of which there are so many.
        threads: files read at once.
        progress: called with "check", the number of files that are done, and of all.
    """
    training = [case for case in converted.cases if case.source != "imagesTs"]
    test = [case for case in converted.cases if case.source == "imagesTs"]
    masks = [case.label for case in training if case.label is not None]
    found: list[Problem] = []
    if labels is None:
        labels, found = _number_classes(masks, threads)
    total, done = len(training) + len(masks) + len(test), 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress("check", done, total)

    task = Task(sources.images, "", None, ("",), labels, tuple(training), ())
    checks = check_cases(task, threads=threads, progress=advance)
    found += [problem for problem in checks.problems if problem.code != "data.channel-count"]
    warnings = [warning for warning in checks.warnings if warning.code != "label.other-name"]
    volumes = {case: checks.images[case.id] for case in training if case.id in checks.images}
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for case, (volume, problems) in zip(test, pool.map(lambda case: probe_channels(case.files), test), strict=True):
            advance()
            found += problems or (constant_channels(volume, "a test image") if volume else [])
            volumes |= {case: volume} if volume else {}
    chosen = ChosenChannels()
    counts = {case: volume.channels for case, volume in volumes.items()}
    if len({*counts.values()}) > 1:
        found.append(_mixed_channels(counts, sources))
    elif counts:
        bad = {problem.where for problem in found}
        sound = {case.id: case.files for case in training if case in volumes and str(case.image) not in bad}
        chosen = name_channels(sound, next(iter(counts.values())))
    reword = partial(_reworded, sources=sources, originals=converted.originals)
    return Checked(
        chosen.names,
        labels,
        (*converted.problems, *map(reword, found), *chosen.problems),
        (*converted.warnings, *map(reword, warnings), *chosen.warnings),
    )


def _number_classes(masks: Sequence[Path], threads: int) -> tuple[Labels, list[Problem]]:
    """Return the classes ``class_1``, … of the values in masks, and the problem of values that are none."""
    owners: dict[int, list[str]] = defaultdict(list)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        probed = pool.map(lambda mask: probe_label(mask, range(MAX_VALUES))[0], masks)
        for mask, volume in zip(masks, probed, strict=True):
            for value in (volume and volume.label_values) or ():
                owners[value].append(mask.name)
    values = sorted(value for value in owners if value) or [1]
    labels: Labels = {BACKGROUND: 0, **{f"class_{value}": value for value in values}}
    if len(values) > _MAX_UNNAMED:
        what, fix = (
            "too many values for masks without names",
            f"name them with --labels, if these are classes; {_SWAPPED}",
        )
        return labels, [Problem("init.values", what, "", fix, f"{_MAX_UNNAMED} or fewer", str(len(values)))]
    if values == [*range(1, len(values) + 1)]:
        return labels, []
    what, fix = "the values of the masks leave a gap", "number the classes 1, 2, 3, … in the masks; 0 is the background"
    strange = next(value for place, value in enumerate(values, 1) if value != place)
    found = f"{format_names(map(str, values))}; {strange} in {format_names(owners[strange], 3)}"
    return labels, [Problem("init.values", what, "", fix, f"1 to {len(values)}", found)]


def _mixed_channels(counts: Mapping[Case, int], sources: Sources) -> Problem:
    cases: dict[int, list[str]] = defaultdict(list)
    for case, count in counts.items():
        cases[count].append(case.id if case.source != "imagesTs" else f"{case.id} (test)")
    few_first = sorted(cases.items(), key=lambda pair: len(pair[1]))
    found = "; ".join(f"{count} in {len(names)}: {format_names(names, 3)}" for count, names in few_first)
    what, fix = "images differ in their channels", "give every case the same channels, or leave the others out"
    return Problem("init.mixed-channels", what, str(sources.images), fix, "as many in every image", found)


def _reworded(problem: Problem, sources: Sources, originals: Mapping[Path, Path]) -> Problem:
    """Say a problem of a data set of the folders that it is to be made of."""
    if problem.where in ("", str(sources.images)):
        of_masks = not problem.where or problem.code.startswith("label.")
        problem = replace(problem, where=str(sources.masks if of_masks else sources.images))
    if problem.code == "label.undeclared-values":
        what, fix = (
            "values in a mask that --labels does not name",
            "name every value with --labels, or correct the mask",
        )
        problem = replace(problem, what=what, fix=f"{fix}; {_SWAPPED}")
    if problem.code == "label.fractional":
        problem = replace(problem, fix=f"{problem.fix}; {_SWAPPED}")
    texts = asdict(problem)
    for made, original in originals.items():
        texts = {key: text.replace(str(made), str(original)) for key, text in texts.items()}
    if texts != asdict(problem) and problem.code in _OF_GRIDS:
        # `pclauto repair` takes NIfTI alone.
        texts["fix"] = "resample it onto its image, or save both as NIfTI first"
    return Problem(**texts)
