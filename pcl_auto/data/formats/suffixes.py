"""File names of volumes: what is the name of a case in them, and what the ending of a format."""

from __future__ import annotations

from pathlib import Path

NIFTI_SUFFIXES = (".nii.gz", ".nii")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")


def split_suffix(name: str) -> tuple[str, str]:
    """Split a file's name into what stands before its suffix and the suffix in lower case.

    The suffix is one of :data:`VOLUME_SUFFIXES` in upper or lower case, or empty.
    """
    suffix = next((suffix for suffix in VOLUME_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)], suffix


def nifti_stem(name: str) -> str | None:
    """Return ``name`` without ``.nii.gz`` or ``.nii``; None if it ends in neither, in lower case."""
    stem, suffix = split_suffix(name)
    return stem if suffix in NIFTI_SUFFIXES and name.endswith(suffix) else None


def find_nifti(folder: Path, stem: str) -> Path:
    """Return ``stem.nii.gz`` in ``folder`` if it is there, else the path of ``stem.nii``, there or not."""
    compressed, plain = (folder / f"{stem}{suffix}" for suffix in NIFTI_SUFFIXES)
    return compressed if compressed.is_file() else plain
