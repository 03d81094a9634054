"""Score predicted label maps against the true ones by Dice and HD95, per case and class.

Conventions: a class that is in only one of the two masks has Dice 0 and no HD95; a class in neither has no
value at all. Values that do not exist are NaN; means skip them and say how many they skipped. So HD95 alone
can look good for a model that misses a structure: read it together with Dice and the ``undefined`` count.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pcl_auto.data.formats.grid import SCORING_TOLERANCE_VOXELS, difference_of, format_shape
from pcl_auto.data.formats.suffixes import VOLUME_SUFFIXES, split_suffix, unread_stem
from pcl_auto.data.formats.volume import LoadedVolume, read_volume
from pcl_auto.data.labels import MAX_VALUES, values_of
from pcl_auto.errors import DataError, Problem, UsageError, format_names
from pcl_auto.evaluation.statistics import mean
from pcl_auto.method.label_maps import class_mask, dice

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from pcl_auto.method.label_maps import Classes, Values

Mask = npt.NDArray[np.bool_]

METRICS = ("dice", "hd95_mm")
# Beyond it not every whole number is a float64.
_MAX_WHOLE = 2.0**53


@dataclass(frozen=True)
class CaseScore:
    """One case; every dictionary is keyed by class name."""

    id: str
    dice: dict[str, float]
    hd95_mm: dict[str, float]
    volume_ml: dict[str, dict[str, float]]
    """Per class the volume of the ``prediction`` and of the ``label``."""


@dataclass(frozen=True)
class Evaluation:
    """All scores; NaN stands for a value that does not exist."""

    cases: list[CaseScore]
    """In the order of the case ids."""
    per_class: dict[str, dict[str, dict[str, float]]]
    """Per class and metric: ``mean``, ``std`` (population), ``n`` values and the number ``undefined``."""
    mean: dict[str, float]
    """Per metric the mean over cases of the mean over classes."""
    undefined: dict[str, int]
    """Per metric the number of (case, class) pairs without a value."""
    unscored_values: list[int] = field(default_factory=list)
    """Voxel values that occur, are not background, and are not among the classes that were asked for."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Cases without a partner: ``id`` and ``reason``."""
    warnings: list[Problem] = field(default_factory=list)
    """Findings to look at before the scores are believed."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; NaN becomes ``None``."""
        return {
            "mean": _without_nan(self.mean),
            "per_class": _without_nan(self.per_class),
            "undefined": self.undefined,
            "unscored_values": self.unscored_values,
            "skipped": self.skipped,
            "warnings": [problem.as_dict() for problem in self.warnings],
            "cases": [_without_nan(vars(case)) for case in self.cases],
        }


def hd95_mm(prediction: Mask, label: Mask, spacing_mm: Sequence[float]) -> float:
    """Return the 95th percentile of the Hausdorff distance of two masks in mm; NaN where either is empty.

    The convention is MONAI's: of the distances from each surface voxel of one mask to the nearest of the other the
    95th percentile, each voxel counted once; the same the other way round; and the larger of the two. (medpy takes one
    percentile of both directions together, DeepMind's surface-distance weights voxels by the area of the surface.)

    The surface of a mask is what an erosion by the 6-neighborhood (4 in 2D) takes away; beyond the image border is
    outside. Along an axis of length one a mask has no surface. Percentiles interpolate linearly.

    Args:
        prediction: a 2D or 3D mask.
        label: a mask of the same shape.
        spacing_mm: the voxel size per array axis.

    Raises:
        ValueError: shapes differ, or the spacing has another number of axes.
    """
    if prediction.shape != label.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, label {label.shape}")
    if len(spacing_mm) != label.ndim:
        raise ValueError(f"{len(spacing_mm)} spacings for {label.ndim} axes")
    if not prediction.any() or not label.any():
        return math.nan
    # Both surfaces lie in the bounding box and beyond its border nothing is inside a mask: exact, and much faster.
    box = ndimage.find_objects((prediction | label).astype(np.uint8))[0]
    thick = [axis for axis in range(label.ndim) if label.shape[axis] > 1]
    thin = tuple(axis for axis in range(label.ndim) if axis not in thick)
    spacing = [float(spacing_mm[axis]) for axis in thick]
    if not thick:
        return 0.0
    first, second = (_surface(mask[box].squeeze(axis=thin)) for mask in (prediction, label))
    return max(_directed_95_mm(first, second, spacing), _directed_95_mm(second, first, spacing))


