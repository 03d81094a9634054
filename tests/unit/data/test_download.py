"""Downloads from a server on this machine that does not always do what it should."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from archive_server import Server, serving
from archives import INDEX, TASK, member, pack, pack_task
from refusal import refused

from pcl_auto.data import download as archives
from pcl_auto.data.dataset.decathlon import read_task
from pcl_auto.data.download import ARCHIVES, Archive, Patience, download_task, find_archive
from pcl_auto.errors import DataError, LockedError, ResourceError, UsageError
from pcl_auto.workspace.lock import sole_writer

PATIENCE = Patience(timeout_seconds=0.3, waits_seconds=(0, 0))
CONTENT = pack([INDEX, member(f"{TASK}/noise", b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(20_000)))])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(CONTENT) as served:
        yield served


def toy(content: bytes = CONTENT) -> Archive:
    return Archive(TASK, hashlib.md5(content).hexdigest(), 0.01, "MR", 2, 1)


def get(server: Server, folder: Path, archive: Archive | None = None, **options: Any) -> bool:
    options = {"base_url": server.url, "patience": PATIENCE, **options}
    return download_task(archive or toy(), folder, **options)


def part(folder: Path) -> Path:
    return folder / ".tmp" / f"{TASK}.download" / f"{TASK}.part"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_task_is_ready_to_plan_and_stays_as_it_is(
    server: Server, make_task: Callable[..., Path], tmp_path: Path
) -> None:
    server.content = pack_task(make_task())
    folder = tmp_path / "data"
    heard: list[tuple[str, dict[str, Any]]] = []
    archive = toy(server.content)
    assert get(server, folder, archive, listener=lambda event, values: heard.append((event, values)))
    task, problems = read_task(folder / TASK)
    assert task is not None
    assert problems == []
    assert names(folder) == [TASK]
    assert ("download", {"done": 1, "total": 1}) in heard
    assert {event for event, _ in heard} == {"download", "extract"}

    (folder / TASK / "note").write_text("mine")
    assert not get(server, folder, archive)
    assert server.asked == [None]
    assert (folder / TASK / "note").read_text() == "mine"


def test_a_cut_connection_goes_on_at_once(server: Server, tmp_path: Path) -> None:
    server.cuts = [150_000, 100_000]
    assert get(server, tmp_path)
    starts = [int(re.findall(r"\d+", asked)[0]) if asked else 0 for asked in server.asked]
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert 0 < starts[1] <= 150_000
    assert names(tmp_path) == [TASK]


def test_a_download_that_broke_off_goes_on_the_next_time(server: Server, tmp_path: Path) -> None:
    server.cuts = [150_000, 0, 0, 0]
    with refused(ResourceError, "archive.download-failed") as refusal:
        get(server, tmp_path)
    assert "repeat the command: it goes on" in refusal.problem.fix
    kept = part(tmp_path).stat().st_size
    assert 0 < kept <= 150_000
    assert f"{kept} bytes" in str(refusal.error)
    assert not (tmp_path / TASK).exists()
    server.asked.clear()
    server.cuts.clear()
    assert get(server, tmp_path)
    assert server.asked == [f"bytes={kept}-"]


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    server.knows_ranges = False
    server.cuts = [150_000]
    assert get(server, tmp_path)
    assert server.asked[0] is None
    assert (server.asked[1] or "").startswith("bytes=")
    assert names(tmp_path) == [TASK]


def test_an_answer_that_begins_elsewhere_is_not_appended(server: Server, tmp_path: Path) -> None:
    server.cuts = [150_000]
    server.shift = 7
    assert get(server, tmp_path)
    assert server.asked[-1] is None


def test_a_whole_part_is_only_checked(server: Server, tmp_path: Path) -> None:
    part(tmp_path).parent.mkdir(parents=True)
    part(tmp_path).write_bytes(CONTENT)
    assert get(server, tmp_path)
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_a_process_killed_while_unpacking_leaves_the_archive(server: Server, tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        get(server, tmp_path, listener=lambda event, _values: os._exit(9) if event == "extract" else None)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (tmp_path / TASK).exists()
    server.status = 500  # it is not asked again
    assert get(server, tmp_path)
    assert names(tmp_path) == [TASK]


def test_another_check_sum_is_one_error_and_nothing_stays(server: Server, tmp_path: Path) -> None:
    wrong = replace(toy(), md5="0" * 32)
    with refused(DataError, "archive.checksum") as refusal:
        get(server, tmp_path, wrong)
    assert len(refusal.problems) == 1
    assert hashlib.md5(CONTENT).hexdigest() in str(refusal.error)
    assert not (tmp_path / TASK).exists()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 1000] == []
    assert get(server, tmp_path)
    assert server.asked == [None, None]


def test_a_hostile_archive_with_the_right_check_sum(server: Server, tmp_path: Path) -> None:
    server.content = pack([INDEX, member("../x", b"1")])
    with refused(DataError, "archive.member-elsewhere"):
        get(server, tmp_path, toy(server.content))
    assert not (tmp_path / TASK).exists()


def test_an_archive_that_is_not_there_is_asked_for_once(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with refused(ResourceError, "archive.download-failed") as refusal:
        get(server, tmp_path)
    assert "--base-url" in refusal.problem.fix
    assert "404" in str(refusal.error)
    assert len(server.asked) == 1


def test_a_server_in_trouble_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.status = 503
    with refused(ResourceError, "archive.download-failed") as refusal:
        get(server, tmp_path)
    assert "503" in refusal.problem.found
    assert len(server.asked) == 3


def test_a_stalled_server_is_given_up(server: Server, tmp_path: Path) -> None:
    server.cuts = [150_000, 0, 0, 0]
    server.stalls = True
    with refused(ResourceError, "archive.download-failed") as refusal:
        get(server, tmp_path)
    assert "timed out" in refusal.problem.found
    assert part(tmp_path).stat().st_size > 0


def test_no_server_at_all(tmp_path: Path) -> None:
    with refused(ResourceError, "archive.download-failed") as refusal:
        download_task(toy(), tmp_path, base_url="http://127.0.0.1:9", patience=PATIENCE)
    assert "check the network" in refusal.problem.fix


@pytest.mark.parametrize("url", ["", "/data", "ftp://127.0.0.1", "http://"])
def test_no_address(tmp_path: Path, url: str) -> None:
    with refused(UsageError, "archive.no-address") as refusal:
        download_task(toy(), tmp_path, base_url=url, patience=PATIENCE)
    assert "--base-url" in refusal.problem.fix


def test_a_disk_without_room_for_archive_and_files(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage, need = type(shutil.disk_usage(tmp_path)), 2 * len(CONTENT)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage(need, 1, need - 1))
    with refused(ResourceError, "disk.too-small"):
        get(server, tmp_path)
    assert not part(tmp_path).exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage(need, 0, need))
    assert get(server, tmp_path)


def test_a_place_that_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / TASK).mkdir()
    with refused(UsageError, "data.place-taken") as refusal:
        get(server, tmp_path)
    assert "-o" in refusal.problem.fix
    assert server.asked == []


def test_one_process_at_a_time(server: Server, tmp_path: Path) -> None:
    with sole_writer(part(tmp_path).parent / TASK), refused(LockedError, "lock.held"):
        get(server, tmp_path)


@pytest.mark.parametrize(
    "name", ["Task05_Prostate", "prostate", "Prostate", "TASK05_PROSTATE", "Task05", "Task5", "05", "5"]
)
def test_names_as_users_type_them(name: str) -> None:
    assert find_archive(name).name == "Task05_Prostate"


def test_every_task_is_found_by_its_number() -> None:
    assert [find_archive(str(number)) for number in range(1, 11)] == list(ARCHIVES)
    assert all(re.fullmatch("[0-9a-f]{32}", archive.md5) for archive in ARCHIVES)
    assert len({archive.md5 for archive in archives.ARCHIVES}) == 10


@pytest.mark.parametrize(("name", "hint"), [("prostrate", "Task05_Prostate"), ("11", "--list"), ("", "--list")])
def test_a_task_that_the_decathlon_lacks(name: str, hint: str) -> None:
    with refused(UsageError, "archive.unknown-task") as refusal:
        find_archive(name)
    assert re.search(hint, str(refusal.error))
