"""F33: a full disk loses nothing, and with room again the command goes on."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from forks import Place, digests
from refusal import refused
from shell import Shell

from pcl_auto.errors import ResourceError
from pcl_auto.nnunet.checkpoint_files import read_checkpoint
from pcl_auto.workspace.atomic import staging_folder
from pcl_auto.workspace.events import EventLog
from pcl_auto.workspace.resources import has_room, is_full

# Files end at so many bytes from the first event of its kind in a training or prediction on.
FULL_AFTER = """
import resource
from pcl_auto.cli.console import progress

def limit(happened):
    if happened == "{event}":
        resource.setrlimit(resource.RLIMIT_FSIZE, ({room_bytes}, resource.RLIM_INFINITY))

def hear(self, happened, values, heard=progress.TrainingProgress.__call__):
    heard(self, happened, values)
    limit(happened)

progress.TrainingProgress.__call__ = hear

class Counting:
    def __init__(self, *arguments, counted=progress.counting):
        self.inner = counted(*arguments)

    def __enter__(self):
        listener = self.inner.__enter__()
        return lambda happened, values: (listener(happened, values), limit(happened))

    def __exit__(self, *details):
        self.inner.__exit__(*details)

progress.counting = Counting
"""
LIMITED = """
import resource, sys
from pathlib import Path
from pcl_auto.errors import ResourceError
from pcl_auto.workspace.atomic import atomic_path
from pcl_auto.workspace.resources import has_room
from pcl_auto.workspace.events import EventLog
folder = Path(sys.argv[1])
log = EventLog(folder / "events.jsonl")
log.emit("good", text="x" * 900)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    with atomic_path(folder / "model.pth") as temporary:
        with temporary.open("wb") as file, __import__("contextlib").suppress(OSError):
            file.write(bytes(2000))
        raise RuntimeError("unexpected pos 1000 vs 2000")  # what torch makes of it
except ResourceError as error:
    print("refused", error)
try:
    log.emit("half", text="x" * 900)
except ResourceError as error:
    print("refused", error)
print(has_room(folder, 10**9))
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """A place in which the phantom was planned and trained."""
    made = Place.new()
    assert [made.attempt(command) for command in (made.plan, made.train)] == [0, 0]
    yield made
    shutil.rmtree(made.folder)


def refused_then_done(place: Place, command: list[str], event: str, room_bytes: int, written: str) -> None:
    """From ``event`` on a command finds no room for a file, which it names; with room again it goes on."""
    said = place.log.stat().st_size
    assert place.attempt(command, code=FULL_AFTER.format(event=event, room_bytes=room_bytes)) == 5
    message = place.log.read_bytes()[said:].decode()
    assert "error: " in message
    assert written in message
    assert "repeat the command" in message
    assert [str(path) for path in place.folder.rglob(".tmp/*")] == []
    # What was there before is whole.
    checkpoint = "checkpoint_final.pth" if event == "trained" else "checkpoint_latest.pth"
    for file in place.work.rglob(checkpoint):
        read_checkpoint(file)
    assert place.attempt(command) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "room_bytes", "written"),
    [
        # The first epoch is over when the second one finds no room.
        ("epoch", 100_000, "checkpoint_latest.pth"),
        ("pseudo_labels", 100_000, "round_1_start.pth"),
        # Too little for a log too, which may be written first.
        ("pseudo_label", 100, ""),
        ("trained", 100, ""),
    ],
)
def test_f33_a_training_goes_on_to_the_same_bytes(place: Place, event: str, room_bytes: int, written: str) -> None:
    expected = place.trained()
    shutil.rmtree(place.model)
    refused_then_done(place, place.train, event, room_bytes, written)
    assert place.trained() == expected


@pytest.mark.slow
def test_f33_a_prediction_goes_on_to_the_same_masks(place: Place) -> None:
    refused_then_done(place, place.predict, "predict", 100, "")
    masks = digests(place.masks, ["*.nii.gz"])
    assert len(masks) == 2
    shutil.rmtree(place.masks)
    assert place.attempt(place.predict) == 0
    assert digests(place.masks, ["*.nii.gz"]) == masks


def test_f33_a_library_that_hides_the_reason(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_text("before")
    done = shell.python("-c", LIMITED, tmp_path)
    checkpoint, event, room = done.stdout.splitlines()
    assert checkpoint.startswith("refused no room to write in ")
    assert "model.pth: expected room for more than 1000 bytes" in checkpoint
    assert event.startswith("refused no room to write in ")
    assert room == "False"
    assert (tmp_path / "model.pth").read_text() == "before"
    assert (tmp_path / "events.jsonl").read_text().count("\n") == 1
    assert (tmp_path / "events.jsonl").read_text().endswith("\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_f33_an_error_that_a_full_disk_led_to(tmp_path: Path, number: int) -> None:
    def fail() -> None:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise ValueError("could not write") from error

    with refused(ResourceError, "disk.full"), staging_folder(tmp_path / "target"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_f33_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"), staging_folder(tmp_path / "target"):
        raise RuntimeError("a bug")
    assert has_room(tmp_path, 10)
    assert not is_full(OSError(errno.ENOENT, "gone"))
    EventLog(tmp_path / "events.jsonl").emit("fine")
