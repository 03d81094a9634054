"""Choose the names of channels, by which nnU-Net normalizes: Hounsfield units if it is CT, else each scan by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pcl_auto.data.formats.volume import read_volume
from pcl_auto.errors import Problem

CT, MRI = "CT", "MRI"
# Air has -1000 Hounsfield units and fat -100; scans of other kinds have at most a little noise below 0.
_LOWEST_OF_OTHERS = -100
_LOOKED_AT = 5


@dataclass(frozen=True)
class ChosenChannels:
    """The names of channels, what keeps them from being chosen, and warnings of names that do not fit what is seen."""

    names: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def choose_channels(
    images: Mapping[str, Sequence[Path]], count: int, given: Sequence[str], modality: str | None, where: str
) -> ChosenChannels:
    """Choose the names of the channels.

    Args:
        images: by case the files of sound images, some of which are looked at.
        count: how many channels they have.
        given: names that the user gave, or none.
        modality: CT or MRI for every channel; without it and without names, images that may be CT are refused.
        where: the folder of the images.
    """
    names = tuple(given) or (modality or MRI,) * count
    if len(names) != count:
        what, fix = "the images have other channels than are named", "name every channel, in order"
        found = f"{len(names)}: {', '.join(names)}"
        return ChosenChannels(names, (Problem("init.channels", what, "--channels", fix, f"{count} names", found),))
    is_guess = not given and modality is None
    if count > 1 and is_guess:
        what = f"images of {count} channels, which have no names"
        fix = "name the channels in order, as in --channels T2,ADC; a channel of CT is to be called CT"
        return ChosenChannels(names, (Problem("init.channels", what, where, fix, f"{count} names"),))
    lowest = _lowest(images)
    like_ct = [channel for channel in range(count) if len(lowest) and lowest[channel] < _LOWEST_OF_OTHERS]
    as_ct = [channel for channel, name in enumerate(names) if name.casefold() == CT.casefold()]
    found = ", ".join(
        f"down to {lowest[channel]:g}" + (f" in channel {channel}" if count > 1 else "") for channel in like_ct
    )
    if like_ct and is_guess:
        what, expected = "intensities that may be Hounsfield units", "--modality CT or --modality MRI"
        fix = "say with --modality what they are: nnU-Net normalizes CT by its units, and all else scan by scan"
        return ChosenChannels(names, (Problem("init.modality", what, where, fix, expected, found),))
    warnings = []
    if len(lowest) and not {*as_ct} <= {*like_ct}:
        what, fix = (
            "CT without the intensities of air",
            "nothing, if these are Hounsfield units; else take another name",
        )
        low = ", ".join(f"down to {lowest[channel]:g}" for channel in as_ct if channel not in like_ct)
        warnings.append(Problem("init.unlike-ct", what, where, fix, f"values below {_LOWEST_OF_OTHERS}", low))
    if given and not {*like_ct} <= {*as_ct}:
        what, fix = "a channel that looks like CT has another name", "nothing, if it is none; else call it CT"
        warnings.append(Problem("init.like-ct", what, where, fix, f"no values below {_LOWEST_OF_OTHERS}", found))
    return ChosenChannels(names, (), tuple(warnings))


def _lowest(images: Mapping[str, Sequence[Path]]) -> Sequence[float]:
    """Return for each channel the median of the lowest values in some images; nothing where there are none."""
    cases = sorted(images)
    looked_at = cases[:: max(1, len(cases) // _LOOKED_AT)][:_LOOKED_AT]
    values = [
        [float(channel.min()) for file in images[case] for channel in read_volume(file).voxels] for case in looked_at
    ]
    return [median(channel) for channel in zip(*values, strict=True)] if values else []
