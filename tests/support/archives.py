"""Tar archives made in memory, good and hostile."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

TASK = "Task09_Toy"


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: object
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def pack(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def pack_task(root: Path, name: str = TASK) -> bytes:
    """Pack a folder as the decathlon does: below one folder, with macOS's companions."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    members = [member(f"./._{name}", b"mac"), member(name, kind=tarfile.DIRTYPE, mode=0o700)]
    for path in files:
        inside = f"{name}/{path.relative_to(root)}"
        members += [member(inside, path.read_bytes(), mode=0o6777)]
        members += [member(str(Path(inside).with_name(f"._{path.name}")), b"mac")]
    return pack([*members, member(f"{name}/.DS_Store", b"mac")])


INDEX = member(f"{TASK}/dataset.json", b"{}")
