"""F33: a full disk loses nothing, and with room again the command goes on."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from refusal import refused
from shared import SUPPORT
from shell import Shell

from pcl_auto.errors import ResourceError
from pcl_auto.run.atomic import staging_folder
from pcl_auto.run.disk import has_room, is_full
from pcl_auto.run.events import EventLog

LIMITED = """
import resource, sys
from pathlib import Path
from pcl_auto.errors import ResourceError
from pcl_auto.run.atomic import atomic_path
from pcl_auto.run.disk import has_room
from pcl_auto.run.events import EventLog
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


@pytest.mark.slow
def test_f33_checkpoint_pseudo_labels_manifest_and_prediction(shell: Shell) -> None:
    done = shell.python(SUPPORT / "full_disk.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was lost" in done.stdout


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
