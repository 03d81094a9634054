"""Read study.toml: data sets, blocks of runs, and the order in which the runs are worth doing."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

from pcl_auto.benchmark.arms import ALL_LABELS, BASELINE_ARMS, Arm, load_base_recipe, make_arms
from pcl_auto.errors import PclautoError, Problem, StateError, UsageError
from pcl_auto.recipe.settings import Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Scans = Literal["development", "confirmation"]
ALL = "all"
# Raised when the same settings come to train otherwise: rows of before are rows of another recipe then.
DIGEST_VERSION = 1


@dataclass(frozen=True)
class Dataset:
    """A data set of the study, how it is planned, and the recipe that gives every arm its steps.

    ``development``: so many labeled cases of its training folder are scored on, and in no training.
    """

    name: str
    task: str
    configuration: str
    gpu_memory_gb: float
    base: str
    development: int
    note: str = ""


@dataclass(frozen=True)
class Block:
    """Runs that belong together: every data set with every arm, number of labels and draw.

    ``asked``: done only when its name is given.
    """

    name: str
    datasets: tuple[str, ...]
    arms: tuple[str, ...]
    labels: tuple[int | str, ...]
    draws: int
    scans: Scans = "development"
    asked: bool = False


@dataclass(frozen=True)
class StudyRun:
    """One training, and the scans that it is scored on. ``labels``: how many, or "all"."""

    dataset: str
    arm: str
    labels: str
    draw: int
    scans: Scans
    recipe_digest: str

    @property
    def name(self) -> str:
        """Name in names of files and lines of progress."""
        parts = [self.dataset, self.arm, f"L{self.labels}", f"s{self.draw}", self.scans, self.recipe_digest]
        return "-".join(parts)


# The block whose arms have a page of their own, docs/ablation.md.
SETTINGS = "settings"


@dataclass(frozen=True)
class StudyList:
    """The whole list, checked."""

    folder: Path
    datasets: Mapping[str, Dataset]
    blocks: tuple[Block, ...]

    def base_recipe(self, dataset: Dataset) -> Recipe:
        """Load the recipe that gives the arms on ``dataset`` their steps."""
        return load_base_recipe(self.base_name(dataset), None)

    def base_name(self, dataset: Dataset) -> str:
        """Return the name of the base recipe, or the path of its file, which lies beside the list."""
        file = self.folder / dataset.base
        return str(file) if file.is_file() else dataset.base

    def arm_name(self, arm: str) -> str:
        """Return the name of an arm, or the path of its recipe, which lies beside the list."""
        file = self.folder / arm
        return str(file) if file.suffix == ".toml" else arm

    @property
    def settings(self) -> list[str]:
        """Names of the arms of the block called settings: the default with one setting changed, a recipe file each."""
        arms = (name for block in self.blocks if block.name == SETTINGS for name in block.arms)
        return [Path(name).stem for name in arms if name != "default"]

    def name_arm(self, run: StudyRun) -> str:
        """Return the name by which a benchmark makes the arm of ``run``.

        Raises:
            StateError: its recipe is no longer that of the run.
        """
        dataset = self.datasets[run.dataset]
        listed = dict.fromkeys(name for block in self.blocks if run.dataset in block.datasets for name in block.arms)
        changed = "no such arm"
        for name in listed:
            (arm,) = self._arms(dataset, [name])
            if arm.name == run.arm and (changed := recipe_digest(arm, dataset)) == run.recipe_digest:
                return self.arm_name(name)
        what, fix = f"recipe of arm {run.arm!r} changed since the run was chosen", "repeat the command"
        raise StateError(Problem("study.recipe-changed", what, run.dataset, fix, run.recipe_digest, changed))

    def runs(self, asked: Sequence[str] = ()) -> list[StudyRun]:
        """List all runs in order of worth, each once; of a block that waits to be asked for only if it is.

        Raises:
            UsageError: no block has a name that was asked for, or a recipe is wrong now.
        """
        if unknown := {*asked} - {block.name for block in self.blocks}:
            expected = " | ".join(block.name for block in self.blocks)
            named, fix = ", ".join(sorted(unknown)), "name a block of the list"
            raise UsageError(Problem("study.unknown-block", "no such block", "--block", fix, expected, named))
        found: dict[StudyRun, None] = {}
        for block in self.blocks:
            if block.asked and block.name not in asked:
                continue
            arms = {name: self._arms(self.datasets[name], block.arms) for name in block.datasets}
            for labels in block.labels:
                for draw in range(block.draws):
                    for name in block.datasets:
                        dataset = self.datasets[name]
                        for arm in arms[name]:
                            digest = recipe_digest(arm, dataset)
                            found[StudyRun(name, arm.name, str(labels), draw, block.scans, digest)] = None
        return list(found)

    def current_arms(self) -> dict[tuple[str, str], Arm]:
        """Return every arm with its recipe as it is now, by data set and name."""
        return {
            (name, arm.name): arm
            for block in self.blocks
            for name in block.datasets
            for arm in self._arms(self.datasets[name], block.arms)
        }

    def current_digests(self) -> dict[tuple[str, str], str]:
        """Return the digest of every recipe as it is now, by data set and arm."""
        return {place: recipe_digest(arm, self.datasets[place[0]]) for place, arm in self.current_arms().items()}

    def _arms(self, dataset: Dataset, names: Sequence[str]) -> list[Arm]:
        arms, problems = make_arms([self.arm_name(name) for name in names], self.base_recipe(dataset))
        if problems:
            raise UsageError(problems)
        return arms


def read_list(file: Path) -> StudyList:
    """Read and check a list.

    Raises:
        UsageError: everything that is wrong with it, all at once.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        fix = "repair the file, or name another one with --list"
        raise UsageError(
            Problem("study.unreadable-list", "no list of runs", str(file), fix, found=str(error))
        ) from None
    unknown = content.keys() - {"datasets", "blocks"}
    problems = [_wrong(file, f"unknown key {key!r}", "datasets | blocks") for key in sorted(unknown)]
    tables = content.get("datasets", {})
    listed_blocks = content.get("blocks", [])
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        problems.append(_wrong(file, "datasets are no tables", "[datasets.NAME]"))
        tables = {}
    if not isinstance(listed_blocks, list):
        problems.append(_wrong(file, "blocks are no list of tables", "[[blocks]]"))
        listed_blocks = []
    datasets = {
        name: cast("Dataset", made)
        for name, table in tables.items()
        if (made := _make(Dataset, {"name": name, **table}, f"datasets.{name}", file, problems)) is not None
    }
    blocks = [
        cast("Block", made)
        for number, table in enumerate(listed_blocks)
        if (made := _make(Block, table, f"blocks[{number}]", file, problems)) is not None
    ]
    for block in blocks:
        problems += _block_problems(block, datasets, file)
    listed = StudyList(file.parent.resolve(), datasets, tuple(blocks))
    if not problems:
        problems += _recipe_problems(listed, file)
    if problems:
        raise UsageError(problems)
    return listed