def evaluate(
    predictions: Path,
    labels: Path,
    *,
    classes: Classes | None = None,
    ignored: int | None = None,
    allow_missing: bool = False,
    threads: int = 4,
) -> Evaluation:
    """Score predicted label maps against labels.

    Files are paired by name without the suffix of their format; in a folder dotfiles and what is no volume are
    ignored. Two single files are a pair whatever their names. Spacing is the label's. Nothing is written.

    Args:
        predictions: a folder or one file.
        labels: a folder or one file.
        classes: names and voxel values of the classes to score, of regions several each; default: all
            values but 0 that occur, in labels or predictions, named by their number. 0 is background and left
            out. Other values count as background and are listed in ``unscored_values``.
        ignored: the value of label voxels that nobody has looked at: they count in neither mask.
        allow_missing: list cases without a partner in ``skipped``, instead of refusing them.
        threads: cases scored at a time.

    Raises:
        UsageError: a path does not exist.
        DataError: files without a partner, unreadable files, grids that differ, values that are no integers,
            or no case at all; every such problem is listed.
    """
    if classes is not None:
        classes = {name: value for name, value in classes.items() if value != 0}
    pairs, unpaired = _pair(predictions, labels)
    problems = [] if allow_missing else [problem for _, problem in unpaired]
    problems += [_one_file(label) for _, prediction, label in pairs if _is_one_file(prediction, label)]
    counted: list[_Counted] = []
    with ThreadPoolExecutor(max(1, threads)) as pool:
        chosen = None if classes is None else list(classes.values())
        for outcome in pool.map(lambda pair: _count_case(pair, chosen, ignored), pairs):
            if isinstance(outcome, _Counted):
                counted.append(outcome)
            else:
                problems += outcome
    if not counted and not problems:
        problems = [Problem("score.no-case", "no case to score", str(predictions), "give predictions and their labels")]
    if problems:
        raise DataError(problems)
    skipped = [{"id": case, "code": problem.code, "reason": problem.what} for case, problem in unpaired]
    evaluation = _summarize(counted, classes, skipped)
    odd = [*_passed_over(predictions, labels), *_all_alike(evaluation, labels), *_all_ignored(counted, labels)]
    return replace(evaluation, warnings=odd)


def check_label(label: Path, scan: LoadedVolume, allowed: Collection[int]) -> tuple[set[int], list[Problem]]:
    """Check a label before there is a mask to score by it, by what :func:`evaluate` asks of mask and label.

    Args:
        label: the file.
        scan: the scan that masks will be made of; they get its grid.
        allowed: the values that have a meaning.

    Returns:
        the values but 0 that the label shows, and its problems.
    """
    problems: list[Problem] = []
    volume = _read(label, problems)
    if volume is None:
        return set(), problems
    fix = "name the scan that this label was drawn on, or resample the label to its scan"
    problems += _compare_grids(volume, label, scan, "scan", fix)
    voxels = _integers(volume, label, problems)
    if voxels is None:
        return set(), problems
    values = _foreground_values(voxels)
    problems += _too_many(values, label) or undeclared_values(values - {*allowed}, label, allowed)
    return values, problems


def undeclared_values(values: Iterable[int], where: Path, allowed: Iterable[int]) -> list[Problem]:
    """Return the problem of ``values`` that no class has: scored as background, they make a score of nothing."""
    found = ", ".join(map(str, sorted(values)))
    what, fix = "values that the data set declares for no class", "correct the label map, or name other labels"
    expected = f"only {', '.join(map(str, sorted(allowed)))}"
    return [Problem("score.undeclared-values", what, str(where), fix, expected, found)] if found else []


def _surface(mask: Mask) -> Mask:
    neighbors = ndimage.generate_binary_structure(mask.ndim, 1)
    return np.asarray(mask & ~ndimage.binary_erosion(mask, neighbors, border_value=0))


