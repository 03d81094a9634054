"""Hand paths to SimpleITK, which ends the process at one that is not UTF-8 text: the only way to it for any file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pcl_auto.data.formats.suffixes import split_suffix
from pcl_auto.errors import Problem, ResourceError
from pcl_auto.workspace.files import is_utf8


@contextmanager
def paths_for_itk(files: Sequence[Path], beside: Sequence[Path] = ()) -> Iterator[list[str]]:
    """Yield names under which ITK reads or writes ``files``: their own, or links to them in a folder of this user.

    Old exports have names in Latin-1.

    Args:
        files: with the endings that say their formats; those to write need not be there.
        beside: what the first of the files names, in its folder or below.

    Raises:
        ResourceError: the folder for temporary files has such a name itself.
    """
    if all(map(is_utf8, files)):
        yield [str(file) for file in files]
        return
    with tempfile.TemporaryDirectory(prefix="pclauto-") as name:
        folder = require_plain_temporary(Path(name))
        links = [folder / f"{number:06d}{split_suffix(file.name)[1]}" for number, file in enumerate(files)]
        named = [(folder / file.relative_to(files[0].parent), file) for file in beside]
        for link, file in (*zip(links, files, strict=True), *named):
            link.parent.mkdir(parents=True, exist_ok=True)
            # Not resolved: "..", after a link, leads elsewhere.
            link.symlink_to(file.absolute())
        yield [str(link) for link in links]


def require_plain_temporary(path: Path) -> Path:
    """Return the path of a temporary file or folder that ITK can take.

    Raises:
        ResourceError: it cannot.
    """
    if not is_utf8(path):
        what, fix = "the folder for temporary files has a name that is not UTF-8", "set TMPDIR to one of plain letters"
        raise ResourceError(Problem("disk.temporary-folder", what, str(path.parent), fix))
    return path
