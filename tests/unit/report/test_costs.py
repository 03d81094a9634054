"""Forecast and measured, side by side."""

from __future__ import annotations

from pathlib import Path

from report_files import write_run

from pcl_auto.report.page import write_report
from pcl_auto.report.sections import forecast_rows
from pcl_auto.workspace.files import read_json, write_json
from pcl_auto.workspace.folders import Workspace

FORECAST = {"wall_s": 570.0, "memory_mb": 900, "gpu_memory_mb": 512, "disk_mb": 40}
MEASURED = {"wall_s": 601.2, "memory_mb": 950, "gpu_memory_mb": None, "disk_mb": 42}


def test_what_was_forecast_stands_beside_what_was_measured() -> None:
    rows = forecast_rows({"forecast": FORECAST, "measured": MEASURED})
    assert rows == [("time", "9m30s", "10m1s"), ("memory", "900 MB", "950 MB"), ("disk", "40 MB", "42 MB")]
    on_gpu = forecast_rows({"forecast": FORECAST, "measured": {**MEASURED, "gpu_memory_mb": 600}})
    assert ("GPU memory", "512 MB", "600 MB") in on_gpu


def test_what_nobody_knew_is_unknown() -> None:
    rows = forecast_rows({"forecast": dict.fromkeys(FORECAST), "measured": {**MEASURED, "wall_s": None}})
    assert rows == [("memory", "unknown", "950 MB"), ("disk", "unknown", "42 MB")]
    assert ("time", "9m30s", "unknown") in forecast_rows({"forecast": FORECAST, "measured": {"wall_s": None}})
    assert forecast_rows({"forecast": FORECAST}) == forecast_rows({}) == []


def test_the_report_shows_both(tmp_path: Path) -> None:
    workspace = Workspace.at(tmp_path, "test")
    model = write_run(workspace.results)
    record = model / "fold_all" / "run.json"
    assert "Forecast and measured" not in write_report(model, workspace).read_text()
    write_json(record, {**read_json(record), "forecast": FORECAST, "measured": MEASURED})
    page = write_report(model, workspace).read_text()
    assert "Forecast and measured" in page
    assert "<td>9m30s</td><td>10m1s</td>" in page
