"""What a run was forecast to take, beside what it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcl_auto.budget import spelled

_NAMES = {"wall_s": "time", "memory_mb": "memory", "gpu_memory_mb": "GPU memory", "disk_mb": "disk"}


def forecast_rows(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What, forecast and measured, of a finished run; nothing that was neither forecast nor measured."""
    forecast, measured = record.get("forecast", {}), record.get("measured")
    if measured is None:
        return []
    return [
        (name, _told(key, forecast.get(key)), _told(key, measured.get(key)))
        for key, name in _NAMES.items()
        # nnU-Net's estimate says nothing of a run without a GPU.
        if measured.get(key) is not None or (key != "gpu_memory_mb" and forecast.get(key) is not None)
    ]


def _told(key: str, value: float | None) -> str:
    if value is None:
        return "unknown"
    return spelled(value) if key.endswith("_s") else f"{value:.0f} MB"
