"""Read preprocessed cases without running code from their files.

nnU-Net unpickles a case's properties, and a blosc2 file may hold a recipe in place of an array, which blosc2 before
4.14 evaluates as it opens it: whoever may write to a workspace could run code as whoever trains in it.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import blosc2
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from pcl_auto.errors import Problem, StateError
from pcl_auto.workspace.processes import end_with_parent

# What the properties of a case are made of beside plain values; pickle asks for each by name.
_ALLOWED = {
    "numpy": {"dtype", "ndarray"},
    **{f"numpy.{core}.multiarray": {"_reconstruct", "scalar"} for core in ("core", "_core")},
    **{f"numpy.{core}.numeric": {"_frombuffer"} for core in ("core", "_core")},
    "_codecs": {"encode"},
}
# What a blosc2 file's header calls the recipes that it may hold, in msgpack.
_RECIPES = (b"\xa9LazyArray", b"\xacproxy-source", b"\xa3b2o")
_HEADER_LENGTH_AT = 12
# What blosc2 says of blocks that it cannot decompress.
_DAMAGED = "Error while getting"


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


class StoredCases(nnUNetDatasetBlosc2):  # type: ignore[misc]
    """nnU-Net's data set of a folder, whose files are read as data alone."""

    def __init__(
        self,
        folder: str,
        identifiers: list[str] | None = None,
        folder_with_segs_from_previous_stage: str | None = None,
    ) -> None:
        super().__init__(folder, identifiers, folder_with_segs_from_previous_stage)
        # nnU-Net maps the files into memory: one that is cut then ends the process by SIGBUS, without a word. Reading
        # takes 1 ms more for a patch of 64 x 128 x 128 voxels.
        self.mmap_kwargs: dict[str, str] = {}

    def load_case(self, identifier: str) -> tuple[Any, Any, None, dict[str, Any]]:
        """Return image (C, z, y, x) and label map (1, z, y, x), read when indexed; None; nnU-Net's properties.

        Raises:
            StateError: a file is missing, damaged, or holds what would run code.
        """
        end_with_parent()  # in a worker that augments data
        folder = Path(self.source_folder)
        image, label = (self._open(folder / f"{identifier}{suffix}.b2nd") for suffix in ("", "_seg"))
        return image, label, None, read_properties(folder / f"{identifier}.pkl")

    def open_image(self, identifier: str) -> blosc2.NDArray:
        """Return the image of a case (C, z, y, x), read when indexed; nothing else of the case is opened.

        Raises:
            StateError: the file is missing, damaged, or holds what would run code.
        """
        return self._open(Path(self.source_folder) / f"{identifier}.b2nd")

    def refuse_damaged(self) -> None:
        """Read every file whole: blosc2's own errors do not say which one is damaged.

        Raises:
            StateError: a file is missing or damaged.
        """
        for case in self.identifiers:
            self.load_case(case)
            for suffix in ("", "_seg"):
                self._read_whole(Path(self.source_folder) / f"{case}{suffix}.b2nd")

    def _read_whole(self, file: Path) -> None:
        try:
            self._open(file)[:]
        except RuntimeError as error:
            raise _unusable(file, "a blosc2 array", str(error)) from error

    def _open(self, file: Path) -> blosc2.NDArray:
        try:
            _refuse_recipe(file)
            array = blosc2.open(urlpath=str(file), mode="r", dparams={"nthreads": 1}, **self.mmap_kwargs)
        except Exception as error:  # a damaged header may raise anything
            raise _unusable(file, "a blosc2 array", str(error)) from error
        if not isinstance(array, blosc2.NDArray):
            raise _unusable(file, "a blosc2 array", type(array).__name__)
        # Before memory is taken for it.
        if not 0 < math.prod(array.shape) * array.dtype.itemsize <= array.schunk.nbytes:
            raise _unusable(file, f"an array of {array.schunk.nbytes} bytes", f"one of shape {array.shape}")
        return array


@contextmanager
def reading(cases: Callable[[], StoredCases]) -> Iterator[None]:
    """While voxels of ``cases()`` are read, which blosc2 does when they are indexed.

    Raises:
        StateError: a file is damaged.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(_DAMAGED):
            raise
        cases().refuse_damaged()
        raise _unusable(Path(cases().source_folder), "blosc2 arrays", str(error)) from error


def read_properties(file: Path) -> dict[str, Any]:
    """Read nnU-Net's properties of a case: numpy arrays and plain values.

    Raises:
        StateError: the file is missing, damaged, or names anything else.
    """
    try:
        with file.open("rb") as handle:
            properties = _PlainUnpickler(handle).load()
    except Exception as error:  # a damaged pickle may raise anything
        raise _unusable(file, "numpy arrays and plain values", str(error)) from error
    if not isinstance(properties, dict):
        raise _unusable(file, "nnU-Net's properties of a case", type(properties).__name__)
    return properties


def _refuse_recipe(file: Path) -> None:
    with file.open("rb") as handle:
        start = handle.read(_HEADER_LENGTH_AT + 4)
        length = int.from_bytes(start[_HEADER_LENGTH_AT:], "big")
        header = start + handle.read(max(0, length - len(start)))
    for recipe in _RECIPES:
        if recipe in header:
            raise ValueError(f"it holds a {recipe[1:].decode()}")


def _unusable(file: Path, expected: str, found: str) -> StateError:
    return StateError(
        Problem(
            code="plan.stored-case-unreadable",
            what="stored case cannot be read",
            where=str(file),
            expected=expected,
            found=found.splitlines()[0] if found else "",
            fix="remove the case's files there and repeat `pclauto plan` and `pclauto train`; if nobody of yours wrote "
            "the file, find out who did",
        )
    )
