"""What ``dataset.json`` says, in all its spellings, before any file that it names is looked at."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from pcl_auto.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# The largest decathlon file is below 100 kB; a file beyond this is no list of scans.
_MAX_BYTES = 1 << 26
_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,9}", re.ASCII)
_SHOWN = 60


@dataclass(frozen=True)
class Entry:
    """One item of ``training`` or ``test``: the paths as written, and where they are written."""

    image: str
    label: str | None
    place: str


@dataclass(frozen=True)
class Description:
    """What matters of ``dataset.json``; ``channels`` and ``labels`` are None where they make no sense."""

    channels: tuple[str, ...] | None
    labels: Labels | None
    training: tuple[Entry, ...]
    test: tuple[Entry, ...]
    # Of regions: the value that a mask gets where a region is the last one to hold, in their order.
    regions_class_order: tuple[int, ...] | None = None
    # The whole content, if the file is nnU-Net's own, which lists no cases.
    raw: dict[str, Any] | None = None


def read_description(path: Path) -> tuple[Description | None, list[Problem]]:
    """Parse a ``dataset.json``; None if it is no JSON object with a list of training cases."""
    content, problems = _load(path)
    if content is None:
        return None, problems
    where = str(path)
    channels, of_channels = _parse_channels(content, where)
    labels, of_labels = parse_labels(content.get("labels"), where)
    order, of_order = _parse_order(content.get("regions_class_order"), labels, where)
    problems += of_channels + of_labels + of_order
    if is_raw(content):
        return Description(channels, labels, (), (), order, raw=content), problems
    if not isinstance(content.get("training"), list):
        fix = 'list the training cases as {"image": ..., "label": ...}'
        found = _shown(content["training"]) if "training" in content else "no such key"
        return None, [
            *problems,
            Problem("dataset-json.no-training", "training is not a list", where, fix, "a list", found),
        ]
    training, of_training = _parse_entries(content, "training", where)
    test, of_test = _parse_entries(content, "test", where)
    problems += of_training + of_test + _judge_count(content, where)
    return Description(channels, labels, tuple(training), tuple(test), order), problems


def is_raw(content: dict[str, Any]) -> bool:
    """Whether a ``dataset.json`` is nnU-Net's, which lists no cases."""
    return "training" not in content and isinstance(content.get("channel_names"), dict) and "file_ending" in content


def _load(path: Path) -> tuple[dict[str, Any] | None, list[Problem]]:
    where = str(path)
    oddities: list[Problem] = []

    def note_constant(name: str) -> None:
        fix = "remove the value or write a number"
        oddities.append(Problem("dataset-json.not-a-number", "not a JSON number", where, fix, "a number", name))

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        oddities.extend(
            Problem(
                "dataset-json.duplicate-key",
                "duplicate key",
                where,
                "keep one of the two",
                "each key once",
                _shown(key),
            )
            for key in twice
        )
        return dict(pairs)

    fix = "correct the file at this place; python -m json.tool shows whether it parses"
    try:
        if not path.is_file():
            fix = "name the folder of a decathlon task, such as Task05_Prostate"
            return None, [Problem("dataset-json.missing", "dataset.json is missing", where, fix, "a file of that name")]
        if path.stat().st_size > _MAX_BYTES:
            fix = "restore the file from the data set's source"
            return None, [
                Problem(
                    "dataset-json.too-large",
                    "dataset.json is far too large",
                    where,
                    fix,
                    f"at most {_MAX_BYTES} bytes",
                )
            ]
        # Windows editors put a byte order mark in front, which utf-8-sig takes away.
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text, parse_constant=note_constant, object_pairs_hook=build)
    except UnicodeDecodeError as error:
        return None, [
            Problem("dataset-json.not-utf8", "not UTF-8 text", where, "save the file as UTF-8", "UTF-8", str(error))
        ]
    except json.JSONDecodeError as error:
        found = f"{error.msg} at line {error.lineno}, column {error.colno}"
        return None, [Problem("dataset-json.invalid", "invalid JSON", where, fix, "JSON", found)]
    except (RecursionError, ValueError) as error:
        return None, [Problem("dataset-json.invalid", "invalid JSON", where, fix, "JSON", _shown(str(error)))]
    except OSError as error:
        return None, [
            Problem(
                "dataset-json.unreadable", "dataset.json cannot be read", where, "make it readable", found=str(error)
            )
        ]
    if not isinstance(content, dict):
        return None, [
            *oddities,
            Problem("dataset-json.not-an-object", "dataset.json is no object", where, fix, "{...}", _shown(content)),
        ]
    return content, oddities


