"""Find the checkpoint that a user names as pretrained: a file, a folder, or the address of a model hub."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pcl_auto.errors import Problem, ResourceError, StateError, UsageError
from pcl_auto.workspace.files import file_digest
from pcl_auto.workspace.run_record import FINAL

HUB = "hf://"
# Of nnssl, beside a checkpoint.
ADAPTATION_PLAN = "adaptation_plan.json"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?", re.ASCII)
# What a model is described by, beside its checkpoints; other files of a repository stay there.
_WANTED = [
    FINAL, f"fold_*/{FINAL}", ADAPTATION_PLAN, "config.json", "plans.json", "dataset.json", "README.md",
    "LICENSE*",
]  # fmt: skip


@dataclass(frozen=True)
class FoundSource:
    """A checkpoint that a training can begin with.

    ``address``: as it was named, with the revision that was fetched if it is a hub's. ``digest``: SHA-256 of the file.
    """

    file: Path
    address: str
    digest: str


def find_source(given: str) -> FoundSource:
    """Find the checkpoint that ``given`` means, and fetch it if it is the address of a hub.

    Raises:
        UsageError: nothing is there under that name, or the address is none.
        StateError: a folder without a checkpoint, or with several.
        ResourceError: the hub cannot be reached.
    """
    if given.startswith(HUB):
        folder, address = _fetch(given)
        file = find_checkpoint(folder)
        return FoundSource(file, address, file_digest(file))
    path = Path(given)
    with suppress(RuntimeError):  # a home of nobody
        path = path.expanduser()
    if not _is_there(path):
        raise UsageError(
            Problem(
                code="pretrained.unknown-source",
                what="no pretrained weights there",
                where=given,
                expected=f"a checkpoint, its folder, or {HUB}OWNER/NAME",
                fix="correct the path",
            )
        )
    file = find_checkpoint(path)
    return FoundSource(file, str(path.resolve()), file_digest(file))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def find_checkpoint(given: Path) -> Path:
    """Find the checkpoint that ``given`` means: the file itself, or the one in its folder or in that of its one fold.

    Raises:
        StateError: there is none, or more than one.
    """
    if given.is_file():
        return given.resolve()
    found = [*given.glob(FINAL), *sorted(given.glob(f"fold_*/{FINAL}"))]
    if len(found) == 1:
        # Not resolved: a hub keeps files elsewhere, and what describes them lies beside the link.
        return found[0].absolute()
    raise StateError(
        Problem(
            code="model.no-start" if not found else "model.several-starts",
            what="no model to start from" if not found else "several models to start from",
            where=str(given),
            expected=f"one {FINAL}",
            found=" | ".join(str(file.parent.name) for file in found),
            fix="name a checkpoint, or the folder of a fold",
        )
    )


def _fetch(given: str) -> tuple[Path, str]:
    """Fetch a model repository of a hub into the hub's own cache.

    Returns:
        its folder, and the address with the revision that was fetched, which names the same files for ever.
    """
    found = _ADDRESS.fullmatch(given)
    if found is None:
        raise UsageError(_no_address(given))
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        what, fix = "fetching from a model hub needs the package huggingface_hub", "pip install 'pclauto[hub]'"
        raise UsageError(Problem("pretrained.no-hub-client", what, given, fix)) from error
    repository, revision = found.groups()
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=_WANTED))
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError) as error:
        fix = "correct the address; where a model asks for consent, give it on its page and log in: `hf auth login`"
        raise UsageError(
            Problem("pretrained.not-on-hub", "no such model on the hub, or none that you may read", given, fix)
        ) from error
    except HFValidationError as error:
        raise UsageError(_no_address(given)) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ResourceError(
            Problem(
                code="pretrained.hub-unreachable",
                what="the model hub does not give the model",
                where=given,
                found=(str(error) or type(error).__name__).splitlines()[0][:200],
                fix="try again, or fetch the files elsewhere and name their folder",
            )
        ) from error
    return folder, f"{HUB}{repository}@{folder.name}"


def _no_address(given: str) -> Problem:
    expected, fix = f"{HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION", "correct the address"
    return Problem("pretrained.no-address", "not an address of a model hub", given[:200], fix, expected)