def _directed_95_mm(source: Mask, target: Mask, spacing_mm: Sequence[float]) -> float:
    distances_mm = ndimage.distance_transform_edt(~target, sampling=spacing_mm)[source]
    return float(np.percentile(distances_mm, 95))


@dataclass(frozen=True)
class _ClassScore:
    """Scores of one class in one case; as they stand here, of a class that is in neither mask."""

    dice: float = math.nan
    hd95_mm: float = math.nan
    volume_ml: dict[str, float] = field(default_factory=lambda: {"prediction": 0.0, "label": 0.0})


@dataclass(frozen=True)
class _Counted:
    """Scores of one case by voxel value, for the values that occur in it."""

    id: str
    in_label: set[int]
    in_prediction: set[int]
    scores: dict[Values, _ClassScore]
    all_ignored: bool = False


def _count_case(
    pair: tuple[str, Path, Path], chosen: Sequence[Values] | None, ignored: int | None
) -> _Counted | list[Problem]:
    """Score one case, or return all that keeps it from being scored."""
    case, prediction_path, label_path = pair
    problems: list[Problem] = []
    predicted, true = (_read(path, problems) for path in (prediction_path, label_path))
    if predicted is None or true is None:
        return problems
    problems += _compare_grids(predicted, prediction_path, true)
    prediction, label = (
        _integers(volume, path, problems) for volume, path in ((predicted, prediction_path), (true, label_path))
    )
    if problems or prediction is None or label is None:
        return problems
    spacing_mm = true.geometry.spacing_mm[::-1]
    all_ignored = False
    if ignored is not None:
        unknown = label == ignored
        all_ignored = bool(unknown.all())
        prediction, label = np.where(unknown, 0, prediction), np.where(unknown, 0, label)
    counted = _Counted(case, _foreground_values(label), _foreground_values(prediction), {}, all_ignored)
    problems += _too_many(counted.in_prediction, prediction_path) + _too_many(counted.in_label, label_path)
    return problems or _with_scores(counted, prediction, label, spacing_mm, chosen)


def _with_scores(
    counted: _Counted,
    prediction: npt.NDArray[np.integer[Any]],
    label: npt.NDArray[np.integer[Any]],
    spacing_mm: Sequence[float],
    chosen: Sequence[Values] | None,
) -> _Counted:
    present = counted.in_label | counted.in_prediction
    voxel_ml = math.prod(spacing_mm) / 1000
    for value in sorted(present) if chosen is None else chosen:
        if present.isdisjoint(_single_values([value])):
            continue
        predicted, true = class_mask(prediction, value), class_mask(label, value)
        masks = {"prediction": predicted, "label": true}
        volumes_ml = {name: voxel_ml * int(np.count_nonzero(mask)) for name, mask in masks.items()}
        counted.scores[value] = _ClassScore(dice(predicted, true), hd95_mm(predicted, true, spacing_mm), volumes_ml)
    return counted


def _single_values(classes: Iterable[Values]) -> set[int]:
    return {value for each in classes for value in values_of(each)}


def _foreground_values(voxels: npt.NDArray[np.integer[Any]]) -> set[int]:
    return {int(value) for value in np.unique(voxels)} - {0}


def _read(path: Path, problems: list[Problem]) -> LoadedVolume | None:
    try:
        volume = read_volume(path, _stack)
    except DataError as error:
        problems += error.problems
        return None
    if len(volume.voxels) > 1:
        problems.append(_no_label_map(path, "2 or 3 axes, 1 value per voxel", f"{len(volume.voxels)} channels"))
        return None
    return volume


def _no_label_map(path: Path, expected: str, found: str) -> Problem:
    fix = "give label maps, not images or probabilities"
    return Problem("score.not-a-label-map", "not a label map", str(path), fix, expected, found)


def _too_many(values: Collection[int], path: Path) -> list[Problem]:
    if len(values) <= MAX_VALUES:
        return []
    return [_no_label_map(path, f"at most {MAX_VALUES} values", f"{len(values)} values")]


def _stack(fields: Any) -> None:
    """Make a slice a volume of one slice, which has the same scores."""
    if fields["dim"][0] == 2:
        fields["dim"][[0, 3]] = 3, 1
        fields["pixdim"][3] = fields["pixdim"][3] or 1


