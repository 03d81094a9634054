"""Remember of which image a stored case was made and what its files hold, so that no other is taken for it.

The records lie beside the store, since nnU-Net takes every file in its folders for a case. A case without a record, as
in a store of version 0.2, is made anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pcl_auto.errors import Problem, StateError, format_names
from pcl_auto.workspace.files import file_digest, read_json, write_json

FOLDER = "store_records"
SCHEMA_VERSION = 1


def record_file(store: Path, case: str) -> Path:
    """Return the file of the record of ``case`` in the case store ``store``."""
    return store.parent.with_name(FOLDER) / store.name / f"{case}.json"


def checksums(files: Iterable[Path]) -> dict[str, list[Any]]:
    """Return size in bytes and checksum of each file, by its name."""
    return {file.name: [file.stat().st_size, file_digest(file, "blake2b")] for file in files}


def hold(files: Iterable[Path], recorded: Any) -> bool:
    """Tell whether ``files`` are there and hold what :func:`checksums` recorded of them."""
    if not isinstance(recorded, Mapping):
        return False
    for file in files:
        if not file.is_file():
            return False
        size, digest = recorded_state(recorded.get(file.name))
        if file.stat().st_size != size or file_digest(file, "blake2b") != digest:
            return False
    return True


def recorded_state(entry: Any) -> tuple[Any, Any]:
    """Return size and checksum of an entry of :func:`checksums`; those of no file where it is damaged."""
    return tuple(entry[:2]) if isinstance(entry, list) and len(entry) > 1 else (-1, "")


def write_record(store: Path, case: str, image: str, files: Mapping[str, Any]) -> None:
    """Put on record that the ``files`` (as of :func:`checksums`) of a case were made from the image of that digest."""
    write_json(record_file(store, case), {"schema_version": SCHEMA_VERSION, "image": image, "files": files})


def read_record(store: Path, case: str) -> dict[str, Any]:
    """Read the record of a stored case; empty where there is none, or none that can be read."""
    file = record_file(store, case)
    try:
        found = read_json(file) if file.is_file() else {}
    except StateError:
        return {}
    return found if isinstance(found, dict) else {}


def case_files(folder: Path, case: str) -> tuple[Path, Path, Path]:
    """Return the files of a stored case: image, label (or nonzero region), properties; the last is written last."""
    return folder / f"{case}.b2nd", folder / f"{case}_seg.b2nd", folder / f"{case}.pkl"


def is_stored(folder: Path, case: str) -> bool:
    """Tell whether ``case`` lies complete in ``folder``."""
    return all(file.is_file() for file in case_files(folder, case))


def is_made_from(folder: Path, case: str, image: str) -> bool:
    """Tell whether ``case`` lies in the case store ``folder``, made from the image of that digest."""
    return is_stored(folder, case) and read_record(folder, case).get("image") == image


def is_sound(folder: Path, case: str, image: str) -> bool:
    """Tell whether ``case`` lies in the case store ``folder``, made from the image of that digest and undamaged."""
    record = read_record(folder, case)
    return record.get("image") == image and hold(case_files(folder, case), record.get("files"))


def refuse_damaged_store(folder: Path, cases: Sequence[str]) -> None:
    """Refuse stored cases whose files are not those on record; a store of version 0.2 has no records.

    Raises:
        StateError: such cases, all of them.
    """
    records = {case: read_record(folder, case) for case in cases}
    damaged = [
        case for case, record in records.items() if record and not hold(case_files(folder, case), record.get("files"))
    ]
    if damaged:
        fix = "repeat `pclauto train` of the run: it makes them anew"
        what, found = "stored cases are not as they were written", format_names(damaged)
        raise StateError(Problem("plan.stored-case-damaged", what, str(folder), fix, found=found))


def holds_exactly(folder: Path, cases: Sequence[str]) -> bool:
    """Tell whether ``folder`` holds ``cases`` and nothing else, which nnU-Net would take for a case too."""
    wanted = {file.name for case in cases for file in case_files(folder, case)}
    return folder.is_dir() and {path.name for path in folder.iterdir()} == wanted


def is_whole_view(view: Path, cases: Sequence[str], store: Path, files: Any) -> bool:
    """Tell whether ``view`` holds exactly ``cases``, linked to ``store``, and ``files`` as they were made."""
    if not holds_exactly(view, cases):
        return False
    for case in cases:
        image, *beside = case_files(view, case)
        if image.resolve() != case_files(store, case)[0].resolve() or not hold(beside, files):
            return False
    return True
