"""Find out by their names which files are the channels of one case, and which mask was drawn on which image."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pcl_auto.errors import Problem, format_names

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})", re.ASCII)
# What people add to a name to say what a file is.
_OF_MASKS = "seg|dseg|segm|segmentations?|masks?|labels?|labelmap|lbl|gt|ground_?truth|annotations?|roi|contour"
_OF_IMAGES = "images?|img|scan|volume|vol|orig|ct|mri?|pet|t1|t1w|t1c|t1ce|t1gd|t2|t2w|flair|adc|dwi"
SAME_NAME = "the same name"


@dataclass
class Pairing:
    """Cases and their masks as far as names tell them, and in ``problems`` what they leave open.

    Attributes:
        cases: by case the files of its image: one, or one per channel in the order of their numbers.
        masks: by case its mask.
        how: by the way in which names were matched, how many masks were.
        channels_named: whether images are called as nnU-Net's channels, ``case_0000``.
    """

    cases: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    how: Counter[str] = field(default_factory=Counter)
    channels_named: bool = False
    problems: list[Problem] = field(default_factory=list)

    def add_problem(self, code: str, what: str, where: Path, fix: str, expected: str, found: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(code, what, str(where), fix, expected, found))


def pair(images: Mapping[str, Path], masks: Mapping[str, Path]) -> Pairing:
    """Match the files of two folders, each given by its name without the ending."""
    pairing = _group(images, {name for mask in masks for name, _ in _readings(mask, _OF_MASKS)})
    _refuse_masks_among(images, pairing)
    matcher = _Matcher.of(pairing.cases)
    found: dict[str, list[Path]] = defaultdict(list)
    alone: list[Path] = []
    for mask, file in masks.items():
        cases = matcher.cases_of(mask)
        if len(cases) == 1:
            ((case, how),) = cases.items()
            found[case].append(file)
            pairing.how[how] += 1
        elif cases:
            what = "mask that may be that of several images"
            fix = "call it as its image; if the images are channels of one case, call them case_0000, case_0001, …"
            pairing.add_problem("init.several-images", what, file, fix, "one image", format_names(cases, 4))
        else:
            alone.append(file)
    for case, files in found.items():
        pairing.masks[case] = files[0]
        if len(files) > 1:
            what, fix = "several masks for one image", "leave one there; classes are values of one mask"
            names = ", ".join(file.name for file in files)
            pairing.add_problem("init.several-masks", what, files[0], fix, "one mask", names)
    if alone and images:
        what, fix = "masks without an image", "call each mask as its image, or take it out of the folder"
        names = f"{len(alone)} of {len(masks)}: {format_names(file.name for file in alone)}"
        expected = f"names of images, such as {format_names(pairing.cases, 3)}"
        pairing.add_problem("init.mask-alone", what, alone[0].parent, fix, expected, names)
    return pairing


def group_channels(images: Mapping[str, Path], *, channels_named: bool) -> Pairing:
    """Return the cases of a folder without masks; ``channels_named`` is that of the images beside it."""
    cases = {match["case"] for name in images if (match := _CHANNEL.fullmatch(name))}
    return _group(images, cases if channels_named else ())


def _group(images: Mapping[str, Path], wanted: Collection[str]) -> Pairing:
    """Group the channels of cases.

    ``patient_0000`` is channel 0 of ``patient``, or the first of many patients: ``wanted``, names of masks, tells.
    """
    numbers: dict[str, dict[int, Path]] = defaultdict(dict)
    for name, file in images.items():
        if match := _CHANNEL.fullmatch(name):
            numbers[match["case"]][int(match["channel"])] = file
    own = {case: [number for number in files if _numbered(case, number) in wanted] for case, files in numbers.items()}
    counting = {case for case, named in own.items() if any(named)}  # a mask called _0001 is that of no channel
    channels = {case for case in numbers if case in wanted} - counting
    if not counting:  # the mask of a single channel may have its number
        channels |= {case for case, named in own.items() if named == [0] and len(numbers[case]) == 1}
    if channels:
        channels |= {case for case, named in own.items() if not named}
    pairing = Pairing(channels_named=bool(channels))
    for case in channels:
        files = [file for _, file in sorted(numbers[case].items())]
        pairing.cases[case] = tuple(files)
        others = [*([images[case]] if case in images else []), *files]
        if sorted(numbers[case]) != [*range(len(files))] or len(others) > len(files):
            what, fix = "files that are not the channels of one case", "keep one file for each channel, or one for all"
            names = ", ".join(file.name for file in others)
            pairing.add_problem("init.channel-files", what, files[0], fix, f"{case}_0000, {case}_0001, …", names)
    for name, file in images.items():
        match = _CHANNEL.fullmatch(name)
        if match is None or match["case"] not in channels:
            pairing.cases.setdefault(name, (file,))
    doubtful = [case for case, named in own.items() if named == [0] and len(numbers[case]) > 1]
    for case in doubtful if len(numbers) > 1 else ():
        what = "mask that has the name of channel 0, or of an image alone"
        fix = f"call the mask {case} if these images are channels of one case; else call them otherwise than _0000, …"
        names = f"images {format_names((file.name for _, file in sorted(numbers[case].items())), 3)}"
        pairing.add_problem("init.channel-or-case", what, numbers[case][0], fix, "a name with one meaning", names)
    pairing.cases = dict(sorted(pairing.cases.items()))
    return pairing


def _numbered(case: str, number: int) -> str:
    return f"{case}_{number:04d}"


def _refuse_masks_among(images: Mapping[str, Path], pairing: Pairing) -> None:
    """Refuse masks in the folder of images: as scans without a label they would be learned from."""
    names = {name.casefold() for name in (*images, *pairing.cases)}
    found = [
        file.name
        for name, file in images.items()
        if any(part and core.casefold() in names for core, part in _readings(name, _OF_MASKS))
    ]
    if found:
        what, fix = "masks among the images", "move them into the folder of masks"
        folder = next(iter(images.values())).parent
        pairing.add_problem("init.mask-among-images", what, folder, fix, "images alone", format_names(found))


@dataclass(frozen=True)
class _Matcher:
    """The names under which a mask may mean a case, from the most to the least alike."""

    # By name: the cases that it means, each with what was left out of its image's name.
    exact: Mapping[str, Mapping[str, str]]
    folded: Mapping[str, Mapping[str, str]]
    bare: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, cases: Mapping[str, tuple[Path, ...]]) -> _Matcher:
        exact: dict[str, dict[str, str]] = defaultdict(dict)
        folded: dict[str, dict[str, str]] = defaultdict(dict)
        bare: dict[str, dict[str, str]] = defaultdict(dict)
        for case, files in cases.items():
            numbered = _numbered(case, 0)
            for name in (case, numbered) if len(files) == 1 and numbered not in cases else (case,):
                exact[name].setdefault(case, "")
                folded[name.casefold()].setdefault(case, "")
                for core, part in _readings(name, _OF_IMAGES):
                    bare[core.casefold()].setdefault(case, part)
        return cls(exact, folded, bare)

    def cases_of(self, mask: str) -> dict[str, str]:
        """Return the cases that a mask may belong to, by the closest likeness that any has, and how each was found."""
        if mask in self.exact:
            return dict.fromkeys(self.exact[mask], SAME_NAME)
        for names in (self.folded, self.bare):
            hows: dict[str, str] = {}
            for core, left_out in _readings(mask, _OF_MASKS):
                for case, part in names.get(core.casefold(), {}).items():
                    hows.setdefault(case, _how(part, left_out))
            if hows:
                return hows
        return {}


def _how(of_image: str, of_mask: str) -> str:
    parts = [f'"{part}" of the {kind}' for part, kind in ((of_image, "image"), (of_mask, "mask")) if part]
    return f"{' and '.join(parts)} left out" if parts else "the same name but for capitals"


def _readings(name: str, words: str) -> Iterator[tuple[str, str]]:
    """Yield a name as it is, and without a word for what it is; each with what was left out."""
    yield name, ""
    first, last = rf"(?P<part>(?:{words})(?:[-_. ]|(?=\d)))(?P<core>.+)", rf"(?P<core>.+?)(?P<part>[-_. ](?:{words}))"
    for pattern in (first, last):
        if match := re.fullmatch(pattern, name, re.IGNORECASE):
            yield match["core"], match["part"]
