"""Read MetaImage and NRRD files with ITK, after every byte of them was checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import SimpleITK

from pcl_auto.data.formats.itk_paths import paths_for_itk
from pcl_auto.data.formats.metaimage import parse_metaimage
from pcl_auto.data.formats.nrrd import parse_nrrd
from pcl_auto.data.formats.suffixes import VOLUME_SUFFIXES, split_suffix
from pcl_auto.data.formats.text_header import TextHeader
from pcl_auto.errors import DataError, Problem
from pcl_auto.workspace.files import refuse_irregular

# ITK's readers by suffix: it would look for one by the content, and read any other format unchecked.
_META, _NRRD = "MetaImageIO", "NrrdImageIO"
_READERS = {".mha": _META, ".mhd": _META, ".nrrd": _NRRD, ".nhdr": _NRRD}


def read_by_itk(path: Path) -> SimpleITK.Image:
    """Read a MetaImage or NRRD file with ITK, if it is sound.

    Raises:
        DataError: it is no such file, or is damaged, or ITK reads it otherwise than it says.
        RuntimeError: ITK cannot read it.
    """
    header = require_sound(path)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(_READERS[split_suffix(path.name)[1]])
    with paths_for_itk([path], header.data_files) as (name,):
        reader.SetFileName(name)
        image = reader.Execute()
    header.refuse_other_reading(image)
    return image


def require_sound(path: Path) -> TextHeader:
    """Refuse a MetaImage or NRRD file whose header or data are damaged; return what its header says.

    Raises:
        DataError: see above, or the path is no such file.
    """
    with _readable(path):
        header = _parse(path)
        header.refuse_impossible_place()
        header.refuse_other_data()
    return header


def data_files(path: Path) -> tuple[Path, ...]:
    """Return the files that a header in ``path`` names for its voxels; none where it holds them, or is no sound one."""
    if split_suffix(path.name)[1] not in _READERS:
        return ()
    try:
        with _readable(path):
            return _parse(path).data_files
    except DataError:
        return ()


def _parse(path: Path) -> TextHeader:
    refuse_irregular(path, DataError)
    reader = _READERS.get(split_suffix(path.name)[1])
    if reader is None:
        what, expected = "a file of a format that is not read", " ".join(VOLUME_SUFFIXES) + ", DICOM"
        fix = "convert it; or if it is of one of these, give it that ending"
        raise DataError(Problem("data.unknown-format", what, str(path), fix, expected, path.name))
    return parse_metaimage(path) if reader == _META else parse_nrrd(path)


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