def _parse_channels(content: dict[str, Any], where: str) -> tuple[tuple[str, ...] | None, list[Problem]]:
    spellings = [key for key in ("channel_names", "modality") if key in content]
    fix = 'write one name per channel, as in "modality": {"0": "T2", "1": "ADC"}'
    if not spellings:
        return None, [
            Problem("dataset-json.no-channels", "no channel names", where, fix, "modality or channel_names", "neither")
        ]
    parsed = {key: _channel_list(content[key]) for key in spellings}
    wrong = [key for key, names in parsed.items() if names is None]
    if wrong:
        expected = "names for the channels 0, 1, ... without a gap"
        return None, [
            Problem(
                "dataset-json.bad-channels",
                f"{key} does not name the channels",
                where,
                fix,
                expected,
                _shown(content[key]),
            )
            for key in wrong
        ]
    if len(set(parsed.values())) > 1:
        found = " and ".join(f"{key} {_shown(content[key])}" for key in spellings)
        return None, [
            Problem(
                "dataset-json.two-channel-lists",
                "two lists of channels differ",
                where,
                "keep one of them",
                "one list",
                found,
            )
        ]
    return parsed[spellings[0]], []


def _channel_list(raw: Any) -> tuple[str, ...] | None:
    """Channel names in the order of their numbers, or None."""
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


def parse_labels(raw: Any, where: str) -> tuple[Labels | None, list[Problem]]:
    """Classes and regions with their values, from ``{"0": name}`` or ``{name: 0}``; classes in the order of values."""
    if not isinstance(raw, dict) or not raw:
        fix = 'write them as {"0": "background", "1": "name", ...}'
        found = "nothing" if raw is None else _shown(raw)
        return None, [
            Problem("dataset-json.no-classes", "labels do not name the classes", where, fix, "an object", found)
        ]
    problems: list[Problem] = []
    named_by_value = all(isinstance(value, str) and _whole(value) is None for value in raw.values()) or all(
        isinstance(value, str) and _whole(key) is not None for key, value in raw.items()
    )
    pairs = [(other, key) if named_by_value else (key, other) for key, other in raw.items()]
    classes: list[tuple[str, list[int]]] = []
    for name, value in pairs:
        numbers = [_whole(each) for each in (value if isinstance(value, list) else [value])]
        whole = [number for number in numbers if number is not None]
        if not numbers or len(whole) < len(numbers) or not isinstance(name, str) or not name.strip():
            fix = "give every class a name and a whole number, or a region a list of them"
            found = f"{_shown(name)} = {_shown(value)}"
            problems.append(
                Problem(
                    "dataset-json.label-not-whole", "label without a whole number", where, fix, "0, 1, 2, ...", found
                )
            )
        else:
            classes.append((_known_name(name.strip(), whole), sorted(set(whole))))
    return (None, problems) if problems else _judge_labels(classes, where)


def _known_name(name: str, values: list[int]) -> str:
    """``name``, or nnU-Net's spelling of the two that mean something to it."""
    if name.lower() == IGNORE or (values == [0] and name.lower() == BACKGROUND):
        return name.lower()
    return name