def _make(kind: Any, table: Any, where: str, file: Path, problems: list[Problem]) -> object | None:
    """Make a data class from a table of the list, or note what is wrong with it."""
    known = {entry.name: entry for entry in fields(kind)}
    values = dict(table) if isinstance(table, dict) else {}
    before = len(problems)
    unknown = values.keys() - known.keys()
    problems += [_wrong(file, f"unknown key {key!r} in {where}", " | ".join(known)) for key in sorted(unknown)]
    for key, entry in known.items():
        if key not in values and entry.default is MISSING:
            problems.append(_wrong(file, f"{where} lacks {key!r}", ""))
        elif key in values:
            value = tuple(values[key]) if isinstance(values[key], list) else values[key]
            values[key] = value
            if not _fits(key, value):
                problems.append(_wrong(file, f"{where}.{key} does not fit", _EXPECTED.get(key, "text"), repr(value)))
    return kind(**values) if len(problems) == before else None


_EXPECTED = {
    "datasets": "a list of names",
    "arms": "a list of names",
    "labels": 'a list of numbers from 1, or "all"',
    "draws": "a number from 1",
    "development": "a number from 1",
    "gpu_memory_gb": "a number above 0",
    "scans": "development | confirmation",
    "asked": "true | false",
}


def _fits(key: str, value: object) -> bool:
    def positive(number: object) -> bool:
        return isinstance(number, int) and not isinstance(number, bool) and number > 0

    if key in ("datasets", "arms"):
        return isinstance(value, tuple) and bool(value) and all(isinstance(name, str) for name in value)
    if key == "labels":
        return isinstance(value, tuple) and bool(value) and all(number == ALL or positive(number) for number in value)
    if key in ("draws", "development"):
        return positive(value)
    if key == "gpu_memory_gb":
        return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    if key == "scans":
        return value in ("development", "confirmation")
    return isinstance(value, bool if key == "asked" else str)


