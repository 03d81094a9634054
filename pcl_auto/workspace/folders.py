"""Find the folders and files of a workspace, and remember what was done in it last."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcl_auto.errors import Problem, ResourceError, StateError, UsageError
from pcl_auto.workspace.files import is_utf8, read_json, write_json
from pcl_auto.workspace.lock import sole_writer

DEFAULT_FOLDER = "pclauto_work"
SCHEMA_VERSION = 1
# nnU-Net's name of a data set.
DATASET_NAME = re.compile(r"Dataset\d{3,}_.+", re.ASCII)
_OPTION = "--workspace"
_EXPORTED = "nnUNet_preprocessed and nnUNet_results of this shell"
# What a workspace remembers.
_STATE = {"last_dataset?": str, "last_run?": {...: str}}
_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@dataclass(frozen=True)
class DatasetFolder:
    """A data set prepared for training: ``nnUNet_preprocessed/DatasetNNN_Name`` and the files in it."""

    path: Path

    @property
    def name(self) -> str:
        """nnU-Net's name of the data set, ``DatasetNNN_Name``."""
        return self.path.name

    @property
    def id(self) -> int:
        """nnU-Net's number of the data set."""
        return int(self.name[len("Dataset") :].split("_", 1)[0])

    @property
    def pclauto_dir(self) -> Path:
        """The folder of files that only this package reads."""
        return self.path / "pclauto"

    @property
    def plan_file(self) -> Path:
        """The plan before any split: settings, cases, nnU-Net's plans."""
        return self.pclauto_dir / "plan.json"

    @property
    def claim_file(self) -> Path:
        """Says whether nnU-Net's own files were in the folder before ours."""
        return self.pclauto_dir / "claim.json"

    @property
    def checks_file(self) -> Path:
        """The findings of the integrity checks, file by file."""
        return self.pclauto_dir / "checks.json"

    @property
    def log_file(self) -> Path:
        """The log of what nnU-Net prints while it plans and preprocesses."""
        return self.pclauto_dir / "log.txt"

    @property
    def stores(self) -> Path:
        """The folder of all case stores."""
        return self.pclauto_dir / "store"

    def store(self, key: str) -> Path:
        """Return the folder of the case store ``key``: images preprocessed in one way, without labels."""
        return self.stores / key

    def split_file(self, split: str) -> Path:
        """Return the record of a split."""
        return self.path / "splits" / f"{split}.json"

    def labeled_view(self, split: str, configuration: str) -> Path:
        """Return the folder that nnU-Net reads for a split: its labeled cases, nothing else."""
        return self.path / "splits" / split / f"labeled_{configuration}"

    def validation_view(self, split: str, configuration: str) -> Path:
        """Return the folder of a split's validation cases, with their labels."""
        return self.path / "splits" / split / f"validation_{configuration}"

    def initial_view(self, split: str, configuration: str, masks: str) -> Path:
        """Return the folder of the cases of a split that have a mask to begin with; ``masks``: their digest."""
        return self.path / "splits" / split / f"initial_{masks}_{configuration}"

    def correction_file(self, case: str, mask: str) -> Path:
        """Return the copy of the corrected mask (by SHA-256) that stands for the label of a case."""
        return self.pclauto_dir / "corrections" / f"{case}_{mask[:12]}.nii.gz"

    def budget_file(self, plans_name: str, configuration: str) -> Path:
        """Return the file of the schedule that was fitted to a time budget, for every trainer with these plans."""
        return self.pclauto_dir / "budgets" / f"{plans_name}__{configuration}.json"

    def plans_file(self, plans_name: str) -> Path:
        """Return the file of plans that nnU-Net knows by this name."""
        return self.path / f"{plans_name}.json"


