"""Checkpoints that stock nnU-Net reads, written whole, read without running code from them."""

from __future__ import annotations

import codecs
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from pcl_auto.errors import Problem, StateError
from pcl_auto.workspace.atomic import publish, staging_folder

# The one key that nnU-Net does not know; it ignores what it does not know.
OWN_KEY = "pclauto"
FORMAT = 1
# In it, of a pre-training: the stages of the decoder that have not learned.
UNTRAINED = "untrained_decoder_stages"

# What nnU-Net's own checkpoints hold beside tensors and plain values: numpy scalars in the training curves.
_ALLOWED = [
    np.dtype,
    np._core.multiarray.scalar if hasattr(np, "_core") else np.core.multiarray.scalar,  # type: ignore[attr-defined]
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    codecs.encode,
]


class _EqualBytes(pickle.Pickler):
    """Pickle equal values to equal bytes.

    Python's own way writes a value once and refers to it where the same object comes again, so that a training that was
    resumed, whose words are others of the same letters, would leave other bytes.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fast = True


# What torch.save asks of a module.
_PICKLE = SimpleNamespace(Pickler=_EqualBytes, __name__="pickle")


def plain(value: Any) -> Any:
    """Turn numpy scalars and arrays in ``value`` into Python's own, all the way down."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(entry) for entry in value)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return value


def write_checkpoint(path: Path, content: dict[str, Any], *, previous: Path | None = None) -> None:
    """Write a checkpoint; an earlier one of that name stays until the new one is complete, then as ``previous``.

    Equal content under one name gives equal bytes.

    Raises:
        ResourceError: there is no room for it on the disk.
    """
    with staging_folder(path) as staged:
        whole = staged / path.name
        torch.save(content, whole, pickle_module=_PICKLE)
        if previous is not None and path.is_file():
            _keep_as(previous, path, staged)
        publish(whole, path)


def _keep_as(previous: Path, path: Path, staged: Path) -> None:
    """Give ``path`` the name ``previous`` too, so that there is one of that name at every moment."""
    try:
        os.link(path, staged / previous.name)
    except OSError:  # a file system without links
        publish(path, previous)
    else:
        publish(staged / previous.name, previous)


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint, tensors and plain values alone.

    Raises:
        StateError: the file is missing, damaged, or holds objects that would run code.
    """
    if not path.is_file():
        raise StateError(
            Problem(
                code="checkpoint.missing",
                what="no checkpoint",
                where=str(path),
                fix="train first, or name another model with --model",
            )
        )
    try:
        _check_sums(path)
        with torch.serialization.safe_globals(_ALLOWED):
            content = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise StateError(
            Problem(
                code="checkpoint.unreadable",
                what="checkpoint cannot be read",
                where=str(path),
                expected="tensors and plain values, complete",
                found=(str(error) or type(error).__name__).splitlines()[0],
                fix="restore the file, or train again with --restart; do not open files of strangers with other tools",
            )
        ) from error
    if not isinstance(content, dict) or "network_weights" not in content:
        raise StateError(
            Problem(
                code="checkpoint.not-nnunet",
                what="not an nnU-Net checkpoint",
                where=str(path),
                expected="network_weights",
                fix="name another file",
            )
        )
    return content


def _check_sums(path: Path) -> None:
    """Compare every part of a checkpoint with its checksum, which torch writes and does not look at.

    Raises:
        ValueError: a part is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        # A damaged archive misleads the library that reads it into errors of any kind.
        raise ValueError(f"damaged: {error}") from error
    if damaged is not None:
        raise ValueError(f"damaged: {damaged}")
