"""Describe the machine (``pclauto env``): versions, devices, memory, and what stock nnU-Net needs in a workspace."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pcl_auto import __version__
from pcl_auto.nnunet.environment import EXTENSION_FOLDER, available_cores
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.resources import available_memory_mb, free_bytes

PACKAGES = ("nnunetv2", "torch", "batchgenerators", "SimpleITK", "numpy", "typer", "rich")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (looked at, not written)


def describe(workspace: Workspace) -> dict[str, Any]:
    """Return versions, devices, memory in MB (2^20 bytes) and the workspace for JSON; None for what is not known."""
    return {
        "pclauto": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": _devices(),
        "cores": available_cores(),
        "memory_mb": available_memory_mb(),
        "shared_memory_mb": free_bytes(_SHARED_MEMORY) // 2**20 if _SHARED_MEMORY.is_dir() else None,
        "workspace": {
            "chosen_by": workspace.origin,
            **variables(workspace),
            "free_mb": free_bytes(workspace.results) // 2**20,
            "planned": [data.name for data in workspace.planned()],
        },
    }


def variables(workspace: Workspace) -> dict[str, str]:
    """Return the variables with which stock nnU-Net works in ``workspace`` and finds our trainers."""
    return {
        "nnUNet_raw": str(workspace.raw),
        "nnUNet_preprocessed": str(workspace.preprocessed),
        "nnUNet_results": str(workspace.results),
        "nnUNet_extTrainer": str(EXTENSION_FOLDER),
    }


def export_line(workspace: Workspace) -> str:
    """Return the line that sets :func:`variables` in a POSIX shell."""
    return "export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in variables(workspace).items())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    """List the devices to train on, first the one that ``auto`` takes."""
    import torch

    found: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append({"device": "cuda", "name": properties.name, "memory_mb": properties.total_memory // 2**20})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": platform.processor(), "memory_mb": None})
    return [*found, {"device": "cpu", "name": platform.processor() or platform.machine(), "memory_mb": None}]
