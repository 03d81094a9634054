"""Files that are complete or absent, whatever stops the writer."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mutations import DEEP
from refusal import refused

from pcl_auto.errors import StateError
from pcl_auto.workspace.atomic import STAGING, atomic_path, staging_folder
from pcl_auto.workspace.files import (
    MAX_JSON_BYTES,
    link_relative,
    read_json,
    read_kept,
    read_table,
    refusing_nonsense,
    write_json,
    write_text,
)


@pytest.fixture
def umask_027() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write_half(target: Path, stop: type[BaseException]) -> None:
    with atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise stop


def test_a_file_takes_the_place_of_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "file.txt"
    (folder / "mine").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        write_text(folder, "text")
    assert names(tmp_path) == ["file.txt", "file.txt/mine"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_stopped_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path, stop: type[BaseException]) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(stop):
        write_half(target, stop)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_a_stopped_first_writer_leaves_nothing(tmp_path: Path, stop: type[BaseException]) -> None:
    with pytest.raises(stop):
        write_half(tmp_path / "file.txt", stop)
    assert names(tmp_path) == []


def test_a_writer_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file.txt"):
        pass
    assert names(tmp_path) == []


def test_a_disk_that_fails_to_sync_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError("no space left")

    target = tmp_path / "file.txt"
    target.write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_file_in_the_place_of_the_staging_folder(tmp_path: Path) -> None:
    (tmp_path / STAGING).write_text("in the way")
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "file.txt", "new")


def test_what_json_does_not_hold_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {"new": object()})
    assert read_json(tmp_path / "file.json") == {"old": 1}


def test_the_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    seen = []
    sync = os.fsync

    def look(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        seen.append((kind, target.read_text()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    write_text(target, "new")
    assert seen == [("file", "old"), ("folder", "new")]


def test_the_temporary_file_keeps_the_name_and_lies_out_of_sight(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "scan.nii.gz"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"voxels")
        # SimpleITK goes by the suffix; nnU-Net lists the folder.
        assert temporary.name == "scan.nii.gz"
        assert [path.name for path in target.parent.iterdir()] == [STAGING]
    assert names(tmp_path) == ["deep", "deep/scan.nii.gz"]


@pytest.mark.usefixtures("umask_027")
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "x")
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o640


def test_what_another_writer_stages_stays(tmp_path: Path) -> None:
    with staging_folder(tmp_path / "a") as other:
        (other / "half").write_text("x")
        write_text(tmp_path / "b", "whole")
        assert (other / "half").read_text() == "x"
    assert names(tmp_path) == ["b"]


@pytest.mark.parametrize(("place", "name"), [(tempfile, "mkdtemp"), (Path, "mkdir")])
def test_another_writer_tidies_up_at_the_wrong_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str
) -> None:
    original, gone = getattr(place, name), [FileExistsError if name == "mkdir" else FileNotFoundError]

    def tidied(*arguments: Any, **options: Any) -> Any:
        if gone:
            raise gone.pop()
        return original(*arguments, **options)

    monkeypatch.setattr(place, name, tidied)
    write_text(tmp_path / "file.txt", "new")
    assert gone == []
    assert names(tmp_path) == ["file.txt"]


def test_where_nothing_can_be_made_the_writer_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise FileNotFoundError  # as in /proc

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "file.txt", "new")


def test_many_writers_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)  # what is tested is the staging folder, not the disk
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: write_text(tmp_path / f"{index:03d}", str(index)), range(400)))
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == [str(index) for index in range(400)]


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True]}, [], "Prostata µ ×", 3])
def test_json_comes_back_and_ends_with_a_newline(tmp_path: Path, value: Any) -> None:
    file = tmp_path / "file.json"
    write_json(file, value)
    text = file.read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert json.loads(text) == read_json(file) == value


def test_json_with_a_way_to_write_the_rest(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"folder": Path("a/b")}, default=str)
    assert read_json(tmp_path / "file.json") == {"folder": "a/b"}


def test_a_link_survives_moving_the_tree(tmp_path: Path) -> None:
    tree = tmp_path / "before"
    source, target = tree / "store" / "case.b2nd", tree / "splits" / "L2_s0" / "labeled" / "case.b2nd"
    source.parent.mkdir(parents=True)
    source.write_text("voxels")
    link_relative(target, source)
    assert target.is_symlink()
    assert not target.readlink().is_absolute()
    tree.rename(tmp_path / "after")
    assert (tmp_path / "after" / target.relative_to(tree)).read_text() == "voxels"


@pytest.mark.parametrize("there", ["file", "link", "broken link"])
def test_a_link_replaces_what_is_there(tmp_path: Path, there: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new")
    (tmp_path / "other").write_text("other")
    if there == "file":
        target.write_text("old")
    else:
        target.symlink_to(tmp_path / ("other" if there == "link" else "nowhere"))
    link_relative(target, source)
    assert target.read_text() == "new"
    assert (tmp_path / "other").read_text() == "other"


def test_a_link_to_a_link_leads_to_the_file_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("voxels")
    (tmp_path / "first").symlink_to(tmp_path / "file")
    link_relative(tmp_path / "second", tmp_path / "first")
    (tmp_path / "first").unlink()
    assert (tmp_path / "second").read_text() == "voxels"


def test_a_copy_where_links_are_not_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError("no links on this file system")

    (tmp_path / "source").write_text("voxels")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    link_relative(tmp_path / "target", tmp_path / "source")
    assert not (tmp_path / "target").is_symlink()
    assert (tmp_path / "target").read_text() == "voxels"


UNREADABLE = {
    "empty": b"", "deep": DEEP.encode(), "deep but closed": b"[" * 200 + b"]" * 200, "binary": b"\xff\xfe\x00",
    "a BOM": b"\xef\xbb\xbf{}", "digits": b"9" * 5000, "400 digits": b"1" + b"0" * 400, "an exponent": b"1e400",
    "a key twice": b'{"a": 1, "a": 2}', "cut off": b'{"a": ', "zeros": bytes(10),
}  # fmt: skip


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_json_that_cannot_be_read_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with refused(StateError, "run.file-unreadable") as refusal:
        read_json(file)
    assert refusal.problem.where == str(file)
    assert read_kept(file) is None


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(MAX_JSON_BYTES + 1)
    for name in ("fifo", "folder", "loop", "gone", "huge"):
        with refused(StateError, "data.not-a-file" if name in ("fifo", "folder") else "run.file-unreadable"):
            read_json(tmp_path / name)
        if name != "huge":
            with refused(StateError, "run.file-senseless"):
                read_table(tmp_path / name, (), lambda _name: False)


def test_json_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": "text"})
    with refused(StateError, "run.file-unreadable") as refusal:
        read_json(tmp_path / "a.json", {"a": int}, fix="write it again")
    assert refusal.problem.found.startswith("a: expected a whole number")
    assert refusal.problem.fix == "write it again"


def test_nans_of_nnunet_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[NaN, -Infinity]")
    nan, infinite = read_json(tmp_path / "a.json")
    assert nan != nan
    assert infinite == -float("inf")


@pytest.mark.parametrize("rows", ["a,x", "a,1,2", "a", 'a,"1', "a,nan", "a,inf", "a,\x00", "a,\u0661", "a,1_0"])
def test_a_table_that_makes_no_sense_is_refused(tmp_path: Path, rows: str) -> None:
    (tmp_path / "a.csv").write_text(f"case,volume\n{rows}\n", encoding="utf-8")
    with refused(StateError, "run.file-senseless"):
        read_table(tmp_path / "a.csv", ("case",), lambda name: name == "volume")
    (tmp_path / "a.csv").write_text("case,volume\na,1.5\nb,\n")
    rows_read = read_table(tmp_path / "a.csv", ("case",), lambda name: name == "volume")
    assert rows_read == [{"case": "a", "volume": "1.5"}, {"case": "b", "volume": ""}]
    with refused(StateError, "run.file-senseless"):
        read_table(tmp_path / "a.csv", ("used",), lambda _name: False)


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), ValueError("x"), OverflowError("x"), IndexError("x")])
def test_nonsense_names_its_file(tmp_path: Path, error: Exception) -> None:
    def fail() -> None:
        raise error

    with refused(StateError, "run.file-senseless") as refusal, refusing_nonsense(tmp_path):
        fail()
    assert refusal.problem.where == str(tmp_path)


def test_halves_of_characters_are_written_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "\udc80é")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "\\udc80é"
