"""Keep a folder of small files that travels between machines below its limits, and say what is left out for that."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

MB = 10**6
MAX_FILE_MB, MAX_ALL_MB = 16, 64
# Weights, cases and volumes never travel.
MODEL_SUFFIXES = (".pth", ".pt", ".ckpt", ".b2nd", ".pkl", ".npz", ".nii", ".gz")


class Carried:
    """A folder whose files are each below ``max_file_mb``, and below ``max_all_mb`` in all."""

    def __init__(self, folder: Path, max_file_mb: float = MAX_FILE_MB, max_all_mb: float = MAX_ALL_MB) -> None:
        self.folder = folder
        self._max_file, self._max_all = max_file_mb * MB, max_all_mb * MB

    def size(self) -> int:
        """Count the bytes of all files."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    def reason_against(self, name: str, size: int, replaced: int = 0) -> str:
        """Say why a file of ``size`` bytes may not come in, in place of ``replaced`` bytes; nothing if it may."""
        if name.endswith(MODEL_SUFFIXES):
            return "models stay where they are"
        if size >= self._max_file:
            return f"{size / MB:.1f} MB, and a file may have {self._max_file / MB:g}"
        held = self.size() - replaced
        if held + size >= self._max_all:
            return f"{size / MB:.1f} MB more than {held / MB:.1f}, and all files may have {self._max_all / MB:g}"
        return ""

    def put(self, name: str, content: bytes) -> str:
        """Write a file whole, if it may come in; else say why not."""
        target = self.folder / name
        replaced = target.stat().st_size if target.is_file() else 0
        reason = self.reason_against(name, len(content), replaced)
        if not reason:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}")
            temporary.write_bytes(content)
            temporary.replace(target)
        return reason

    def copy(self, files: Mapping[str, Path]) -> list[str]:
        """Copy files in under new names; return a line for each that is left out."""
        left_out = []
        for name, file in files.items():
            # Judged by its own name: a model under another name is still one.
            reason = self.reason_against(file.name, file.stat().st_size) or self.put(name, file.read_bytes())
            if reason:
                left_out.append(f"left out {file.name}: {reason}")
        return left_out

    def enforce(self, aside: Path) -> list[str]:
        """Move out of the folder what may not be in it, the largest file first; return a line for each."""
        moved = []
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        for file in sorted(files, key=lambda file: -file.stat().st_size):
            size = file.stat().st_size
            if reason := self.reason_against(file.name, size, replaced=size):
                target = aside / file.relative_to(self.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(file, target)
                moved.append(f"moved {file.relative_to(self.folder)} to {aside}: {reason}")
        return moved
