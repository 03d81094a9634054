"""What happens during a run, as it happens: one JSON object a line, and whoever wants to listen."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pcl_auto.run.files import finite
from pcl_auto.run.names import json_text

Listener = Callable[[str, dict[str, Any]], None]


class EventLog:
    """Appends events to ``events.jsonl`` and hands them on to a listener.

    Every line holds ``time`` (UTC, ISO 8601), ``event`` and the event's own fields. A line is flushed as it is
    written; a reader may see a run from another shell at any moment.
    """

    def __init__(self, path: Path, listener: Listener | None = None) -> None:
        self.path = path
        self.listener = listener

    def emit(self, event: str, **values: Any) -> None:
        """Record ``event`` with its ``values`` (anything that JSON holds)."""
        line = {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "event": event, **values}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json_text(finite(line), allow_nan=False) + "\n")
        if self.listener is not None:
            self.listener(event, values)
