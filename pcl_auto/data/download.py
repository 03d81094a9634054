"""A decathlon task from its public archive: downloaded, checked, unpacked, ready for ``pclauto plan``."""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from pathlib import Path

import pooch

from pcl_auto.data.archive import extract_task
from pcl_auto.data.archives import BASE_URL, Archive
from pcl_auto.data.fetch import Patience, Resuming
from pcl_auto.errors import DataError, Problem, UsageError
from pcl_auto.run.atomic import STAGING
from pcl_auto.run.events import Listener
from pcl_auto.run.lock import sole_writer

_PATIENCE = Patience()


def download_task(
    archive: Archive,
    folder: Path,
    *,
    base_url: str = BASE_URL,
    patience: Patience = _PATIENCE,
    listener: Listener | None = None,
) -> bool:
    """Put the task of ``archive`` at ``folder/NAME``; False if it is there already.

    What has come when the download breaks off is kept in ``folder/.tmp``, and the next call goes on from there.
    ``listener`` hears ``download`` (megabytes) and ``extract`` (files), each with ``done`` and ``total``.

    Raises:
        DataError: what came is not the decathlon's archive, by its check sum or by its members.
        LockedError: another process downloads the same task to the same folder.
        ResourceError: the network or the disk does not suffice.
        UsageError: something else has the task's place, or ``base_url`` is no address.
    """
    target = folder / archive.name
    place = folder / STAGING / f"{archive.name}.download"
    if not place.exists() and _is_there(target):
        return False
    with sole_writer(place / archive.name):
        new = not _is_there(target)
        if new:
            tar = _fetch(archive, place, base_url, Resuming(place / f"{archive.name}.part", patience, listener))
            extract_task(tar, target, listener)
    shutil.rmtree(place, ignore_errors=True)
    with suppress(OSError):  # something else is staged here
        place.parent.rmdir()
    return new


def _is_there(target: Path) -> bool:
    if (target / "dataset.json").is_file():
        return True
    if target.exists():
        fix = "move it away, or choose another folder with -o"
        raise UsageError(
            Problem(
                "data.place-taken",
                "the task's place is taken",
                str(target),
                fix,
                "nothing, or a task",
                "something else",
            )
        )
    return False


def _fetch(archive: Archive, place: Path, base_url: str, downloader: Resuming) -> Path:
    url = f"{base_url.rstrip('/')}/{archive.name}.tar"
    for left in place.glob("tmp*"):  # pooch's, of a process that was killed while it computed the check sum
        left.replace(downloader.part) if left.stat().st_size else left.unlink()
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        fetched = pooch.retrieve(url, f"md5:{archive.md5}", f"{archive.name}.tar", place, downloader=downloader)
    except ValueError as error:
        raise DataError(
            Problem(
                code="archive.checksum",
                what="the archive that came has another check sum",
                where=url,
                expected=f"md5 {archive.md5}",
                found=str(error),
                fix="repeat the command: it starts anew; if that ends the same, take another --base-url, or none",
            )
        ) from error
    return Path(fetched)
