"""Read ``dataset.json`` in all its spellings, before any file that it names is looked at."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcl_auto.data.labels import (
    BACKGROUND,
    IGNORE,
    Labels,
    all_values,
    foreground,
    format_values,
    has_regions,
    values_of,
)
from pcl_auto.errors import DataError, Problem
from pcl_auto.workspace.shapes import MAX_WHOLE

# Readers of nnU-Net that leave an image as it is stored, as ours does; "None" leaves the choice to nnU-Net.
READERS_AS_STORED = ("None", "SimpleITKIO", "NibabelIO")
# The largest decathlon file is below 100 kB; a file beyond this is no list of scans.
_MAX_BYTES = 1 << 26
_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,9}", re.ASCII)
_SHOWN = 60
# Folders in nnU-Net's raw format, whose dataset.json lists no cases; keys that it alone has.
RAW_FOLDER = re.compile(r"Dataset(\d{3,9})_(.+)", re.ASCII)
_RAW_KEYS = ("channel_names", "file_ending", "overwrite_image_reader_writer")
_LABELS = '{"0": "background", "1": "name", ...}'
_LABELS_OF_RAW = '{"background": 0, "name": 1, ...}'


@dataclass(frozen=True)
class Entry:
    """One item of ``training`` or ``test``: the paths as written, and where they are written."""

    image: str
    label: str | None
    place: str


@dataclass(frozen=True)
class Description:
    """The content of ``dataset.json``; ``channels`` and ``labels`` are None where they make no sense."""

    channels: tuple[str, ...] | None
    labels: Labels | None
    training: tuple[Entry, ...]
    test: tuple[Entry, ...]
    # The value that a mask gets in each region, in the order of the regions; later regions overwrite earlier ones.
    regions_class_order: tuple[int, ...] | None = None
    # The whole content, if the file is nnU-Net's own, which lists no cases.
    raw: dict[str, Any] | None = None


def read_description(path: Path) -> tuple[Description | None, list[Problem]]:
    """Parse a ``dataset.json``; return None if it is no JSON object with a list of training cases."""
    parser = _Parser(str(path))
    try:
        return parser.describe(parser.load(path)), parser.problems
    except DataError as error:
        return None, [*parser.problems, *error.problems]


class _Parser:
    """Parses a ``dataset.json`` part by part, and collects in ``problems`` what is wrong with it."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: list[Problem] = []

    def _problem(self, code: str, what: str, fix: str, expected: str = "", found: str = "") -> Problem:
        return Problem(code, what, self.where, fix, expected, found)

    def _refuse(self, code: str, what: str, fix: str, expected: str = "", found: str = "") -> None:
        self.problems.append(Problem(code, what, self.where, fix, expected, found))

    def load(self, path: Path) -> dict[str, Any]:
        """Return the JSON object in a file.

        Raises:
            DataError: there is none.
        """
        fix = "correct the file at this place; python -m json.tool shows whether it parses"
        try:
            # Windows editors put a byte order mark in front, which utf-8-sig takes away.
            text = self._sized(path).read_text(encoding="utf-8-sig")
            content = json.loads(text, parse_constant=self._note_constant, object_pairs_hook=self._build)
        except UnicodeDecodeError as error:
            code, what, fix, expected = "dataset-json.not-utf8", "not UTF-8 text", "save the file as UTF-8", "UTF-8"
            raise DataError(self._problem(code, what, fix, expected, str(error))) from error
        except (RecursionError, ValueError) as error:
            found = _shown(str(error))
            if isinstance(error, json.JSONDecodeError):
                found = f"{error.msg} at line {error.lineno}, column {error.colno}"
            self.problems.clear()
            raise DataError(self._problem("dataset-json.invalid", "invalid JSON", fix, "JSON", found)) from error
        except OSError as error:
            code, what = "dataset-json.unreadable", "dataset.json cannot be read"
            raise DataError(self._problem(code, what, "make it readable", found=str(error))) from error
        if not isinstance(content, dict):
            code, what = "dataset-json.not-an-object", "dataset.json is no object"
            raise DataError(self._problem(code, what, fix, "{...}", _shown(content)))
        return content

    def _sized(self, path: Path) -> Path:
        if not path.is_file():
            code, what = "dataset-json.missing", "dataset.json is missing"
            fix = "name the folder of a decathlon task (Task05_Prostate) or of nnU-Net's raw data (Dataset005_Prostate)"
            raise DataError(self._problem(code, what, fix, "a file of that name"))
        if path.stat().st_size > _MAX_BYTES:
            code, what = "dataset-json.too-large", "dataset.json is far too large"
            fix = "restore the file from the data set's source"
            raise DataError(self._problem(code, what, fix, f"at most {_MAX_BYTES} bytes"))
        return path

    def _note_constant(self, name: str) -> None:
        fix = "remove the value or write a number"
        self._refuse("dataset-json.not-a-number", "not a JSON number", fix, "a number", name)

    def _build(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key in _repeated(key for key, _ in pairs):
            fix = "keep one of the two"
            self._refuse("dataset-json.duplicate-key", "duplicate key", fix, "each key once", _shown(key))
        return dict(pairs)

    def describe(self, content: dict[str, Any]) -> Description:
        """Return what matters of the file.

        Raises:
            DataError: there is no list of training cases.
        """
        is_raw = not content.get("training") and (
            any(key in content for key in _RAW_KEYS) or bool(RAW_FOLDER.fullmatch(Path(self.where).parent.name))
        )
        channels, labels = self._channels(content, is_raw=is_raw), self._labels(content.get("labels"), is_raw=is_raw)
        order = self._order(content.get("regions_class_order"), labels)
        self._refuse_reader(content.get("overwrite_image_reader_writer", "None"))
        if is_raw:
            return Description(channels, labels, (), (), order, raw=content)
        if not isinstance(content.get("training"), list):
            fix = (
                'list the training cases as {"image": ..., "label": ...}, or call the folder DatasetNNN_Name if it is '
            )
            fix += "one of nnU-Net, whose cases are not listed"
            found = _shown(content["training"]) if "training" in content else "no such key"
            code, what = "dataset-json.no-training", "training is not a list"
            raise DataError(self._problem(code, what, fix, "a list", found))
        training, test = self._entries(content, "training"), self._entries(content, "test")
        stated, listed = content.get("numTraining"), len(content["training"])
        if stated is not None and _whole(stated) != listed:
            fix = "correct numTraining, or restore the entries that are missing"
            expected = f"{listed}, as listed"
            self._refuse("dataset-json.wrong-count", "numTraining is wrong", fix, expected, _shown(stated))
        return Description(channels, labels, training, test, order)

    def _channels(self, content: dict[str, Any], *, is_raw: bool) -> tuple[str, ...] | None:
        """Return the names of the channels in the order of their numbers."""
        spellings = [key for key in ("channel_names", "modality") if key in content]
        key = "channel_names" if is_raw else "modality"
        fix = f'write one name per channel, as in "{key}": {{"0": "T2", "1": "ADC"}}'
        if not spellings:
            expected = "modality or channel_names"
            self._refuse("dataset-json.no-channels", "no channel names", fix, expected, "neither")
            return None
        parsed = {key: _channel_list(content[key]) for key in spellings}
        wrong = [key for key, names in parsed.items() if names is None]
        for key in wrong:
            expected = "names for the channels 0, 1, ... without a gap"
            what, found = f"{key} does not name the channels", _shown(content[key])
            self._refuse("dataset-json.bad-channels", what, fix, expected, found)
        if not wrong and len(set(parsed.values())) > 1:
            found = " and ".join(f"{key} {_shown(content[key])}" for key in spellings)
            code, what = "dataset-json.two-channel-lists", "two lists of channels differ"
            self._refuse(code, what, "keep one of them", "one list", found)
            return None
        return None if wrong else parsed[spellings[0]]

    def _refuse_reader(self, name: Any) -> None:
        if name not in READERS_AS_STORED:
            code, what = "dataset-json.reader", "overwrite_image_reader_writer asks for a reader that is not used"
            fix = "take the key out, and save images that are to be turned to RAS so, with their labels"
            self._refuse(code, what, fix, " | ".join(READERS_AS_STORED), _shown(name))

    def _labels(self, raw: Any, *, is_raw: bool) -> Labels | None:
        """Return classes and regions with their values, from ``{"0": name}`` or ``{name: 0}``, classes by value."""
        if not isinstance(raw, dict) or not raw:
            fix = f"write them as {_LABELS_OF_RAW if is_raw else _LABELS}"
            found = "nothing" if raw is None else _shown(raw)
            self._refuse("dataset-json.no-classes", "labels do not name the classes", fix, "an object", found)
            return None
        named_by_value = all(isinstance(value, str) and _whole(value) is None for value in raw.values()) or all(
            isinstance(value, str) and _whole(key) is not None for key, value in raw.items()
        )
        classes: list[tuple[str, list[int]]] = []
        for key, other in raw.items():
            name, value = (other, key) if named_by_value else (key, other)
            numbers = [_whole(each) for each in (value if isinstance(value, list) else [value])]
            whole = sorted({number for number in numbers if number is not None})
            if not numbers or None in numbers or not isinstance(name, str) or not name.strip():
                fix = "give every class a name and a whole number, or a region a list of them"
                what, found = "label without a whole number", f"{_shown(name)} = {_shown(value)}"
                self._refuse("dataset-json.label-not-whole", what, fix, "0, 1, 2, ...", found)
            else:
                classes.append((_known_name(name.strip(), whole), whole))
        return self._consistent(classes) if len(classes) == len(raw) else None

    def _consistent(self, classes: list[tuple[str, list[int]]]) -> Labels | None:
        """Return the labels if their names and values make sense together."""
        known = len(self.problems)
        regions = any(len(values) > 1 for _, values in classes)
        if not regions:  # those of regions stand in the order of the network's outputs
            classes = sorted(classes, key=lambda pair: pair[1])
        labels: Labels = {name: values if len(values) > 1 else values[0] for name, values in classes}
        sets = [values for _, values in classes]
        values = all_values(labels) if regions else [value for each in sets for value in each]
        listed = ", ".join(f"{format_values(each)} {name}" for name, each in classes)
        for kind, items in (("value", map(format_values, sets)), ("name", (name for name, _ in classes))):
            for shared in _repeated(items):
                fix = "give every class a name and value of its own"
                self._refuse("dataset-json.label-twice", f"two labels share the {kind} {shared}", fix)
        fix = "number the classes without a gap from 0, the background, in dataset.json and in the label maps"
        if 0 not in values:
            self._refuse("dataset-json.no-background", "labels lack the background", fix, "0 background", listed)
        elif (BACKGROUND, [0]) not in classes or any(0 in each for each in sets if len(each) > 1):
            code, what = "dataset-json.zero-not-background", "label 0 is not the background"
            fix = "call the value 0 background, or renumber the classes if 0 is one of them"
            self._refuse(code, what, fix, "0 background", listed)
        elif len(self.problems) > known:
            return None
        elif values != list(range(len(values))):
            expected = ", ".join(map(str, range(len(values))))
            found = ", ".join(map(str, values))
            self._refuse("dataset-json.label-gap", "labels leave a gap", fix, expected, found)
        elif IGNORE in labels and (labels[IGNORE] != values[-1] or sum(values[-1] in each for each in sets) > 1):
            code, what = "dataset-json.ignore-not-last", "the ignore label is not the highest value"
            fix = "give ignored voxels the value after that of the last class, in dataset.json and in the label maps"
            self._refuse(code, what, fix, "ignore last", listed)
        elif not foreground(labels):
            code, what = "dataset-json.background-only", "no class besides the background"
            self._refuse(code, what, "declare the classes that the label maps hold", "0, 1, ...", listed)
        return None if len(self.problems) > known else labels

    def _order(self, raw: Any, labels: Labels | None) -> tuple[int, ...] | None:
        """Return ``regions_class_order``: for every region the value that a mask gets; None without regions.

        A value that is not its region's own, or that a later region holds too, would make other regions of a mask.
        """
        if labels is None or not has_regions(labels):
            return None
        regions = [values_of(value) for value in foreground(labels).values()]
        order = [_whole(value) for value in raw] if isinstance(raw, list) else []
        if len(order) == len(regions) and all(
            value in region and not any(value in later for later in regions[place + 1 :])
            for place, (value, region) in enumerate(zip(order, regions, strict=True))
        ):
            kept = tuple(value for value in order if value is not None)
            self._refuse_lost(labels, regions, kept)
            return kept
        code, what = "dataset-json.regions-order", "regions_class_order does not fit the regions"
        fix = "write a value for every region: one that it holds and no region after it does; larger regions come first"
        found = "no such key" if raw is None else _shown(raw)
        self._refuse(code, what, fix, 'as [1, 2] for {"whole": [1, 2], "core": 2}', found)
        return None

    def _refuse_lost(self, labels: Labels, regions: Sequence[Sequence[int]], order: Sequence[int]) -> None:
        """Refuse regions that a mask cannot hold together: a voxel gets the value of the last region that it is in."""
        within = {
            value: [place for place, region in enumerate(regions) if value in region]
            for value in sorted({value for region in regions for value in region})
        }
        written = {value: order[places[-1]] for value, places in within.items()}
        lost = [f"{value} becomes {put}" for value, put in written.items() if within[put] != within[value]]
        if lost:
            code, what = "dataset-json.regions-overlap", "regions overlap so that masks cannot tell them apart"
            fix = "nest the regions (each in the one before), or declare the overlap as a region of its own, last"
            names = list(foreground(labels))
            expected = f"for every value one that is in the same regions, of {', '.join(names)}"
            self._refuse(code, what, fix, expected, ", ".join(lost))

    def _entries(self, content: dict[str, Any], key: str) -> tuple[Entry, ...]:
        items = content.get(key) or []
        if not isinstance(items, list):
            what, fix = f"{key} is not a list", "write a list of images"
            self._refuse("dataset-json.not-a-list", what, fix, "[...]", _shown(items))
            return ()
        entries: list[Entry] = []
        for number, item in enumerate(items):
            parts = {"image": item} if isinstance(item, str) else item if isinstance(item, dict) else {}
            image, label = parts.get("image"), parts.get("label") or None
            if isinstance(image, str) and image and (label is None or isinstance(label, str)):
                entries.append(Entry(image, label, f"{key}[{number}]"))
                continue
            fix = 'write {"image": "path", "label": "path"}, or leave the label out'
            what = f"{key}[{number}] names no image and label"
            self._refuse("dataset-json.bad-entry", what, fix, "paths", _shown(item))
        return tuple(entries)


def _channel_list(raw: Any) -> tuple[str, ...] | None:
    """Return channel names in the order of their numbers, or None."""
    if isinstance(raw, str):
        raw = [raw]
    if isinstance(raw, list):
        raw = {str(number): name for number, name in enumerate(raw)}
    if not isinstance(raw, dict) or not raw:
        return None
    names = {_whole(key): name for key, name in raw.items()}
    if set(names) != set(range(len(raw))):
        return None
    ordered = [names[number] for number in range(len(raw))]
    return tuple(ordered) if all(isinstance(name, str) and name.strip() for name in ordered) else None


def _known_name(name: str, values: list[int]) -> str:
    """Return ``name``, or nnU-Net's spelling of the two names that mean something to it."""
    if name.lower() == IGNORE or (values == [0] and name.lower() == BACKGROUND):
        return name.lower()
    return name


def _whole(value: Any) -> int | None:
    """Return ``value`` as an integer if it is one, also if it is written as a string or as 1.0."""
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value.strip()):
        return int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_WHOLE:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_WHOLE else None


def _repeated(items: Iterable[Any]) -> list[Any]:
    return [item for item, count in Counter(items).items() if count > 1]


def _shown(value: Any) -> str:
    """Return ``value`` as short JSON; escapes keep control characters off the terminal."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "a deeply nested value"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