@dataclass(frozen=True)
class Workspace:
    """nnU-Net's three folders, and who chose them."""

    raw: Path
    preprocessed: Path
    results: Path
    origin: str

    @classmethod
    def at(cls, root: Path, origin: str) -> Workspace:
        """Return the workspace with nnU-Net's three folders under ``root``."""
        root = root.expanduser().resolve()
        return cls(root / "nnUNet_raw", root / "nnUNet_preprocessed", root / "nnUNet_results", origin)

    @classmethod
    def find(cls, root: Path | None, environment: Mapping[str, str] = os.environ) -> Workspace:
        """Return the workspace at ``root``, else that of the user's nnU-Net variables, else ``./pclauto_work``.

        Raises:
            UsageError: a path that was chosen is not UTF-8; that of the default is refused where it is needed.
        """
        if root is not None:
            return cls.at(root, f"{_OPTION} {shlex.quote(str(root))}").require_usable()
        raw, preprocessed, results = (environment.get(name) for name in _VARIABLES)
        if preprocessed and results:
            return cls(
                Path(raw or Path(preprocessed).parent / "nnUNet_raw").expanduser().resolve(),
                Path(preprocessed).expanduser().resolve(),
                Path(results).expanduser().resolve(),
                _EXPORTED,
            ).require_usable()
        return cls.at(Path(DEFAULT_FOLDER), f"./{DEFAULT_FOLDER}")

    def require_usable(self) -> Workspace:
        """Refuse paths that nnU-Net and blosc2 cannot take; return the workspace.

        Raises:
            UsageError: one is not UTF-8.
        """
        for folder in (self.raw, self.preprocessed, self.results):
            if not is_utf8(folder):
                what, fix = (
                    "workspace has a path that is not UTF-8",
                    "rename the folder, or choose one with --workspace",
                )
                raise UsageError(Problem("output.not-utf8", what, str(folder), fix))
        return self

    def activate(self) -> None:
        """Set nnU-Net's variables in this process (and its children), and make the folders.

        Raises:
            UsageError: see :meth:`require_usable`.
            ResourceError: a folder cannot be made or written.
        """
        self.require_usable()
        for name, folder in zip(_VARIABLES, (self.raw, self.preprocessed, self.results), strict=True):
            if self.is_exported and name != _VARIABLES[0] and not folder.exists():
                raise UsageError(_not_there(name, folder))
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _unwritable(folder, error) from error
            if not os.access(folder, os.W_OK):
                raise _unwritable(folder, None)
            os.environ[name] = str(folder)

    def data_folders(self, environment: Mapping[str, str] = os.environ) -> list[Path]:
        """Return where a data set is looked for by its name: here, ``$PCLAUTO_DATA``, nnUNet_raw and beside it."""
        data = [Path(environment["PCLAUTO_DATA"])] if "PCLAUTO_DATA" in environment else []
        return [Path.cwd(), *data, self.raw, self.raw.parent]

    @property
    def is_exported(self) -> bool:
        """True if the folders are those of the variables that the shell exports."""
        return self.origin == _EXPORTED

    @property
    def option(self) -> str:
        """The option that a command needs to work here again; empty where it comes here by itself."""
        return f" {self.origin}" if self.origin.startswith(_OPTION) else ""

    def others(self, environment: Mapping[str, str] = os.environ) -> list[Workspace]:
        """Return the workspaces that commands would take here in other circumstances, where something was planned."""
        default, exported = Workspace.at(Path(DEFAULT_FOLDER), f"./{DEFAULT_FOLDER}"), None
        if environment.get(_VARIABLES[1]) and environment.get(_VARIABLES[2]):
            exported = Workspace.find(None, environment)
        candidates = [other for other in (default, exported) if other is not None]
        return [other for other in candidates if other.preprocessed != self.preprocessed and other.planned()]

    def describe(self) -> str:
        """Say in a line which folders these are, who chose them, and where else there are some."""
        where = [self.preprocessed, self.results] if self.is_exported else [self.preprocessed.parent]
        return f"{' and '.join(map(str, where))} ({self.origin}){self.elsewhere}"

    @property
    def elsewhere(self) -> str:
        """The words that an error adds to its fix where another workspace has what this one lacks."""
        others = [str(other.preprocessed.parent) for other in self.others()]
        return f"; another workspace lies in {' and '.join(others)}" if others else ""

    @property
    def state_file(self) -> Path:
        """The file of what this workspace remembers between commands."""
        return self.preprocessed / "pclauto.json"

    def remembered(self) -> dict[str, Any]:
        """Return what earlier commands left here; empty in a new workspace."""
        if not self.state_file.is_file():
            return {}
        fix = "remove the file: it says what was planned and trained last, as the data set's name and --model do"
        content: dict[str, Any] = read_json(self.state_file, _STATE, fix=fix)
        return content

    def remember(self, **values: Any) -> None:
        """Add ``values`` to what this workspace remembers; of a table the entries, the new ones last."""
        with sole_writer(self.state_file, wait=True):
            before = self.remembered()
            for key, value in values.items():
                if isinstance(value, dict):
                    earlier = {name: each for name, each in before.get(key, {}).items() if name not in value}
                    values[key] = {**earlier, **value}
            write_json(self.state_file, {**before, "schema_version": SCHEMA_VERSION, **values})

    def planned(self) -> list[DatasetFolder]:
        """Return the data sets that were planned in this workspace, by name."""
        if not self.preprocessed.is_dir():
            return []
        folders = sorted(path for path in self.preprocessed.iterdir() if DATASET_NAME.fullmatch(path.name))
        return [data for data in map(DatasetFolder, folders) if data.plan_file.is_file()]

    def dataset(self, name: str | None) -> DatasetFolder:
        """Return the planned data set called ``name`` (its name, number or task name), else the one planned last.

        Raises:
            StateError: nothing was planned here.
            UsageError: nothing of that name was planned here.
        """
        planned = self.planned()
        if not planned:
            raise StateError(
                Problem(
                    code="plan.missing",
                    what="no planned data set",
                    where=str(self.preprocessed),
                    fix=f"run `pclauto plan TASK` first, or name the workspace with --workspace{self.elsewhere}",
                )
            )
        if name is None:
            last = self.remembered().get("last_dataset")
            return next((data for data in planned if data.name == last), planned[-1])
        for data in planned:
            task_name = data.name.split("_", 1)[1]
            numbers = {str(data.id), f"{data.id:02d}", f"{data.id:03d}"}
            if name in {data.name, *numbers, task_name, f"Task{data.id:02d}_{task_name}"}:
                return data
        raise UsageError(
            Problem(
                code="plan.unknown-dataset",
                what=f"no planned data set called {name!r}",
                where=str(self.preprocessed),
                expected=" | ".join(data.name for data in planned),
                fix=f"name one of these, or run `pclauto plan {name}`",
            )
        )


def _not_there(name: str, folder: Path) -> Problem:
    # A slip of the finger in a profile would otherwise begin a second workspace.
    return Problem(
        code="output.exported-missing",
        what=f"the folder that this shell exports as {name} does not exist",
        where=str(folder),
        fix=f"correct the export, or make it with `mkdir -p {shlex.quote(str(folder))}`",
    )


def require_writable(folder: Path, fix: str) -> None:
    """Refuse to begin what will write into ``folder``, or make it, where that is not permitted.

    Raises:
        ResourceError: it is not.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ResourceError(Problem("disk.unwritable", "folder cannot be written", str(folder), fix))


def _unwritable(folder: Path, error: OSError | None) -> ResourceError:
    return ResourceError(
        Problem(
            code="disk.unwritable",
            what="folder cannot be written",
            where=str(folder),
            found=error.strerror if error is not None and error.strerror else "",
            fix="choose another folder with --workspace",
        )
    )
