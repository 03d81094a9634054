"""Keep folders for outputs apart from inputs, and let one process at a time write into each."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from pcl_auto.errors import LockedError, Problem, ResourceError, UsageError
from pcl_auto.workspace.lock import sole_writer

# Hidden, and in the folder itself: the one above may be anybody's, or not writable.
_LOCK = "pclauto"
# A review's folder holds it, and with it masks that a person corrects.
REVIEW_RECORD = "review.json"
_WORKSPACE = ("nnunet_raw", "nnunet_preprocessed", "nnunet_results")
# Of a data set, by nnU-Net's and the decathlon's names.
_CASES = re.compile(r"(images|labels)(tr|ts|un|va|val)", re.IGNORECASE)


@contextmanager
def sole_writer_in(folder: Path) -> Iterator[None]:
    """Make ``folder`` and hold it for the outputs of this process; the lock lies in it, hidden.

    On a file system without locks, as some network drives are, it is held against the processes of this machine alone.

    Raises:
        LockedError: another process writes there; the message says which, and since when.
        ResourceError: the folder cannot be made.
        OSError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, FileExistsError) as error:  # as in /proc
        what, fix = "folder cannot be made", "choose another folder"
        raise ResourceError(Problem("disk.unwritable", what, str(folder), fix, found=str(error))) from error
    with ExitStack() as stack:
        try:
            try:
                stack.enter_context(sole_writer(folder / _LOCK))
            except ResourceError as error:
                if {problem.code for problem in error.problems} != {"disk.no-locks"}:
                    raise
                stack.enter_context(sole_writer(_local_locks(error) / _digest(folder)))
        except LockedError as error:
            what = "another process is writing into this folder"
            problems = [replace(problem, what=what, where=str(folder)) for problem in error.problems]
            raise LockedError(problems) from None
        yield


def _local_locks(error: ResourceError) -> Path:
    """Return a folder of this machine and user for locks of others."""
    folder = Path(tempfile.gettempdir()) / f"pclauto-locks-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():  # somebody else has made it
        raise error
    return folder


def _digest(folder: Path) -> str:
    return hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]


def visible(folder: Path) -> list[Path]:
    """Return what is in ``folder`` but hidden files, such as those of its lock; nothing where there is no folder."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def same_file(one: Path, other: Path) -> bool:
    """Tell whether two paths are one file or folder, by whatever names, links and mounts."""
    try:
        return one.samefile(other)
    except OSError:  # one is not there
        return one.resolve() == other.resolve()


def contains(folder: Path, path: Path) -> bool:
    """Tell whether ``path`` lies in ``folder`` or below it, by whatever names."""
    return any(same_file(folder, parent) for parent in path.resolve().parents)


def refuse_input_folder(folder: Path, option: str = "-o", *, review: bool = False, data: bool = False) -> None:
    """Refuse to write into a folder that others read: of a data set, a plan, a model, or of masks being corrected.

    Args:
        folder: there already or not.
        option: that names it.
        review: whether a review may go where an earlier one is.
        data: whether data sets may go where nnU-Net looks for them.

    Raises:
        UsageError: it is such a folder, or lies in one; or it is no folder.
    """
    real = Path(os.path.realpath(folder))  # of links in a loop too
    for place in (real, *real.parents):
        if os.path.lexists(place) and not place.is_dir():
            fix = f"choose another folder with {option}"
            raise UsageError(Problem("output.no-folder", "a file is where a folder should be", str(place), fix))
        if kind := _kind(place, real.relative_to(place).parts, review=review, data=data):
            raise UsageError(
                Problem(
                    code="output.input-folder",
                    what=f"output would be written into {kind}",
                    where=str(folder),
                    expected="a folder for outputs alone",
                    found="" if place == real else f"it lies in {place}",
                    fix=f"choose another folder with {option}",
                )
            )


def _kind(place: Path, below: tuple[str, ...], *, review: bool, data: bool) -> str:
    """Return what a folder, or one ``below`` it, is that no output belongs in; empty if nothing."""
    name = place.name.casefold()
    if name == _WORKSPACE[1] or (not below and name in _WORKSPACE and not (data and name == _WORKSPACE[0])):
        return "a folder of nnU-Net"
    if (
        not below
        and not data
        and any((place / folder).is_dir() for folder in ("nnUNet_preprocessed", "nnUNet_results"))
    ):
        return "a workspace"
    if (place / "dataset.json").is_file():
        if (place / "plans.json").is_file():
            return "a model"
        if not below or _CASES.fullmatch(below[0]):
            return "a data set"
    if (place / REVIEW_RECORD).is_file() and not (review and not below):
        return "masks that are being corrected"
    return ""
