"""Know files again: by their size and times where nothing has touched them since, else by the digest of their bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pcl_auto.workspace.files import file_digest


@dataclass(frozen=True)
class FileState:
    """Size in bytes and times of one or several files: their sum, and the latest.

    ``ctime_ns`` is when the file system last saw a change: other bytes can be given an old ``mtime_ns``, as by
    ``cp -p`` and ``touch -r``, but not an old ``ctime_ns``.
    """

    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, files: Sequence[Path]) -> FileState:
        """Return the state of files as they are now.

        Raises:
            OSError: a file is not there.
        """
        found = [file.stat() for file in files]
        return cls(
            sum(each.st_size for each in found),
            max(each.st_mtime_ns for each in found),
            max(each.st_ctime_ns for each in found),
        )


@dataclass(frozen=True)
class Identity:
    """Files as they are: their state, and the SHA-256 of their bytes (of several files, of each)."""

    state: FileState
    digest: str

    def as_dict(self) -> dict[str, Any]:
        """Return the identity as plain values, which :meth:`recall` reads."""
        return {**asdict(self.state), "digest": self.digest}

    @classmethod
    def recall(cls, facts: Mapping[str, Any]) -> Identity:
        """Return the identity of :meth:`as_dict`; raise KeyError, TypeError or ValueError if it is none."""
        size, mtime_ns, ctime_ns = (int(facts[key]) for key in ("size", "mtime_ns", "ctime_ns"))
        if not isinstance(facts["digest"], str) or not facts["digest"]:
            raise ValueError("no digest")
        return cls(FileState(size, mtime_ns, ctime_ns), facts["digest"])


def identify(files: Sequence[Path], known: Any = None) -> Identity:
    """Return the identity of files.

    Args:
        files: one, or one per channel.
        known: what :meth:`Identity.as_dict` gave of them earlier; files in the same state are not read again.

    Raises:
        OSError: a file cannot be read.
    """
    state = FileState.of(files)
    try:
        earlier = Identity.recall(known)
        if earlier.state == state:
            return earlier
    except (KeyError, TypeError, ValueError):
        pass  # what makes no sense is no reason to stop: the files are there to be read
    return Identity(state, "-".join(file_digest(file) for file in files))
