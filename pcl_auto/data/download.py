"""Decathlon tasks from their public archives: downloaded, checked, unpacked, ready for ``pclauto plan``."""

from __future__ import annotations

import difflib
import re
import shutil
import tarfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

import requests

from pcl_auto.errors import DataError, Problem, ResourceError, UsageError
from pcl_auto.workspace.atomic import STAGING, publish, staging_folder
from pcl_auto.workspace.events import Listener
from pcl_auto.workspace.files import file_digest, refuse_irregular
from pcl_auto.workspace.lock import sole_writer
from pcl_auto.workspace.output import refuse_input_folder
from pcl_auto.workspace.resources import require_room

# --- The ten archives of the Medical Segmentation Decathlon.

BASE_URL = "https://msd-for-monai.s3-us-west-2.amazonaws.com"
LICENSE = "CC BY-SA 4.0"


@dataclass(frozen=True)
class Archive:
    """A task's archive ``NAME.tar``: its checksum, size, modality, and numbers of images."""

    name: str
    md5: str
    gigabytes: float
    modality: str
    training: int
    test: int


# The checksums are those that MONAI publishes for the same files; sizes are rounded.
ARCHIVES = (
    Archive("Task01_BrainTumour", "240a19d752f0d9e9101544901065d872", 7.6, "MR (FLAIR, T1, T1 Gd, T2)", 484, 266),
    Archive("Task02_Heart", "06ee59366e1e5124267b774dbd654057", 0.46, "MR", 20, 10),
    Archive("Task03_Liver", "a90ec6c4aa7f6a3d087205e23d4e6397", 29, "CT", 131, 70),
    Archive("Task04_Hippocampus", "9d24dba78a72977dbd1d2e110310f31b", 0.03, "MR", 260, 130),
    Archive("Task05_Prostate", "35138f08b1efaef89d7424d2bcc928db", 0.24, "MR (T2, ADC)", 32, 16),
    Archive("Task06_Lung", "8afd997733c7fc0432f71255ba4e52dc", 9.2, "CT", 63, 32),
    Archive("Task07_Pancreas", "4f7080cfca169fa8066d17ce6eb061e4", 12, "CT", 281, 139),
    Archive("Task08_HepaticVessel", "641d79e80ec66453921d997fbf12a29c", 9.4, "CT", 303, 140),
    Archive("Task09_Spleen", "410d4a301da4e5b2f6f86ec3ddba524e", 1.6, "CT", 41, 20),
    Archive("Task10_Colon", "bad7a188931dc2f6acf72b08eb6202d0", 6.2, "CT", 126, 64),
)


def find_archive(name: str) -> Archive:
    """Return the archive that ``name`` means: "Task05_Prostate", "prostate", "Task05" or "5", in any case.

    Raises:
        UsageError: the decathlon has no such task.
    """
    forms = {form: archive for archive in ARCHIVES for form in _forms(archive)}
    found = forms.get(name.lower())
    if found is not None:
        return found
    near = difflib.get_close_matches(name.lower(), forms, n=1)
    similar = f"similar: {forms[near[0]].name}" if near else "nothing like it"
    where, fix = "the Medical Segmentation Decathlon", "take one of those that `pclauto download --list` shows"
    raise UsageError(Problem("archive.unknown-task", f"no task {name!r}", where, fix, "one of its ten", similar))


def _forms(archive: Archive) -> tuple[str, ...]:
    full = archive.name.lower()
    task, title = full.split("_")
    number = task.removeprefix("task")
    return full, title, task, number, number.lstrip("0"), f"task{number.lstrip('0')}"


# --- A large file over HTTP; a download that broke off is continued.

_CHUNK = 2**16
_MEGABYTE = 10**6
_NO_URL = (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL, requests.exceptions.MissingSchema)
# Refusals that another try may not meet.
_TEMPORARY = frozenset({408, 425, 429})


@dataclass(frozen=True)
class Patience:
    """Seconds that a server may be silent, and seconds to wait before each new try after a failure."""

    timeout_seconds: float = 30
    waits_seconds: tuple[float, ...] = (1, 3, 10)


