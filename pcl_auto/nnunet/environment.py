"""Set what nnU-Net reads from the environment, before nnunetv2 is imported, and choose a device."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pcl_auto.errors import Problem, UsageError

# nnU-Net's own defaults, for machines with more cores than that.
NNUNET_PROCESSES, NNUNET_WORKERS = 8, 12
EXTENSION_FOLDER = Path(__file__).resolve().parent / "extension"


def available_cores() -> int:
    """Return how many cores this process may use; containers and batch systems often grant fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_environment(*, workers: int | None = None) -> None:
    """Make nnU-Net fit this machine and find our trainers, without overriding what the user exported.

    Args:
        workers: processes for data augmentation, 0 for none; None leaves the user's or nnU-Net's choice.
    """
    cores = available_cores()
    os.environ.setdefault("nnUNet_def_n_proc", str(min(cores, NNUNET_PROCESSES)))
    if workers is not None:
        os.environ["nnUNet_n_proc_DA"] = str(workers)
    else:
        os.environ.setdefault("nnUNet_n_proc_DA", str(min(cores, NNUNET_WORKERS)))
    folders = os.environ.get("nnUNet_extTrainer", "").split(os.pathsep)
    if str(EXTENSION_FOLDER) not in folders:
        os.environ["nnUNet_extTrainer"] = os.pathsep.join([*filter(None, folders), str(EXTENSION_FOLDER)])
    # Nobody reads nnU-Net's progress bars in a log.
    os.environ.setdefault("TQDM_DISABLE", "1")


@contextmanager
def variables_set(**variables: str) -> Iterator[None]:
    """Set environment variables for the time being."""
    saved = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def missing_for_compile() -> str:
    """Name what torch.compile lacks on this machine to build kernels for a GPU; empty if nothing."""
    if "CC" not in os.environ and not (shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler (gcc or clang)"
    # Debian's own Python has its headers where another scheme than its default one says; Triton looks there too.
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    if not (Path(sysconfig.get_path("include", scheme)) / "Python.h").is_file():
        return "Python's header files (python3-dev)"
    return ""


def choose_device(wanted: str) -> Any:
    """Return the torch device for ``auto``, ``cuda``, ``mps`` or ``cpu``.

    Raises:
        UsageError: the device is not there; the ones that are, are named.
    """
    import torch

    there = [
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
        "cpu",
    ]
    if wanted == "auto":
        return torch.device(there[0])
    if wanted not in there:
        raise UsageError(
            Problem(
                code="device.missing",
                what=f"no device {wanted!r} on this machine",
                where="--device",
                expected=" | ".join(there),
                fix=f"take --device {there[0]}, or leave it out",
            )
        )
    return torch.device(wanted)
