"""List the volumes of a plain folder by their names, and refuse folders that no data set is made of."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pcl_auto.data.dataset.safe_paths import shown
from pcl_auto.data.formats.itk_files import data_files
from pcl_auto.data.formats.suffixes import VOLUME_SUFFIXES, split_suffix, unread_stem
from pcl_auto.errors import Problem, UsageError, format_names
from pcl_auto.workspace.files import find_irregular
from pcl_auto.workspace.output import contains, refuse_input_folder, same_file

_ENDINGS = " ".join(VOLUME_SUFFIXES)


@dataclass
class Listing:
    """The volumes of a folder by name without ending, what else lies in it, and what is wrong with it."""

    folder: Path
    files: dict[str, Path] = field(default_factory=dict)
    passed_over: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def warnings(self) -> list[Problem]:
        """Return a warning of what was passed over."""
        if not self.passed_over:
            return []
        what, fix = "files and folders passed over", "nothing, if these are no images and no masks"
        found = f"{len(self.passed_over)}: {format_names(map(_name, self.passed_over), 5)}"
        return [Problem("data.passed-over", what, shown(self.folder), fix, f"files {_ENDINGS}", found)]


def list_folder(folder: Path, kind: str, beside: Sequence[Path] = ()) -> Listing:
    """List a folder, without its subfolders and hidden files.

    Args:
        folder: there already.
        kind: of its files, for messages: "image" or "mask".
        beside: folders with a meaning of their own, which may lie in this one.
    """
    listing = Listing(folder)
    names: dict[str, list[Path]] = defaultdict(list)
    unread: list[Path] = []
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        stem, suffix = split_suffix(path.name)
        if suffix and (problem := find_irregular(path)):
            listing.problems.append(problem)
        elif suffix:
            names[stem].append(path)
        elif unread_stem(path.name) is not None:
            unread.append(path)
        elif not any(same_file(path, other) for other in beside):
            listing.passed_over.append(path)
    listing.files = {name: files[0] for name, files in names.items()}
    of_headers = {file.resolve() for files in names.values() for file in files for file in data_files(file)}
    listing.passed_over = [path for path in listing.passed_over if path.resolve() not in of_headers]
    for name, files in names.items():
        if len(files) > 1:
            found = ", ".join(file.name for file in files)
            what, fix = f"{kind} in two files", "keep one of them"
            listing.problems.append(Problem("data.file-twice", what, shown(files[0]), fix, f"one file {name}", found))
    if unread:
        what, fix = f"{kind}s in formats that are not read", "convert them to NIfTI, DICOM for example with dcm2niix"
        found = f"{len(unread)}: {format_names(map(_name, unread), 5)}"
        listing.problems.append(Problem("init.format", what, shown(folder), fix, _ENDINGS, found))
    if not names:
        listing.problems += _nothing_in(listing, kind, unread)
    return listing


def _nothing_in(listing: Listing, kind: str, unread: Sequence[Path]) -> Iterator[Problem]:
    if unread:
        return  # which says more
    kinds = Counter("folders" if path.is_dir() else f"files {path.suffix}".strip() for path in listing.passed_over)
    found = ", ".join(f"{count} {name}" for name, count in kinds.most_common(3)) or "nothing"
    fix = f"name the folder in which the {kind}s lie themselves, as volumes"
    code = "init.no-mask" if kind == "mask" else "init.no-image"
    yield Problem(code, f"no {kind}", shown(listing.folder), fix, f"files {_ENDINGS}", found)


def refuse_places(folders: Mapping[str, Path], target: Path) -> list[Problem]:
    """Return what is wrong with the folders to read, by what they hold, and with the one to write."""
    problems = []
    for kind, folder in folders.items():
        if not folder.is_dir():
            what, fix, found = f"no folder of {kind}", "check the path", "a file" if folder.exists() else "nothing"
            problems.append(Problem("init.no-folder", what, shown(folder), fix, "a folder", found))
        elif kind != "masks" and any((folder / name).exists() for name in ("dataset.json", "imagesTr")):
            what = "the folder is a data set already"
            fix = (
                f"pclauto plan {shown(folder)}"
                if (folder / "dataset.json").exists()
                else "name its imagesTr and labelsTr"
            )
            problems.append(Problem("init.is-dataset", what, shown(folder), fix, f"a plain folder of {kind}"))
    kinds = [*folders]
    for place, kind in enumerate(kinds):
        for other in kinds[:place]:
            if folders[kind].is_dir() and same_file(folders[kind], folders[other]):
                what, fix = f"{other} and {kind} are one folder", f"move the {kind} into a folder of their own"
                problems.append(Problem("init.same-folder", what, shown(folders[kind]), fix, "two folders"))
    return problems + _refuse_target(target, [folder for folder in folders.values() if folder.is_dir()])


def _refuse_target(target: Path, sources: Sequence[Path]) -> list[Problem]:
    fix = "choose another folder with -o"
    for source in sources:
        if same_file(source, target) or contains(source, target):
            what, expected = "the data set would lie in a folder that it is made of", "a folder beside it"
            return [Problem("init.target-in-source", what, shown(target), fix, expected, f"it lies in {source}")]
    if target.is_dir() and (there := sorted(target.iterdir())):
        return [target_taken(target, format_names(map(_name, there), 3))]
    if same_file(target, Path.cwd()):  # its place is taken by a new folder, and nobody is in that one
        return [target_taken(target, "the folder that you are in")]
    try:
        refuse_input_folder(target)
    except UsageError as error:
        return [*error.problems]
    return []


def target_taken(target: Path, found: str) -> Problem:
    """Return the problem of a place that is not free."""
    what, fix = "the folder is there already", "choose another folder with -o, or move this one away"
    return Problem("init.target-taken", what, shown(target), fix, "no folder, or an empty one", found)


def _name(path: Path) -> str:
    return shown(Path(path.name)) + ("/" if path.is_dir() else "")
