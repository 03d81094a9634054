"""Tell what happens during a run: one JSON object a line in a log, and a call of whoever listens."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pcl_auto.workspace.files import finite, json_text
from pcl_auto.workspace.resources import full_disk

Listener = Callable[[str, dict[str, Any]], None]


def silent(_event: str, _values: dict[str, Any]) -> None:
    """Ignore an event: the listener of those who want none."""


class EventLog:
    """Append events to ``events.jsonl`` and hand them on to a listener.

    Every line holds ``time`` (UTC, ISO 8601), ``event`` and the event's own fields. A line is flushed as it is
    written; a reader may see a run from another shell at any moment. Without a path nothing is recorded: of several
    processes of a training, one writes.
    """

    def __init__(self, path: Path | None, listener: Listener | None = None) -> None:
        self.path = path
        self.listener = listener

    def subscribe(self, listener: Listener) -> None:
        """Let ``listener``, in place of any other, hear of what happens from now on."""
        self.listener = listener

    def emit(self, event: str, **values: Any) -> None:
        """Record ``event`` with its ``values`` (anything that JSON holds)."""
        if self.path is not None:
            self._append(self.path, event, values)
        if self.listener is not None:
            self.listener(event, values)

    def notify(self, event: str, **values: Any) -> None:
        """Tell the listener of an ``event`` that is too frequent to put on record."""
        if self.listener is not None:
            self.listener(event, values)

    @staticmethod
    def _append(path: Path, event: str, values: dict[str, Any]) -> None:
        line = {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "event": event, **values}
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json_text(finite(line), allow_nan=False) + "\n"
        with path.open("ab", buffering=0) as handle:
            before = handle.tell()
            written = handle.write(text.encode())
            if written < len(text.encode()):
                handle.truncate(before)  # half a line would be in the way of every reader, and of the next line
                raise full_disk(path, written)


def with_tensorboard(listener: Listener, folder: Path) -> Listener:
    """Return ``listener`` extended to write every epoch's losses, Dice and learning rate for TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def listen(event: str, values: dict[str, Any]) -> None:
        listener(event, values)
        if event != "epoch":
            return
        curves = {f"loss/{name}": value for name, value in values["losses"].items()}
        curves |= {f"patch_dice/{number}": value for number, value in enumerate(values["patch_dice"], start=1)}
        curves["learning_rate"] = values["learning_rate"]
        for name, value in curves.items():
            writer.add_scalar(name, value, values["epoch"])
        writer.flush()

    return listen
