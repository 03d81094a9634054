"""File names of volumes: what is the name of a case in them, and what the ending of a format."""

from __future__ import annotations

from pathlib import Path

NIFTI_SUFFIXES = (".nii.gz", ".nii")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")
_OTHERS = (*VOLUME_SUFFIXES, ".dcm", ".img", ".hdr", ".mgz", ".mgh", ".nii.bz2", ".nii.zip")


def split_suffix(name: str) -> tuple[str, str]:
    """Split a file's name into what stands before its suffix and the suffix in lower case.

    The suffix is one of :data:`VOLUME_SUFFIXES` in upper or lower case, or empty.
    """
    suffix = next((suffix for suffix in VOLUME_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)], suffix


def nifti_stem(name: str) -> str | None:
    """Return ``name`` without ``.nii.gz`` or ``.nii``, in upper or lower case; None if it ends in neither."""
    stem, suffix = split_suffix(name)
    return stem if suffix in NIFTI_SUFFIXES else None


def is_other_volume(name: str) -> bool:
    """Tell whether a name is that of a volume in a format that data sets are not read in."""
    return nifti_stem(name) is None and name.lower().endswith(_OTHERS)


def unread_stem(name: str) -> str | None:
    """Return the name of a volume in a format that nothing here reads, without its suffix; None of all other files."""
    suffix = next((suffix for suffix in _OTHERS if name.lower().endswith(suffix)), "")
    return name[: -len(suffix)] if suffix and not split_suffix(name)[1] else None


def find_volume(place: Path, stem: str) -> Path:
    """Return the file of ``stem`` in a folder as :func:`find_nifti`, else in another format; a file is it itself."""
    if place.is_file():
        return place
    nifti = find_nifti(place, stem)
    if nifti.is_file() or not place.is_dir():
        return nifti
    named = (file for file in sorted(place.iterdir()) if split_suffix(file.name)[0] == stem)
    return next((file for file in named if split_suffix(file.name)[1] and file.is_file()), nifti)


def find_nifti(folder: Path, stem: str) -> Path:
    """Return the file ``stem.nii.gz`` in ``folder``, else ``stem.nii``, else one whose ending has capitals.

    Where none is there: the path of ``stem.nii``.
    """
    compressed, plain = (folder / f"{stem}{suffix}" for suffix in NIFTI_SUFFIXES)
    for file in (compressed, plain):
        if file.is_file():
            return file
    try:
        others = sorted(folder.iterdir())
    except OSError:
        return plain
    return next((file for file in others if nifti_stem(file.name) == stem and file.is_file()), plain)
