"""Read what ITK reads and what is no NIfTI; MetaImage and NRRD only after every byte of them was checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import SimpleITK

from pcl_auto.data.formats.metaimage import parse_metaimage
from pcl_auto.data.formats.nrrd import parse_nrrd
from pcl_auto.data.formats.suffixes import split_suffix
from pcl_auto.data.formats.text_header import TextHeader
from pcl_auto.errors import DataError, Problem
from pcl_auto.workspace.files import refuse_irregular

# ITK's readers by suffix: it would look for one by the content, too.
_READERS = {".mha": "MetaImageIO", ".mhd": "MetaImageIO", ".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO"}


def read_by_itk(path: Path) -> SimpleITK.Image:
    """Read a file with ITK, if it is sound as far as that can be told.

    Raises:
        DataError: it is no file, or a MetaImage or NRRD file that is damaged, or that ITK reads otherwise than it says.
        RuntimeError: ITK cannot read it.
    """
    header = require_sound(path)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    if header is not None:
        reader.SetImageIO(_reader_of(path))
    image = reader.Execute()
    if header is not None:
        header.refuse_other_reading(image)
    return image


def require_sound(path: Path) -> TextHeader | None:
    """Refuse a MetaImage or NRRD file whose header or data are damaged; return what its header says, if it has one.

    Raises:
        DataError: see above, or the path is no file.
    """
    with _readable(path):
        header = _parse(path)
        if header is not None:
            header.refuse_impossible_place()
            header.refuse_other_data()
    return header


def data_files(path: Path) -> tuple[Path, ...]:
    """Return the files that a header in ``path`` names for its voxels; none where it holds them, or is no sound one."""
    try:
        with _readable(path):
            header = _parse(path)
    except DataError:
        return ()
    return header.data_files if header else ()


def _parse(path: Path) -> TextHeader | None:
    refuse_irregular(path, DataError)
    reader = _reader_of(path)
    if not reader:
        return None
    return parse_metaimage(path) if reader == "MetaImageIO" else parse_nrrd(path)


def _reader_of(path: Path) -> str:
    """Return ITK's reader of a file with a text header, which NRRD has under any name; empty for other files."""
    suffix = split_suffix(path.name)[1]
    if suffix:
        return _READERS.get(suffix, "")
    with path.open("rb") as file:
        return "NrrdImageIO" if file.read(4) == b"NRRD" else ""


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise a DataError for what the system refuses."""
    try:
        yield
    except FileNotFoundError as error:
        fix = "restore the file, or leave it out"
        raise DataError(Problem("data.missing", "file does not exist", str(path), fix)) from error
    except OSError as error:
        fix, found = "make the file readable for you, and check the disk", error.strerror or str(error)
        raise DataError(Problem("data.unreadable", "file cannot be read", str(path), fix, found=found)) from error