@dataclass(frozen=True)
class ResumingDownloader:
    """A download that collects a file in ``part``, and continues there when it is called again.

    ``listener`` hears ``download`` with ``done`` and ``total`` megabytes. The disk must have room for twice the
    file: it is a tar archive that will be unpacked.
    """

    part: Path
    patience: Patience
    listener: Listener | None = None

    def fetch(self, url: str) -> None:
        """Fetch the missing part of ``url``.

        Raises:
            ResourceError: the network or the disk does not suffice; the part that came stays for the next time.
            UsageError: ``url`` is no http or https address.
        """
        waits = iter(self.patience.waits_seconds)
        while True:
            before = self._have()
            try:
                self._request(url)
            except _NO_URL as error:
                what, expected = "no place to download from", "an http or https address"
                fix = "give --base-url as in https://example.org/decathlon"
                raise UsageError(Problem("archive.no-address", what, url, fix, expected, str(error))) from error
            except requests.exceptions.RequestException as error:
                if self._have() > before:
                    waits = iter(self.patience.waits_seconds)
                wait = next(waits, None)
                if wait is None or _is_final(error):
                    raise self._broken_off(url, error) from error
                time.sleep(wait)
            else:
                return

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _request(self, url: str) -> None:
        have = self._have()
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        with requests.get(url, headers=headers, stream=True, timeout=self.patience.timeout_seconds) as answer:
            if have and answer.status_code == requests.codes.requested_range_not_satisfiable:
                return  # nothing is left to fetch; the checksum will tell
            answer.raise_for_status()
            start = _start(answer)
            if start not in {0, have}:
                self.part.unlink()
                raise requests.exceptions.ConnectionError(f"the server began at byte {start} instead of {have}")
            length = answer.headers.get("Content-Length", "")
            total = start + int(length) if length.isascii() and length.isdecimal() else None
            if total is not None:
                require_room(self.part.parent, 2 * total - have, "the archive and its files")
            self._write(answer, start, total)

    def _write(self, answer: requests.Response, start: int, total: int | None) -> None:
        done = start
        refuse_irregular(self.part, UsageError, "remove it")
        with self.part.open("ab" if start else "wb") as file:
            for chunk in answer.iter_content(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if self.listener is not None and total:
                    # The last megabyte counts when all of it is there.
                    megabytes = -(-total // _MEGABYTE)
                    counted = megabytes if done == total else min(done // _MEGABYTE, megabytes - 1)
                    self.listener("download", {"done": counted, "total": megabytes})
        if total is not None and done != total:
            raise requests.exceptions.ConnectionError(f"the connection ended after {done} of {total} bytes")

    def _broken_off(self, url: str, error: requests.exceptions.RequestException) -> ResourceError:
        fix = "check the network (and a proxy's HTTPS_PROXY), then repeat the command: it goes on from there"
        if _is_final(error):
            fix = "check --base-url; without it the decathlon's public archive is asked"
        found = f"{self._have()} bytes, then: {error}"
        return ResourceError(
            Problem("archive.download-failed", "download failed", url, fix, "the whole archive", found)
        )


def _start(answer: requests.Response) -> int:
    """Return the byte at which an answer begins: a server may ignore the range that was asked for."""
    if answer.status_code != requests.codes.partial_content:
        return 0
    match = re.match(r"bytes ([0-9]+)-", answer.headers.get("Content-Range", ""))
    return int(match[1]) if match else -1


def _is_final(error: requests.exceptions.RequestException) -> bool:
    """Tell whether the server has answered, and will answer the same again."""
    status = error.response.status_code if error.response is not None else 0
    return 400 <= status < 500 and status not in _TEMPORARY


# --- The archive unpacked.

_DISTRUST = "do not use this archive; download it again, from a place that you trust"


def unpack_task(archive: Path, target: Path, listener: Listener | None = None) -> None:
    """Unpack a task's tar archive, which holds one folder named as ``target``, completely or not at all.

    The checksum has told that it is the decathlon's own. Even so no links are made, and nothing outside the folder.
    Files are new, with the user's umask; what macOS packs beside them (``._*``, ``.DS_Store``) is left out.
    ``listener`` hears ``extract`` with ``done`` and ``total`` files.

    Raises:
        DataError: the archive cannot be read, or is no task's; all problems are listed, nothing is written.
        ResourceError: the disk has no room for the files.
    """
    try:
        with tarfile.open(archive, "r:") as tar:
            members = [member for member in tar if not _is_litter(member)]
            problems = [found for member in members if (found := _refuse_member(member, str(archive), target.name))]
            if f"{target.name}/dataset.json" not in {member.name.removeprefix("./") for member in members}:
                what, others = "archive holds no task", f"{len(members)} other members"
                problems.append(Problem("archive.no-task", what, str(archive), _DISTRUST, "a dataset.json", others))
            if problems:
                raise DataError(problems)
            _extract(tar, [member for member in members if member.isfile()], target, listener)
    except tarfile.TarError as error:
        what, expected = "archive cannot be read", "a whole tar archive"
        raise DataError(Problem("archive.unreadable", what, str(archive), _DISTRUST, expected, str(error))) from error


def _is_litter(member: tarfile.TarInfo) -> bool:
    return any(part.startswith("._") or part in {".DS_Store", "__MACOSX"} for part in member.name.split("/"))


def _refuse_member(member: tarfile.TarInfo, archive: str, folder: str) -> Problem | None:
    where = f"{archive} ({member.name[:250]!a})"
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or path.parts[:1] != (folder,):
        what, expected = "archive member leads elsewhere", f"a path in {folder}/"
        return Problem("archive.member-elsewhere", what, where, _DISTRUST, expected, "another path")
    if not (member.isfile() or member.isdir()):
        found = f"type {member.type!r} {member.linkname[:250]!a}"
        return Problem(
            "archive.member-no-file", "archive member is no file", where, _DISTRUST, "a file or folder", found
        )
    return None


def _extract(tar: tarfile.TarFile, files: Sequence[tarfile.TarInfo], target: Path, listener: Listener | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    require_room(target.parent, sum(member.size for member in files), f"the files of {target.name}")
    with staging_folder(target) as staging:
        for done, member in enumerate(files, 1):
            path = staging / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with cast("IO[bytes]", tar.extractfile(member)) as content, path.open("xb") as file:
                shutil.copyfileobj(content, file)
            if listener is not None:
                listener("extract", {"done": done, "total": len(files)})
        publish(staging / target.name, target)


# --- Both together.

_PATIENCE = Patience()


def download_task(
    archive: Archive,
    folder: Path,
    *,
    base_url: str = BASE_URL,
    patience: Patience = _PATIENCE,
    listener: Listener | None = None,
) -> bool:
    """Download the task of ``archive`` to ``folder/NAME``; return False if it is there already.

    When the download breaks off, the part that came is kept in ``folder/.tmp``, and the next call continues it.
    ``listener`` hears ``download`` (megabytes) and ``extract`` (files), each with ``done`` and ``total``.

    Raises:
        DataError: what came is not the decathlon's archive, by its checksum or by its members.
        LockedError: another process downloads the same task to the same folder.
        ResourceError: the network or the disk does not suffice.
        UsageError: the folder holds something else under the task's name, or is a data set or model itself; or
            ``base_url`` is no address.
    """
    refuse_input_folder(folder, data=True)
    target = folder / archive.name
    staging = folder / STAGING / f"{archive.name}.download"
    if not staging.exists() and _is_there(target):
        return False
    with sole_writer(staging / archive.name):
        new = not _is_there(target)
        if new:
            url = f"{base_url.rstrip('/')}/{archive.name}.tar"
            part, tar = (staging / f"{archive.name}.{suffix}" for suffix in ("part", "tar"))
            if not tar.is_file():
                ResumingDownloader(part, patience, listener).fetch(url)
                part.replace(tar)
            _require_checksum(tar, archive.md5, url)
            unpack_task(tar, target, listener)
    shutil.rmtree(staging, ignore_errors=True)
    with suppress(OSError):  # something else is staged here
        staging.parent.rmdir()
    return new


def _is_there(target: Path) -> bool:
    if (target / "dataset.json").is_file():
        return True
    if target.exists():
        fix = "move it away, or choose another folder with -o"
        what, expected = "the task's place is taken", "nothing, or a task"
        raise UsageError(Problem("data.place-taken", what, str(target), fix, expected, "something else"))
    return False


def _require_checksum(file: Path, expected_md5: str, url: str) -> None:
    """Remove a file that is not the archive, and say so."""
    found_md5 = file_digest(file, "md5")
    if found_md5 != expected_md5:
        file.unlink()
        what, expected, found = "the archive that came has another checksum", f"md5 {expected_md5}", f"md5 {found_md5}"
        fix = "repeat the command: it starts anew; if that ends the same, take another --base-url, or none"
        raise DataError(Problem("archive.checksum", what, url, fix, expected, found))
