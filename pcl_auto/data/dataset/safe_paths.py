"""Paths and case names from a data set, which are not to be trusted: kept inside its folder and safe to use.

A path is judged as text first, then by where it leads; a file outside the data set's folder is never opened.
"""

from __future__ import annotations

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pcl_auto.data.case import Case
from pcl_auto.data.formats.suffixes import find_nifti, is_other_volume, nifti_stem
from pcl_auto.errors import Problem

_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs", "imagesUn")
_CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}", re.ASCII)
_CASE_RULE = "up to 120 letters, digits, '.', '_' and '-', beginning with a letter or digit and not ending in _seg"
_DRIVE_OR_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_SHOWN = 250
_INSIDE = "a path inside the data set's folder, such as imagesTr/case_01.nii.gz"


class DatasetRoot:
    """A data set's folder, and in ``problems`` everything that was found wrong with its paths and names.

    Attributes:
        root: the folder with its links resolved.
        given: the folder as the user wrote it, absolute.
        follow_links: accept links that lead out of the folder, as in a folder of links to an archive.
        problems: in the order they were found.
        passed_over: what lies in the folders of images and labels and is no volume.
    """

    def __init__(self, folder: Path, *, follow_links: bool = False) -> None:
        self.root = Path(os.path.realpath(folder))
        self.given = Path(os.path.abspath(folder))  # noqa: PTH100 - Path.absolute would keep ".." in it
        self.follow_links = follow_links
        self.problems: list[Problem] = []
        self.passed_over: list[Path] = []

    def report_problem(self, code: str, what: str, where: str, fix: str, expected: str = "", found: str = "") -> None:
        """Add a problem."""
        self.problems.append(Problem(code, what, where, fix, expected, found))

    def locate(self, text: str, where: str, kind: str) -> Path | None:
        """Return the file that ``text`` means, under its own suffix or the other one; None where it cannot be used.

        Args:
            text: a path from dataset.json; a leading ``/`` or ``./`` means the data set's folder.
            where: the place of ``text``, for the problem.
            kind: "image" or "label".
        """
        relative = self.spell(text, where)
        if relative is None:
            return None
        path = self.root / relative
        base = nifti_stem(relative.name)
        if base is None:
            fix = "convert the file to NIfTI (.nii or .nii.gz)"
            code, what = "data.not-named-nifti", f"{kind} is not named as NIfTI"
            self.report_problem(code, what, where, fix, ".nii or .nii.gz", _quoted(text))
            return None
        for candidate in (path, self._find(path.parent, base)):
            if os.path.lexists(candidate):
                return candidate if self.accepts(candidate, kind) else None
        if os.path.lexists(self._find(path.parent, f"{base}_0000")):
            fix = 'take "training" out of dataset.json: these are names of nnU-Net\'s raw format, which lists no cases'
            code, what, found = "data.raw-names", f"{kind} has a channel in its name", f"{base}_0000"
            self.report_problem(code, what, where, fix, _cut(shown(path)), found)
            return None
        first = relative.parts[0]
        if text.startswith("/") and first not in _FOLDERS and not (self.root / first).exists():
            self._refuse_outside(text, where)
            return None
        code = "data.label-missing" if kind == "label" else "data.image-missing"
        fix = "restore the file, or take it out of dataset.json"
        if kind == "label":
            fix = 'restore the file, or drop the "label" key to use the case as unlabeled'
        self.report_problem(code, f"{kind} is missing", where, fix, _cut(shown(path)), "no such file")
        return None

    def _find(self, folder: Path, stem: str) -> Path:
        """Return the NIfTI file of a name, in a folder of the data set; a folder elsewhere is not looked into."""
        inside = self.follow_links or Path(os.path.realpath(folder)).is_relative_to(self.root)
        return find_nifti(folder, stem) if inside else folder / f"{stem}.nii"

    def spell(self, text: str, where: str) -> PurePosixPath | None:
        """Return ``text`` as a path relative to the data set's folder, judged as text alone."""
        if not text.isprintable() or "\\" in text:
            fix = "write the path with plain letters and /"
            self.report_problem("data.path-unusable", "unusable path", where, fix, _INSIDE, _quoted(text))
            return None
        pure = PurePosixPath(text)
        for folder in (self.given, self.root):
            if text.startswith("/") and pure.is_relative_to(folder.as_posix()):
                pure = pure.relative_to(folder.as_posix())
                break
        else:
            pure = PurePosixPath(text.removeprefix("/"))
        expands = "$" in str(pure) or text.startswith("~") or _DRIVE_OR_SCHEME.match(text)
        if expands or pure.is_absolute() or ".." in pure.parts or not pure.parts:
            self._refuse_outside(text, where)
            return None
        return pure

    def _refuse_outside(self, text: str, where: str) -> None:
        fix = "move the file into the data set's folder and write its path relative to it"
        self.report_problem("data.path-outside", "path leads out of the data set", where, fix, _INSIDE, _quoted(text))

    def accepts(self, path: Path, kind: str) -> bool:
        """Tell whether a path leads to a regular file in the folder, or to a folder if that is its kind.

        Nothing is opened.
        """
        where = shown(path)
        try:
            target = path.resolve(strict=True)
            mode = target.stat().st_mode
        except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
            fix = "put the file itself in this place, readable for you"
            what, found = f"{kind} cannot be reached", _reason(path, error)
            self.report_problem("data.unreachable", what, where, fix, "a file", found)
            return False
        if not target.is_relative_to(self.root) and not self.follow_links:
            fix = "allow it with --follow-symlinks if you made the link, else put the file itself in this place"
            code, what = "data.link-outside", f"{kind} is a link out of the data set"
            self.report_problem(code, what, where, fix, f"a file inside {self.root}", shown(target))
            return False
        if stat.S_ISDIR(mode) if kind == "folder" else stat.S_ISREG(mode):
            return True
        found = "a folder" if stat.S_ISDIR(mode) else "a file, device or pipe"
        code = "data.not-a-file" if kind != "folder" else "data.not-a-folder"
        fix = "put the NIfTI file itself in this place" if kind != "folder" else "make it a folder"
        expected = "a file" if kind != "folder" else "a folder"
        self.report_problem(code, f"{kind} is of another kind", where, fix, expected, found)
        return False

    def list_volumes(self, folder: str, kind: str) -> list[Path]:
        """Return the NIfTI files of a folder that need not exist, sorted; all else is noted.

        Volumes in another format are a problem, other files are passed over; hidden ones (such as AppleDouble's) in
        silence.

        Args:
            folder: one of the data set's.
            kind: of its files: "image" or "label".
        """
        files = self._list(folder)
        for path in files:
            if is_other_volume(path.name):
                fix = "convert the file to NIfTI (.nii or .nii.gz), or take it out of this folder"
                code, what = "data.not-named-nifti", f"{kind} is not named as NIfTI"
                self.report_problem(code, what, shown(path), fix, ".nii or .nii.gz", path.suffix)
            elif nifti_stem(path.name) is None:
                self.passed_over.append(path)
        return [path for path in files if nifti_stem(path.name) is not None]

    def refuse_twins(self, files: Iterable[Path], kind: str) -> None:
        """Refuse files of one name, of which each could be meant: ``a.nii``, ``a.nii.gz`` and ``a.NII``."""
        names: dict[str | None, list[Path]] = defaultdict(list)
        for file in files:
            names[nifti_stem(file.name)].append(file)
        for same in names.values():
            if len(same) > 1:
                what, fix = f"{kind} in two files", "keep one of them"
                found = ", ".join(file.name for file in same)
                self.report_problem("data.file-twice", what, shown(same[0]), fix, "one file", found)

    def _list(self, folder: str) -> list[Path]:
        path = self.root / folder
        if not os.path.lexists(path) or not self.accepts(path, "folder"):
            return []
        try:
            return sorted(child for child in path.iterdir() if not child.name.startswith("."))
        except OSError as error:
            fix = "make the folder readable for you"
            code, what, found = "data.folder-unreadable", "folder cannot be listed", error.strerror or str(error)
            self.report_problem(code, what, str(path), fix, found=found)
            return []

    def accepts_case_id(self, name: str, where: str) -> bool:
        """Tell whether a case's name is safe in paths, and nothing that nnU-Net takes for a file of its own."""
        refusal = refuse_case_id(name, where)
        self.problems += [refusal] if refusal else []
        return refusal is None

    def refuse_shared_labels(self, cases: Iterable[Case]) -> None:
        """Refuse a file that is the label of several cases, by whatever names and links."""
        files: dict[object, list[tuple[str, Path]]] = defaultdict(list)
        for case in cases:
            if case.label is not None:
                files[identity_of(case.label)].append((case.id, case.label))
        for same in files.values():
            if len({case for case, _ in same}) > 1:
                what, fix = "one file is the label of several cases", "give each case the label that was drawn on it"
                found = ", ".join(f"{case}: {label.name}" for case, label in same)
                self.report_problem("label.of-two-cases", what, shown(same[0][1]), fix, "a file for each case", found)

    def refuse_test_images(self, training: Iterable[Case], test: Iterable[Case]) -> None:
        """Refuse images that training and test share, also through links to one file."""
        trained = {identity_of(file): file for case in training for file in case.files}
        for file in (file for case in test for file in case.files):
            twin = trained.get(identity_of(file))
            if twin:
                code, what = "data.train-and-test", "image is in training and in test"
                fix = "take the image out of one of the two: imagesTr or imagesTs, and of the lists in dataset.json"
                found = f"{file} in test" if twin == file else f"{file} in test, the same file"
                self.report_problem(code, what, shown(twin), fix, "one of the two", found)

    def refuse_repeated_images(self, cases: Iterable[Case], kind: str) -> None:
        """Refuse images that two cases share, also through links to one file."""
        files: dict[object, list[tuple[str, Path]]] = defaultdict(list)
        for case in cases:
            for file in case.files:
                files[identity_of(file)].append((case.id.lower(), file))
        for same in files.values():
            if len({case for case, _ in same}) > 1:
                fix = "keep one of the names: the others are links to the same file"
                what, where = f"one image under two names among {kind}", str(self.root / "dataset.json")
                found = ", ".join(str(file) for _, file in same)
                self.report_problem("data.image-twice", what, where, fix, "one case per image", found)

    def refuse_repeated_ids(self, cases: Iterable[Case], kind: str) -> None:
        """Refuse names that two cases share; upper and lower case are the same where a file system ignores case."""
        names: dict[str, list[Case]] = defaultdict(list)
        for case in cases:
            names[case.id.lower()].append(case)
        for same in names.values():
            if len(same) > 1:
                fix = "list every case once, under a name of its own (upper and lower case are the same here)"
                found = ", ".join(f"{case.image} ({case.source})" for case in same)
                what, where = f"case name used twice among {kind}", str(self.root / "dataset.json")
                self.report_problem("data.case-twice", what, where, fix, f"one {same[0].id}", found)


def identity_of(path: Path) -> object:
    """Return what tells one file from another, whatever links lead to it; it is not opened."""
    status = path.stat()
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def shown(path: Path) -> str:
    """Return ``path`` for a message: a name with control characters must not reach a terminal as it is."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def refuse_case_id(name: str, where: str) -> Problem | None:
    """Refuse a case name that is unsafe in paths, or that nnU-Net takes for a file of its own (``_seg``)."""
    if _CASE_ID.fullmatch(name) and not name.endswith("_seg"):
        return None
    fix = "rename the image and its label, also in dataset.json"
    return Problem("data.case-name", "case name cannot be used", where, fix, _CASE_RULE, _quoted(name))


def _reason(path: Path, error: Exception) -> str:
    try:
        return f"a link to {_quoted(str(path.readlink()))}, which leads nowhere"
    except OSError:
        return getattr(error, "strerror", None) or "a broken path"


def _quoted(text: str) -> str:
    """Return ``text`` in quotes, cut, with everything unprintable escaped."""
    return ascii(_cut(text))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