def _judge_labels(classes: list[tuple[str, list[int]]], where: str) -> tuple[Labels | None, list[Problem]]:
    regions = any(len(values) > 1 for _, values in classes)
    if not regions:  # those of regions stand in the order of the network's outputs
        classes = sorted(classes, key=lambda pair: pair[1])
    labels: Labels = {name: values if len(values) > 1 else values[0] for name, values in classes}
    sets = [tuple(values) for _, values in classes]
    values = sorted(value for each in sets for value in each) if not regions else all_values(labels)
    found = ", ".join(f"{format_values(each)} {name}" for name, each in classes)
    fix = "number the classes without a gap from 0, the background, in dataset.json and in the label maps"
    problems = [
        Problem(
            "dataset-json.label-twice",
            f"two labels share the {kind} {shared}",
            where,
            "give every class a name and value of its own",
        )
        for kind, items in (
            ("value", [format_values(each) for each in sets]),
            ("name", [name for name, _ in classes]),
        )
        for shared in _repeated(items)
    ]
    if 0 not in values:
        problems.append(
            Problem("dataset-json.no-background", "labels lack the background", where, fix, "0 background", found)
        )
    elif (BACKGROUND, [0]) not in classes or any(0 in each for each in sets if len(each) > 1):
        fix = "call the value 0 background, or renumber the classes if 0 is one of them"
        problems.append(
            Problem(
                "dataset-json.zero-not-background", "label 0 is not the background", where, fix, "0 background", found
            )
        )
    elif not problems and values != list(range(len(values))):
        expected = ", ".join(map(str, range(len(values))))
        problems.append(
            Problem("dataset-json.label-gap", "labels leave a gap", where, fix, expected, ", ".join(map(str, values)))
        )
    elif not problems and IGNORE in labels and (labels[IGNORE] != values[-1] or _holding(values[-1], sets) > 1):
        fix = "give ignored voxels the value after that of the last class, in dataset.json and in the label maps"
        problems.append(
            Problem(
                "dataset-json.ignore-not-last",
                "the ignore label is not the highest value",
                where,
                fix,
                "ignore last",
                found,
            )
        )
    elif not problems and not foreground(labels):
        fix = "declare the classes that the label maps hold"
        problems.append(
            Problem("dataset-json.background-only", "no class besides the background", where, fix, "0, 1, ...", found)
        )
    return (None, problems) if problems else (labels, [])


def _holding(value: int, sets: list[tuple[int, ...]]) -> int:
    return sum(value in each for each in sets)


def _parse_order(raw: Any, labels: Labels | None, where: str) -> tuple[tuple[int, ...] | None, list[Problem]]:
    """``regions_class_order``: region after region the value that a mask gets; None without regions.

    A value that is not its region's own, or that a later region holds too, would make other regions of a mask.
    """
    if labels is None or not has_regions(labels):
        return None, []
    regions = [values_of(value) for value in foreground(labels).values()]
    order = [_whole(value) for value in raw] if isinstance(raw, list) else []
    if len(order) == len(regions) and all(
        value in region and not any(value in later for later in regions[place + 1 :])
        for place, (value, region) in enumerate(zip(order, regions, strict=True))
    ):
        return tuple(value for value in order if value is not None), []
    fix = "write a value for every region: one that it holds and no region after it does; larger regions come first"
    found = "no such key" if raw is None else _shown(raw)
    example = 'as [1, 2] for {"whole": [1, 2], "core": 2}'
    return None, [
        Problem(
            "dataset-json.regions-order", "regions_class_order does not fit the regions", where, fix, example, found
        )
    ]


def _parse_entries(content: dict[str, Any], key: str, where: str) -> tuple[list[Entry], list[Problem]]:
    items = content.get(key) or []
    if not isinstance(items, list):
        return [], [
            Problem(
                "dataset-json.not-a-list",
                f"{key} is not a list",
                where,
                "write a list of images",
                "[...]",
                _shown(items),
            )
        ]
    entries: list[Entry] = []
    problems: list[Problem] = []
    for number, item in enumerate(items):
        place = f"{key}[{number}]"
        parts = {"image": item} if isinstance(item, str) else item
        image = parts.get("image") if isinstance(parts, dict) else None
        label = parts.get("label") or None if isinstance(parts, dict) else None
        if isinstance(image, str) and image and (label is None or isinstance(label, str)):
            entries.append(Entry(image, label, place))
            continue
        fix = 'write {"image": "path", "label": "path"}, or leave the label out'
        problems.append(
            Problem("dataset-json.bad-entry", f"{place} names no image and label", where, fix, "paths", _shown(item))
        )
    return entries, problems


def _judge_count(content: dict[str, Any], where: str) -> list[Problem]:
    stated, listed = content.get("numTraining"), len(content["training"])
    if stated is None or _whole(stated) == listed:
        return []
    fix = "correct numTraining, or restore the entries that are missing"
    return [
        Problem("dataset-json.wrong-count", "numTraining is wrong", where, fix, f"{listed}, as listed", _shown(stated))
    ]


def _whole(value: Any) -> int | None:
    """``value`` as an integer if it is one, also if it is written as a string or as 1.0."""
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value.strip()):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _repeated(items: Iterable[Any]) -> list[Any]:
    return [item for item, count in Counter(items).items() if count > 1]


def _shown(value: Any) -> str:
    """``value`` as short JSON; escapes keep control characters off the terminal."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "a deeply nested value"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
