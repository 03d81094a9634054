"""F26: a hostile or damaged archive is refused before a byte is written."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from archives import INDEX, TASK, member, pack
from refusal import codes

from pcl_auto.data.archive import MAX_MEMBERS, extract_task, inspect_archive
from pcl_auto.errors import DataError, Problem

GOOD = member(f"{TASK}/imagesTr/a.nii.gz", bytes(range(256)) * 40)
SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(100 * 10**9)}


def _link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(f"{TASK}/{name}", kind=kind, linkname=to)


HOSTILE = {
    "parent": ("archive.member-elsewhere", [member(f"{TASK}/../../x", b"1")]),
    "parent first": ("archive.member-elsewhere", [member("../x", b"1")]),
    "absolute": ("archive.member-elsewhere", [member("/tmp/x", b"1")]),
    "backslashes": ("archive.member-elsewhere", [member(f"{TASK}\\..\\x", b"1")]),
    "drive": ("archive.member-elsewhere", [member(f"{TASK}/C:x", b"1")]),
    "another folder": ("archive.member-elsewhere", [member("Task01_Other/x", b"1")]),
    "control character": ("archive.member-elsewhere", [member(f"{TASK}/a\x1b[2J", b"1")]),
    "symbolic link": ("archive.member-no-file", [_link("l", "/etc/passwd")]),
    "file through a link": ("archive.member-no-file", [_link("l", "/tmp"), member(f"{TASK}/l/x", b"1")]),
    "hard link": ("archive.member-no-file", [_link("h", "/etc/passwd", tarfile.LNKTYPE)]),
    "hard link inside": ("archive.member-no-file", [_link("h", f"{TASK}/dataset.json", tarfile.LNKTYPE)]),
    "character device": ("archive.member-no-file", [member(f"{TASK}/d", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)]),
    "block device": ("archive.member-no-file", [member(f"{TASK}/d", kind=tarfile.BLKTYPE, devmajor=8)]),
    "named pipe": ("archive.member-no-file", [member(f"{TASK}/p", kind=tarfile.FIFOTYPE)]),
    "unknown type": ("archive.member-no-file", [member(f"{TASK}/q", kind=b"Z")]),
    "sparse, 100 GB": ("archive.member-sparse", [member(f"{TASK}/s", b"0\n".ljust(512, b"\0"), pax_headers=SPARSE)]),
    "same name": ("archive.file-twice", [GOOD, GOOD]),
    "same name but for case": ("archive.file-twice", [GOOD, member(f"{TASK}/imagesTr/A.nii.gz", b"1")]),
    "file and folder": ("archive.file-and-folder", [member(f"{TASK}/a", b"1"), member(f"{TASK}/a/b", b"1")]),
}


def _refused(tmp_path: Path, content: bytes) -> tuple[Problem, ...]:
    tar = tmp_path / "task.tar"
    tar.write_bytes(content)
    with pytest.raises(DataError) as caught:
        extract_task(tar, tmp_path / TASK)
    assert list(tmp_path.iterdir()) == [tar]
    return caught.value.problems


@pytest.mark.parametrize(("code", "members"), HOSTILE.values(), ids=HOSTILE)
def test_f26_hostile_members(tmp_path: Path, code: str, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    assert codes(_refused(tmp_path, pack([INDEX, *members]))) == [code]


def test_f26_the_good_members_alone_are_unpacked(tmp_path: Path) -> None:
    (tmp_path / "task.tar").write_bytes(pack([INDEX, GOOD]))
    extract_task(tmp_path / "task.tar", tmp_path / TASK)
    assert (tmp_path / GOOD[0].name).read_bytes() == GOOD[1]


def test_f26_truncated_anywhere(tmp_path: Path) -> None:
    whole = pack([INDEX, GOOD, member(f"{TASK}/b", bytes(700))])
    end = max(offset for offset in range(0, len(whole), 512) if any(whole[offset : offset + 512])) + 512
    for length in range(0, end + 1, 256):
        found = set(codes(_refused(tmp_path, whole[:length])))
        assert found & {"archive.truncated", "archive.unreadable"}, length


def test_f26_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    whole = bytearray(pack([INDEX, GOOD, member(f"{TASK}/b", b"1")]))
    at = whole.rindex(TASK.encode())
    whole[at : at + 4] = b"\xff\xff\xff\xff"
    assert codes(_refused(tmp_path, bytes(whole))) == ["archive.truncated"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "archive.unreadable"),
        (b"no archive", "archive.unreadable"),
        (bytes(10240), "archive.no-task"),
        (b"\x1f\x8b" + bytes(600), "archive.unreadable"),
    ],
)
def test_f26_no_archive_at_all(tmp_path: Path, content: bytes, code: str) -> None:
    assert codes(_refused(tmp_path, content)) == [code]


def test_f26_no_task_in_it(tmp_path: Path) -> None:
    assert codes(_refused(tmp_path, pack([GOOD]))) == ["archive.no-task"]


class _Endless(io.BytesIO):
    """A million empty members, without the half gigabyte that they would take."""

    def __init__(self) -> None:
        super().__init__()
        self._header = member(f"{TASK}/x")[0].tobuf()
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (512 * 10**6 if whence == 2 else 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert 0 <= size <= 512
        begin = self._at % 512
        self._at += size
        return self._header[begin : begin + size]


@pytest.mark.slow
def test_f26_a_million_members_take_little_memory() -> None:
    tracemalloc.start()
    _, problems = inspect_archive(_Endless(), "a.tar", TASK)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert codes(problems) == ["archive.too-many-members"]
    assert problems[0].expected == f"up to {MAX_MEMBERS}"
    assert peak < 100e6


def test_f26_a_huge_header_is_not_read(tmp_path: Path) -> None:
    """The extended header of a member may claim any size; tarfile would read it whole."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 10**9
    tar = tmp_path / "task.tar"
    tar.write_bytes(header.tobuf())
    with tar.open("r+b") as file:
        file.truncate(10**9 + 1024)
    tracemalloc.start()
    with tar.open("rb") as file:
        _, problems = inspect_archive(file, "a.tar", TASK)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert codes(problems) == ["archive.unreadable"]
    assert "64 MB" in problems[0].found
    assert peak < 10e6


def test_f26_a_negative_size_does_not_loop() -> None:
    info = member(f"{TASK}/x")[0]
    header = bytearray(info.tobuf(format=tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512, in base 256
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    _, problems = inspect_archive(io.BytesIO(bytes(header) * 3), "a.tar", TASK)
    # The tarfile of Python 3.10 does not take it for the end.
    ends = ["archive.truncated", "archive.no-task"], ["archive.unreadable"]
    assert codes(problems) in [["archive.truncated", *end] for end in ends]
