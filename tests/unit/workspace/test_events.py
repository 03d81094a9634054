"""The event log: one JSON object a line, there at once."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pcl_auto.workspace.events import EventLog


def lines(log: EventLog) -> list[dict[str, Any]]:
    assert log.path is not None
    return [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]


def test_what_json_does_not_hold_is_refused_and_leaves_the_log_readable(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.emit("good")
    with pytest.raises(TypeError):
        log.emit("bad", value=object())
    assert [line["event"] for line in lines(log)] == ["good"]


def test_nothing_is_written_before_the_first_event(tmp_path: Path) -> None:
    EventLog(tmp_path / "run" / "events.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_every_event_is_a_line_that_is_there_at_once(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "run" / "events.jsonl")
    log.emit("epoch", epoch=1, losses={"contrast": 0.5})
    assert [line["event"] for line in lines(log)] == ["epoch"]
    log.emit("note", text="two\nlines, µ")
    first, second = lines(log)
    assert (first["epoch"], first["losses"]) == (1, {"contrast": 0.5})
    assert second["text"] == "two\nlines, µ"


def test_a_later_run_appends(tmp_path: Path) -> None:
    for event in ("started", "resumed"):
        EventLog(tmp_path / "events.jsonl").emit(event)
    assert [line["event"] for line in lines(EventLog(tmp_path / "events.jsonl"))] == ["started", "resumed"]


def test_times_are_utc_and_in_order(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.emit("first")
    log.emit("second")
    times = [datetime.fromisoformat(line["time"]) for line in lines(log)]
    assert times == sorted(times)
    assert all(time.utcoffset() == timedelta(0) for time in times)


def test_a_listener_hears_what_was_written(tmp_path: Path) -> None:
    heard = []
    log = EventLog(tmp_path / "events.jsonl")
    log.listener = lambda event, values: heard.append((event, values, len(lines(log))))
    log.emit("epoch", epoch=3)
    assert heard == [("epoch", {"epoch": 3}, 1)]
