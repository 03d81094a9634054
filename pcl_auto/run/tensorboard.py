"""The curves of a run for TensorBoard, for those who watch their trainings there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pcl_auto.run.events import Listener


def with_tensorboard(listener: Listener, folder: Path) -> Listener:
    """``listener``, and beside it a writer of every epoch's losses, Dice and learning rate into ``folder``."""
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
