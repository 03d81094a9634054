"""Make a data set of plain folders: images, and masks of some of them.

Everything is checked before anything is written, and the folders that are read stay as they are.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pcl_auto.data.dataset.channel_names import choose_channels
from pcl_auto.data.dataset.check_plain import Progress, check_files, convert_files
from pcl_auto.data.dataset.label_names import parse_labels
from pcl_auto.data.dataset.plain_cases import Sources, find_cases
from pcl_auto.data.dataset.plain_listing import refuse_places
from pcl_auto.data.dataset.write_dataset import Written, is_raw, write_dataset
from pcl_auto.data.labels import Labels
from pcl_auto.errors import DataError, Problem, UsageError
from pcl_auto.workspace.atomic import staging_folder


@dataclass(frozen=True)
class NewDataset:
    """A data set that was made of plain folders.

    Attributes:
        folder: where it is.
        labeled: cases with a mask, and so on.
        channels: their names, in order.
        labels: classes by name.
        is_raw: in nnU-Net's raw format, since each channel has a file of its own; otherwise in the decathlon's.
        matched: how many masks were matched with their images in which way.
        converted: files that were no NIfTI.
        written: None of a dry run.
        warnings: what is worth a look.
    """

    folder: Path
    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    test: tuple[str, ...]
    channels: tuple[str, ...]
    labels: Labels
    is_raw: bool
    matched: Mapping[str, int]
    converted: int
    written: Written | None
    warnings: tuple[Problem, ...]


def default_target(images: Path) -> Path:
    """Return the folder of a data set that is given none: here, called as the folder that the images' one lies in."""
    name = Path(os.path.realpath(images)).parent.name
    plain = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in name)
    return Path(f"Task_{plain or 'data'}")


def make_dataset(
    sources: Sources,
    target: Path,
    *,
    labels: str | None = None,
    channels: tuple[str, ...] = (),
    modality: str | None = None,
    copy: bool = False,
    dry_run: bool = False,
    threads: int = 1,
    progress: Progress = lambda _what, _done, _total: None,
) -> NewDataset:
    """Check folders of images and masks, and make of them a data set that ``pclauto plan`` reads.

    With one file for each case it has the decathlon's format, with one for each channel that of nnU-Net's raw data.

    Args:
        sources: the folders.
        target: the folder of the data set: not there, or empty.
        labels: names of classes, as :func:`parse_labels` takes them; without, they are called by their values.
        channels: names of the channels, in order.
        modality: CT or MRI, instead of names; without either, images that may be CT are refused.
        copy: copy the files; otherwise they are hard links where the disk allows it.
        dry_run: check and match, write nothing.
        threads: files read at once; each takes the memory of its volume.
        progress: called with "convert" or "check", the number of files that are done, and of all.

    Raises:
        UsageError: options and folders that make no sense, all of them listed.
        DataError: files that do not, all of them listed, and such options; nothing is written.
        ResourceError: the disk does not suffice.
    """
    real = Path(os.path.realpath(target))
    classes, wrong = (None, []) if labels is None else parse_labels(labels)
    wrong += _refuse_channels(channels, modality)
    if misplaced := refuse_places(sources.folders, real):
        raise UsageError([*misplaced, *wrong])
    found = find_cases(sources)
    with _staging(real, dry_run=dry_run) as staging:
        root = staging / real.name
        converted = convert_files(found, root, threads, progress)
        name = partial(choose_channels, given=channels, modality=modality, where=str(sources.images))
        checked = check_files(converted, sources, None if wrong else classes, name, threads, progress)
        if checked.problems or wrong:
            raise (DataError if checked.problems else UsageError)([*dict.fromkeys([*wrong, *checked.problems])])
        cases = converted.cases
        written = None
        if not dry_run:
            written = write_dataset(root, real, cases, checked.channels, checked.labels, copy=copy)
    training = [case for case in cases if case.source != "imagesTs"]
    return NewDataset(
        folder=target,
        labeled=tuple(case.id for case in training if case.label),
        unlabeled=tuple(case.id for case in training if not case.label),
        test=tuple(case.id for case in cases if case.source == "imagesTs"),
        channels=checked.channels,
        labels=checked.labels,
        is_raw=is_raw(cases),
        matched=found.matched,
        converted=len(converted.originals),
        written=written,
        warnings=tuple(dict.fromkeys(checked.warnings)),
    )


def _refuse_channels(channels: tuple[str, ...], modality: str | None) -> list[Problem]:
    found = ", ".join(channels)
    if channels and modality:
        what, fix = "--channels and --modality say the same thing", "leave one of them out"
        return [Problem("init.channels", what, "--channels", fix, "one of the two", found)]
    if any(not name.strip() or not name.isprintable() for name in channels):
        what, fix = "a channel without a name that can be used", "name every channel, in order, as in --channels T2,ADC"
        return [Problem("init.channels", what, "--channels", fix, "a name", found)]
    return []


@contextmanager
def _staging(target: Path, *, dry_run: bool) -> Iterator[Path]:
    """Yield a folder for what is not whole yet; of a refusal nothing stays, no new folder above it either."""
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        with tempfile.TemporaryDirectory(prefix="pclauto-init-") if dry_run else staging_folder(target) as folder:
            yield Path(folder)
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise
