"""Let one process at a time plan a data set, never two take one number, and none plan anew what is being trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from pcl_auto.errors import LockedError
from pcl_auto.workspace.files import read_json, write_json
from pcl_auto.workspace.folders import DatasetFolder, Workspace
from pcl_auto.workspace.lock import sole_writer
from pcl_auto.workspace.output import visible
from pcl_auto.workspace.run_record import PRETRAINING

# Held while a number is chosen, in the folder of all planned data sets.
_NUMBERS = "numbers"


@contextmanager
def sole_planner(
    workspace: Workspace, choose: Callable[[], DatasetFolder]
) -> Iterator[tuple[DatasetFolder, ExitStack]]:
    """Hold the folder of the data set that ``choose`` finds; also yield what further locks can be added to.

    The folder is made at once: its number is then taken. Where planning fails, what was made here and is empty goes.

    Raises:
        LockedError: another process plans this data set.
        ResourceError: the workspace cannot be written.
    """
    choose()  # what it refuses, it refuses before anything is made
    roots = (workspace.raw, workspace.preprocessed, workspace.results)
    missing = {folder for root in roots for folder in (root, *root.parents) if not folder.exists()}
    workspace.activate()
    data: DatasetFolder | None = None
    try:
        with ExitStack() as held:
            with sole_writer(workspace.preprocessed / _NUMBERS, wait=True):
                data = choose()
                _hold(held, data.path, "another process is planning this data set")
                is_new = not data.path.exists()
                data.path.mkdir(exist_ok=True)
            try:
                yield data, held
            except BaseException:
                if is_new:
                    _remove_empty(data.pclauto_dir)
                    _remove_empty(data.path)
                raise
    except BaseException:
        if workspace.preprocessed in missing and not visible(workspace.preprocessed):
            names = [_NUMBERS, *([data.name] if data else [])]
            for file in (workspace.preprocessed / f".{name}.{end}" for name in names for end in ("lock", "holder")):
                file.unlink(missing_ok=True)
        for folder in sorted(missing, key=lambda folder: len(folder.parts), reverse=True):
            _remove_empty(folder)
        raise


def hold_models(held: ExitStack, workspace: Workspace, data: DatasetFolder) -> None:
    """Hold every model and pre-training of a data set, so that none goes on while its images change.

    Raises:
        LockedError: one is being trained.
    """
    models = workspace.results / data.name
    folders = [*visible(models), *visible(models / PRETRAINING)]
    for model in sorted(folder for folder in folders if folder.is_dir()):
        _hold(held, model, "the plan has changed, and a model of this data set is being trained")


def is_foreign(data: DatasetFolder) -> bool:
    """Tell whether files that nnU-Net has made of a data set lie in its folder, in which nothing is planned yet."""
    if data.claim_file.is_file():
        return bool(read_json(data.claim_file) == {"shared": True})
    ours = data.plan_file.is_file() or data.checks_file.is_file()
    return not ours and any(path != data.pclauto_dir for path in visible(data.path))


def claim(data: DatasetFolder, *, shared: bool) -> None:
    """Write down whether nnU-Net's files were there before ours: once ours are among them it cannot be seen."""
    if not data.claim_file.is_file():
        write_json(data.claim_file, {"shared": shared})


def _hold(held: ExitStack, folder: Path, what: str) -> None:
    try:
        held.enter_context(sole_writer(folder))
    except LockedError as error:
        raise LockedError([replace(problem, what=what) for problem in error.problems]) from None


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