def _block_problems(block: Block, datasets: Mapping[str, Dataset], file: Path) -> list[Problem]:
    problems = [
        _wrong(file, f"block {block.name!r} names no data set of the list", " | ".join(datasets), name)
        for name in block.datasets
        if name not in datasets
    ]
    if ALL_LABELS in block.arms:
        problems.append(
            _wrong(file, f"block {block.name!r} has all labels as an arm", f'labels = ["{ALL}"]', ALL_LABELS)
        )
    if ALL in block.labels and (others := [arm for arm in block.arms if arm not in BASELINE_ARMS]):
        what = f"block {block.name!r} gives all labels to arms that need unlabeled cases"
        problems.append(_wrong(file, what, " | ".join(BASELINE_ARMS), ", ".join(others)))
    return problems


def _recipe_problems(listed: StudyList, file: Path) -> list[Problem]:
    problems: dict[str, Problem] = {}
    sources: dict[str, set[str]] = {}
    for source in dict.fromkeys(name for block in listed.blocks for name in block.arms):
        if "," in (path := listed.arm_name(source)):
            problems[source] = _wrong(file, "comma in the path of a recipe", "none", path)
    for block in listed.blocks:
        for name in block.datasets:
            with collected(problems):
                for source, arm in zip(block.arms, listed._arms(listed.datasets[name], block.arms), strict=True):
                    sources.setdefault(arm.name, set()).add(source)
    # Rows and tables know an arm by its name alone.
    for name, of_name in sources.items():
        if len(of_name) > 1:
            what, found = f"two recipes are called {name!r}", ", ".join(sorted(of_name))
            problems[name] = _wrong(file, what, "a name for each recipe", found)
    return list(problems.values())


@contextmanager
def collected(problems: dict[str, Problem]) -> Iterator[None]:
    """Collect the problems of an error instead of raising it, each once."""
    try:
        yield
    except PclautoError as error:
        problems |= {str(problem): problem for problem in error.problems}


def _wrong(file: Path, what: str, expected: str, found: str = "") -> Problem:
    return Problem("study.wrong-list", what, str(file), "correct the list", expected, found)


def recipe_digest(arm: Arm, dataset: Dataset) -> str:
    """Return a checksum of all settings that a run's result depends on, besides its draw and its number of labels.

    Settings at their defaults do not count, so that a setting that is new leaves the checksums of before as they are;
    a default that changes must come with another ``DIGEST_VERSION``.
    """
    settings = {
        "version": DIGEST_VERSION,
        "recipe": without_defaults(arm.recipe),
        "baseline": arm.baseline,
        "configuration": dataset.configuration,
        "gpu_memory_gb": float(dataset.gpu_memory_gb),
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def without_defaults(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a recipe that differ from their defaults, without its name and description."""
    plain = Recipe("").as_dict()
    return {
        table: changed
        for table, values in recipe.as_dict().items()
        if table not in ("name", "description")
        and (changed := {key: value for key, value in values.items() if value != plain[table][key]})
    }
