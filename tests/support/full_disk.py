"""Let the disk be full at a moment of a command, look at what is left, make room and repeat the command."""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

from forks import Place, attempt, digests

from pcl_auto.cli import progress


def full_after(event: str, room_bytes: int) -> Callable[[], None]:
    """Make files end at ``room_bytes`` from the first ``event`` of a training or prediction on."""

    def limit(happened: str) -> None:
        if happened == event:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, resource.RLIM_INFINITY))

    def prepare() -> None:
        heard, counted = progress.TrainingProgress.__call__, progress.counting

        def hear(self: Any, happened: str, values: dict[str, Any]) -> None:
            heard(self, happened, values)
            limit(happened)

        progress.TrainingProgress.__call__ = hear  # type: ignore[method-assign]

        class Counting:
            """The listener of a command that counts."""

            def __init__(self, *arguments: Any) -> None:
                self.inner = counted(*arguments)

            def __enter__(self) -> Callable[[str, dict[str, Any]], None]:
                listener = self.inner.__enter__()

                def hear(happened: str, values: dict[str, Any]) -> None:
                    listener(happened, values)
                    limit(happened)

                return hear

            def __exit__(self, *details: object) -> None:
                self.inner.__exit__(*details)

        progress.counting = Counting  # type: ignore[assignment,misc]

    return prepare


def problems_of(
    place: Place, command: list[str], event: str, room_bytes: int, written: str, whole: Callable[[], Any]
) -> Iterator[str]:
    """What goes wrong when from ``event`` on there is no room for a file, of which ``written`` is said."""
    said = place.log.stat().st_size
    code = attempt(command, place.log, before=full_after(event, room_bytes))
    message = place.log.read_bytes()[said:].decode()
    if code != 5:
        yield f"{event}: exit {code}, not 5"
    if "error: " not in message or written not in message or "repeat the command" not in message:
        yield f"{event}: the message does not say what had no room: {message[-500:]}"
    left = [str(path) for path in place.folder.rglob(".tmp/*")]
    if left:
        yield f"{event}: left behind: {left}"
    try:
        whole()
    except Exception as error:  # noqa: BLE001 (whatever is wrong with it)
        yield f"{event}: what was there before is damaged: {error}"
    code = attempt(command, place.log)
    if code != 0:
        yield f"{event}: with room again: exit {code}"


def main() -> int:
    """Every kind of file; 1 if anything went wrong."""
    from pcl_auto.nnunet.checkpoints import read_checkpoint

    place = Place.new()
    wrong = [
        f"without a fault: {command} fails" for command in (place.plan, place.train) if attempt(command, place.log)
    ]
    expected, model = place.trained(), place.model
    # The first epoch is over when the second one finds no room.
    for event, room_bytes, written in (
        ("epoch", 100_000, "checkpoint_latest.pth"),
        ("pseudo_labels", 100_000, "round_1_start.pth"),
        # Too little for a log too, which may be written first.
        ("pseudo_label", 100, ""),
        ("trained", 100, ""),
    ):
        shutil.rmtree(model)

        def whole(last: bool = event == "trained") -> None:
            for name in ("final",) if last else ("latest",):
                file = model / "fold_all" / f"checkpoint_{name}.pth"
                if last or file.is_file():
                    read_checkpoint(file)

        wrong += problems_of(place, place.train, event, room_bytes, written, whole)
        if place.trained() != expected:
            wrong.append(f"{event}: the run ended with other weights or pseudo-labels")
    wrong += problems_of(place, place.predict, "predict", 100, "", lambda: None)
    masks = digests(place.masks, ["*.nii.gz"])
    shutil.rmtree(place.masks)
    if attempt(place.predict, place.log) or digests(place.masks, ["*.nii.gz"]) != masks or len(masks) != 2:
        wrong.append("masks: other ones after a full disk")
    print("\n".join(wrong) or "nothing was lost")
    if not wrong:
        shutil.rmtree(place.folder)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
