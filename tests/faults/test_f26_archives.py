"""F26: a hostile or damaged archive is refused before a byte is written; the checksum comes first."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from archives import INDEX, TASK, member, pack
from refusal import codes, refused

from pcl_auto.data.download import Archive, ResumingDownloader, download_task, unpack_task
from pcl_auto.errors import DataError, Problem

GOOD = member(f"{TASK}/imagesTr/a.nii.gz", bytes(range(256)) * 40)


def _link(to: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(f"{TASK}/l", kind=kind, linkname=to)


HOSTILE = {
    "parent": ("archive.member-elsewhere", [member(f"{TASK}/../../x", b"1")]),
    "absolute": ("archive.member-elsewhere", [member("/tmp/x", b"1")]),
    "another folder": ("archive.member-elsewhere", [member("Task01_Other/x", b"1")]),
    "file through a link": ("archive.member-no-file", [_link("/tmp"), member(f"{TASK}/l/x", b"1")]),
    "hard link": ("archive.member-no-file", [_link("/etc/passwd", tarfile.LNKTYPE)]),
    "device": ("archive.member-no-file", [member(f"{TASK}/d", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)]),
    "named pipe": ("archive.member-no-file", [member(f"{TASK}/p", kind=tarfile.FIFOTYPE)]),
}


def _refused(tmp_path: Path, content: bytes) -> tuple[Problem, ...]:
    tar = tmp_path / "task.tar"
    tar.write_bytes(content)
    with pytest.raises(DataError) as caught:
        unpack_task(tar, tmp_path / TASK)
    assert [path for path in tmp_path.iterdir() if path.name != ".tmp"] == [tar]
    assert not any(path.is_file() for path in (tmp_path / ".tmp").rglob("*"))
    return caught.value.problems


@pytest.mark.parametrize(("code", "members"), HOSTILE.values(), ids=HOSTILE)
def test_f26_hostile_members(tmp_path: Path, code: str, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    problems = _refused(tmp_path, pack([INDEX, *members]))
    assert codes(problems) == [code]
    assert all(str(problem).isprintable() for problem in problems)


def test_f26_the_good_members_alone_are_unpacked(tmp_path: Path) -> None:
    (tmp_path / "task.tar").write_bytes(pack([INDEX, GOOD]))
    unpack_task(tmp_path / "task.tar", tmp_path / TASK)
    assert (tmp_path / GOOD[0].name).read_bytes() == GOOD[1]


def test_f26_truncated(tmp_path: Path) -> None:
    whole = pack([INDEX, GOOD])
    end = whole.rindex(GOOD[1][-256:]) + 200
    for length in (300, end):
        assert codes(_refused(tmp_path, whole[:length])) == ["archive.unreadable"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "archive.unreadable"),
        (b"no archive", "archive.unreadable"),
        (b"\x1f\x8b" + bytes(600), "archive.unreadable"),
        (bytes(10240), "archive.no-task"),
        (pack([GOOD]), "archive.no-task"),
    ],
)
def test_f26_no_archive_of_a_task(tmp_path: Path, content: bytes, code: str) -> None:
    assert codes(_refused(tmp_path, content)) == [code]


def test_f26_an_archive_of_another_checksum_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = pack([INDEX, GOOD])

    def fetch(downloader: ResumingDownloader, _url: str) -> None:
        downloader.part.write_bytes(content)

    monkeypatch.setattr(ResumingDownloader, "fetch", fetch)
    monkeypatch.setattr(tarfile, "open", lambda *_arguments, **_options: pytest.fail("opened"))
    with refused(DataError, "archive.checksum"):
        download_task(Archive(TASK, "0" * 32, 0.01, "MR", 2, 1), tmp_path)