def _compare_grids(
    prediction: LoadedVolume,
    path: Path,
    label: LoadedVolume,
    kind: str = "label",
    fix: str = "predict from the image that belongs to this label, or resample the prediction to it",
) -> list[Problem]:
    difference = difference_of(label.grids, prediction.grids, SCORING_TOLERANCE_VOXELS)
    ours, theirs = label.grids[0], prediction.grids[0]
    if difference and theirs.turn_onto(ours, SCORING_TOLERANCE_VOXELS):
        fix = (
            f"turn it to the axes of the {kind}, voxel by voxel; "
            f"for NIfTI: pclauto repair MASK --like {kind.upper()} -o FOLDER"
        )
    if difference == "shape":
        expected, found = f"{format_shape(ours.shape)} as the {kind}", format_shape(theirs.shape)
        return [Problem("score.other-size", "size", str(path), fix, expected, found)]
    if difference == "position":
        expected = f"the {kind}'s, within {SCORING_TOLERANCE_VOXELS} voxels"
        found = f"a corner that is {ours.distance_mm(theirs):.3g} mm off"
        return [Problem("score.other-position", "position in space", str(path), fix, expected, found)]
    return []


def _integers(volume: LoadedVolume, path: Path, problems: list[Problem]) -> npt.NDArray[np.integer[Any]] | None:
    """Return the voxels (z, y, x), of a float file too as long as every value is whole; else None, and a problem."""
    voxels = volume.voxels[0]
    if not np.issubdtype(voxels.dtype, np.integer):
        whole = (np.abs(voxels) < _MAX_WHOLE) & (voxels == np.rint(voxels))
        if not whole.all():
            found = f"{np.count_nonzero(~whole)} voxels such as {voxels[~whole].flat[0]:g}"
            what, fix = "values that are no integers", "give a label map"
            problems.append(Problem("score.not-whole", what, str(path), fix, "whole numbers", found))
            return None
        voxels = np.rint(voxels).astype(np.int64)
    return np.asarray(voxels)


def _pair(predictions: Path, labels: Path) -> tuple[list[tuple[str, Path, Path]], list[tuple[str, Problem]]]:
    """Return the pairs (id, prediction, label) in the order of ids, and for every other file its id and problem."""
    if predictions.is_file() and labels.is_file():
        return [(_case_id(labels), predictions, labels)], []
    predicted, true = (_list_cases(path) for path in (predictions, labels))
    unpaired = [entry for path in (predictions, labels) for entry in _unread({*predicted, *true}, path)]
    for case in sorted(predicted.keys() ^ true.keys()):
        if case in true:
            fix = "predict this case too, or take --allow-missing"
            problem = Problem("score.no-prediction", "label without a prediction", str(true[case]), fix)
        else:
            fix = "add its label, or take --allow-missing"
            problem = Problem("score.no-label", "prediction without a label", str(predicted[case]), fix)
        unpaired.append((case, problem))
    common = sorted(predicted.keys() & true.keys())
    return [(case, predicted[case], true[case]) for case in common], unpaired


def _list_cases(path: Path) -> dict[str, Path]:
    """List the label maps of a folder, or the single file, by case id."""
    if not path.exists():
        raise UsageError(Problem("data.no-such-path", "no such file or folder", str(path), "check the path"))
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    cases: dict[str, Path] = {}
    problems: list[Problem] = []
    for file in files:
        # AppleDouble files (._name.nii.gz) are dotfiles too.
        if file.name.startswith(".") or not split_suffix(file.name)[1]:
            continue
        other = cases.setdefault(_case_id(file), file)
        if other != file:
            fix = f"remove it or {other.name}"
            problems.append(Problem("score.case-twice", "second file of one case", str(file), fix))
    if problems:
        raise DataError(problems)
    return cases


def _unread(cases: Collection[str], path: Path) -> Iterator[tuple[str, Problem]]:
    """Yield what may be of further cases, in formats that are not read: id and problem."""
    for file in sorted(path.iterdir()) if path.is_dir() else ():
        stem = None if file.name.startswith(".") else unread_stem(file.name)
        if stem is not None and stem not in cases:
            what, fix = "volume in a format that is not scored", "convert it to .nii.gz, or take --allow-missing"
            yield stem, Problem("score.format", what, str(file), fix, " | ".join(VOLUME_SUFFIXES))


