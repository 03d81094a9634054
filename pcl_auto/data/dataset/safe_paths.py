"""Paths and case names from a data set, which nobody here wrote: kept inside its folder and safe to use.

A name is judged as text first, then by where it leads; a file outside the data set's folder is never opened.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pcl_auto.data.formats.suffixes import NIFTI_SUFFIXES, nifti_stem
from pcl_auto.errors import Problem

_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs", "imagesUn")
_CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}", re.ASCII)
_CASE_RULE = "up to 120 letters, digits, '.', '_' and '-', beginning with a letter or digit and not ending in _seg"
_DRIVE_OR_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_SHOWN = 250
_INSIDE = "a path inside the data set's folder, such as imagesTr/case_01.nii.gz"


@dataclass(frozen=True)
class DatasetRoot:
    """A data set's folder: ``root`` with its links resolved, ``given`` as the user wrote it, absolute.

    With ``follow_links`` a link in the folder may lead out of it, as in a folder of links to an archive.
    """

    root: Path
    given: Path
    follow_links: bool = False

    @classmethod
    def at(cls, folder: Path, *, follow_links: bool = False) -> DatasetRoot:
        """The folder, which need not exist yet."""
        absolute = Path(os.path.abspath(folder))  # noqa: PTH100 - Path.absolute would keep ".." in it
        return cls(Path(os.path.realpath(folder)), absolute, follow_links)

    def locate(self, text: str, where: str, kind: str) -> tuple[Path | None, Problem | None]:
        """The file that ``text`` means, under its own suffix or the other one, or why it cannot be used.

        Args:
            text: a path from dataset.json; a leading ``/`` or ``./`` means the data set's folder.
            where: the place of ``text``, for the problem.
            kind: "image" or "label".
        """
        relative, refusal = self.spell(text, where)
        if relative is None:
            return None, refusal
        path = self.root / relative
        base = nifti_stem(relative.name)
        if base is None:
            fix = "convert the file to NIfTI (.nii or .nii.gz)"
            return None, Problem(
                "data.not-named-nifti", f"{kind} is not named as NIfTI", where, fix, ".nii or .nii.gz", _quoted(text)
            )
        for candidate in (path, *(path.with_name(base + suffix) for suffix in NIFTI_SUFFIXES)):
            if os.path.lexists(candidate):
                refusal = self.refuse_target(candidate, kind)
                return (None, refusal) if refusal else (candidate, None)
        fix = "restore the file, or take it out of dataset.json"
        if kind == "label":
            fix = 'restore the file, or drop the "label" key to use the case as unlabeled'
        first = relative.parts[0]
        if text.startswith("/") and first not in _FOLDERS and not (self.root / first).exists():
            return None, _outside(text, where)
        code = "data.label-missing" if kind == "label" else "data.image-missing"
        return None, Problem(code, f"{kind} is missing", where, fix, _cut(shown(path)), "no such file")

    def spell(self, text: str, where: str) -> tuple[PurePosixPath | None, Problem | None]:
        """``text`` as a path relative to the data set's folder, judged as text alone."""
        if not text.isprintable() or "\\" in text:
            fix = "write the path with plain letters and /"
            return None, Problem("data.path-unusable", "unusable path", where, fix, _INSIDE, _quoted(text))
        pure = PurePosixPath(text)
        for folder in (self.given, self.root):
            if text.startswith("/") and pure.is_relative_to(folder.as_posix()):
                pure = pure.relative_to(folder.as_posix())
                break
        else:
            pure = PurePosixPath(text.removeprefix("/"))
        expands = "$" in str(pure) or text.startswith("~") or _DRIVE_OR_SCHEME.match(text)
        if expands or pure.is_absolute() or ".." in pure.parts or not pure.parts:
            return None, _outside(text, where)
        return pure, None

    def refuse_target(self, path: Path, kind: str) -> Problem | None:
        """Refuse a path that leads out of the folder, or to what is no regular file; nothing is opened."""
        where = shown(path)
        try:
            target = path.resolve(strict=True)
            mode = target.stat().st_mode
        except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
            fix = "put the file itself in this place, readable for you"
            return Problem("data.unreachable", f"{kind} cannot be reached", where, fix, "a file", _reason(path, error))
        if not target.is_relative_to(self.root) and not self.follow_links:
            fix = "allow it with --follow-symlinks if you made the link, else put the file itself in this place"
            expected = f"a file inside {self.root}"
            return Problem(
                "data.link-outside", f"{kind} is a link out of the data set", where, fix, expected, shown(target)
            )
        wanted = stat.S_ISDIR(mode) if kind == "folder" else stat.S_ISREG(mode)
        if not wanted:
            found = "a folder" if stat.S_ISDIR(mode) else "a file, device or pipe"
            fix = "put the NIfTI file itself in this place" if kind != "folder" else "make it a folder"
            code = "data.not-a-file" if kind != "folder" else "data.not-a-folder"
            expected = "a file" if kind != "folder" else "a folder"
            return Problem(code, f"{kind} is of another kind", where, fix, expected, found)
        return None

    def list_files(self, folder: str) -> tuple[list[Path], list[Problem]]:
        """What lies in a folder that need not exist, sorted; hidden files (also AppleDouble) are left out."""
        path = self.root / folder
        if not os.path.lexists(path):
            return [], []
        refusal = self.refuse_target(path, "folder")
        if refusal:
            return [], [refusal]
        try:
            return sorted(child for child in path.iterdir() if not child.name.startswith(".")), []
        except OSError as error:
            fix = "make the folder readable for you"
            return [], [
                Problem(
                    "data.folder-unreadable",
                    "folder cannot be listed",
                    str(path),
                    fix,
                    found=error.strerror or str(error),
                )
            ]


def shown(path: Path) -> str:
    """``path`` for a message: a name with control characters must not reach a terminal as it is."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def refuse_case_id(name: str, where: str) -> Problem | None:
    """Refuse a case name that is unsafe in paths, or that nnU-Net takes for a file of its own (``_seg``)."""
    if _CASE_ID.fullmatch(name) and not name.endswith("_seg"):
        return None
    fix = "rename the image and its label, also in dataset.json"
    return Problem("data.case-name", "case name cannot be used", where, fix, _CASE_RULE, _quoted(name))


def _outside(text: str, where: str) -> Problem:
    fix = "move the file into the data set's folder and write its path relative to it"
    return Problem("data.path-outside", "path leads out of the data set", where, fix, _INSIDE, _quoted(text))


def _reason(path: Path, error: Exception) -> str:
    try:
        return f"a link to {_quoted(str(path.readlink()))}, which leads nowhere"
    except OSError:
        return getattr(error, "strerror", None) or "a broken path"


def _quoted(text: str) -> str:
    """``text`` in quotes, cut, with everything unprintable escaped."""
    return ascii(_cut(text))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
