"""Unpack archives of tasks; refusals are tested in tests/faults/test_f26_archives.py."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import INDEX, TASK, member, pack, pack_task
from refusal import refused

from pcl_auto.data.dataset.decathlon import read_task
from pcl_auto.data.download import unpack_task
from pcl_auto.errors import DataError, ResourceError


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def test_a_task_is_unpacked_whole_and_without_litter(
    make_task: Callable[..., Path], tmp_path: Path, umask: int
) -> None:
    task = make_task()
    tar = tmp_path / "task.tar"
    tar.write_bytes(pack_task(task))
    heard: list[tuple[str, dict[str, Any]]] = []
    target = tmp_path / "data" / TASK
    unpack_task(tar, target, lambda event, values: heard.append((event, values)))
    expected = {path.relative_to(task): path.read_bytes() for path in task.rglob("*") if path.is_file()}
    assert {path.relative_to(target): path.read_bytes() for path in target.rglob("*") if path.is_file()} == expected
    assert [child.name for child in target.parent.iterdir()] == [TASK]
    assert heard[-1] == ("extract", {"done": len(expected), "total": len(expected)})
    modes = {stat.S_IMODE(path.stat().st_mode) for path in target.rglob("*") if path.is_file()}
    assert modes == {0o666 & ~umask}
    assert stat.S_IMODE(target.stat().st_mode) == 0o777 & ~umask
    read, problems = read_task(target)
    assert problems == []
    assert read is not None
    assert len(read.cases) == 3


def test_every_problem_is_listed(tmp_path: Path) -> None:
    tar = tmp_path / "bad.tar"
    tar.write_bytes(pack([member("../x", b"1"), member("/y", b"1"), member(f"{TASK}/l", kind=tarfile.SYMTYPE)]))
    with refused(DataError, "archive.member-elsewhere", "archive.member-no-file", "archive.no-task") as refusal:
        unpack_task(tar, tmp_path / "data" / TASK)
    assert len(refusal.problems) == 4  # and there is no dataset.json
    assert not (tmp_path / "data").exists()


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = tmp_path / "task.tar"
    tar.write_bytes(pack([INDEX, member(f"{TASK}/a", bytes(100))]))
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage(1000, 900, 101))
    with refused(ResourceError, "disk.too-small"):
        unpack_task(tar, tmp_path / TASK)
    assert list(tmp_path.iterdir()) == [tar]
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage(1000, 900, 102))
    unpack_task(tar, tmp_path / TASK)


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    tar = tmp_path / "task.tar"
    tar.write_bytes(pack([INDEX, member(f"{TASK}/a", b"1")]))
    child = os.fork()
    if child == 0:  # dies like a killed process, in the middle
        unpack_task(tar, tmp_path / TASK, lambda *_: os._exit(9))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (tmp_path / TASK).exists()
    assert list((tmp_path / ".tmp").iterdir())
    unpack_task(tar, tmp_path / TASK)
    assert sorted(path.name for path in tmp_path.iterdir()) == [TASK, "task.tar"]