def _is_one_file(prediction: Path, label: Path) -> bool:
    try:
        return prediction.samefile(label)
    except OSError:  # a link to nowhere, which reading it will name
        return False


def _one_file(label: Path) -> Problem:
    what, fix = "prediction and label are one file", "name the folder of labels, or the label, second"
    return Problem("score.same-file", what, str(label), fix, "two files")


def _all_alike(evaluation: Evaluation, labels: Path) -> list[Problem]:
    """Warn of masks that equal their labels, every one and to the voxel: no network makes such ones."""
    scores = [value for case in evaluation.cases for value in case.dice.values() if not math.isnan(value)]
    if not scores or min(scores) < 1:
        return []
    what, fix = "every mask equals its label", "make sure that these are not copies of the labels"
    return [
        Problem(
            "score.all-alike", what, str(labels), fix, "masks that a network made", f"Dice 1 in {len(scores)} scores"
        )
    ]


def _all_ignored(counted: Sequence[_Counted], labels: Path) -> list[Problem]:
    """Warn of labels in which nobody has looked at a single voxel: such cases count, but have no score."""
    cases = [each.id for each in counted if each.all_ignored]
    if not cases:
        return []
    what, fix = "labels in which every voxel is ignored", "leave these cases out, or label them"
    return [Problem("score.all-ignored", what, str(labels), fix, found=format_names(cases, limit=5))]


def _passed_over(*paths: Path) -> list[Problem]:
    """Warn of volumes in folders inside a folder: they are not scored."""
    what, fix = "folders that are not looked into", "nothing, if no masks or labels in them were to be scored"
    found = {path: [folder.name for folder in _folders_of_volumes(path)] for path in paths}
    return [
        Problem("data.passed-over", what, str(path), fix, found=format_names(names, limit=5))
        for path, names in found.items()
        if names
    ]


def _folders_of_volumes(path: Path) -> list[Path]:
    """List the folders in a folder that hold volumes."""
    inside = [] if path.is_file() else sorted(each for each in path.iterdir() if each.is_dir() and each.name[0] != ".")
    return [folder for folder in inside if any(split_suffix(file.name)[1] for file in _listed(folder))]


def _listed(folder: Path) -> list[Path]:
    try:
        return [*folder.iterdir()]
    except OSError:  # not for this user: nothing in it was meant to be scored
        return []


def _case_id(path: Path) -> str:
    return split_suffix(path.name)[0] or path.name


def _summarize(counted: Sequence[_Counted], classes: Classes | None, skipped: list[dict[str, str]]) -> Evaluation:
    if classes is None:
        values = sorted(set[int]().union(*(case.in_label | case.in_prediction for case in counted)))
        classes = {str(value): value for value in values}
    present = set[int]().union(*(case.in_label | case.in_prediction for case in counted))
    cases = [_name_classes(case, classes) for case in counted]
    return Evaluation(
        cases=cases,
        per_class={
            name: {metric: _statistics(getattr(case, metric)[name] for case in cases) for metric in METRICS}
            for name in classes
        },
        mean={metric: mean(mean(getattr(case, metric).values()) for case in cases) for metric in METRICS},
        undefined={
            metric: sum(math.isnan(value) for case in cases for value in getattr(case, metric).values())
            for metric in METRICS
        },
        unscored_values=sorted(present - _single_values(classes.values())),
        skipped=skipped,
    )


def _name_classes(case: _Counted, classes: Classes) -> CaseScore:
    scores = {name: case.scores.get(value, _ClassScore()) for name, value in classes.items()}
    return CaseScore(
        case.id,
        dice={name: score.dice for name, score in scores.items()},
        hd95_mm={name: score.hd95_mm for name, score in scores.items()},
        volume_ml={name: score.volume_ml for name, score in scores.items()},
    )


def _statistics(values: Iterable[float]) -> dict[str, float]:
    everything = list(values)
    defined = [value for value in everything if not math.isnan(value)]
    return {
        "mean": mean(defined),
        "std": float(np.std(defined)) if defined else math.nan,
        "n": len(defined),
        "undefined": len(everything) - len(defined),
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
