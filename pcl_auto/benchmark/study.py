"""Run a study: every arm with every number of labels and every draw, one run after the other, resumable."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pcl_auto.benchmark.arms import (
    ALL_LABELS,
    BASELINE_ARMS,
    Arm,
    begin_with,
    load_base_recipe,
    make_arms,
    parse_labeled,
)
from pcl_auto.benchmark.draws import draw_labeled
from pcl_auto.benchmark.pretrained_arm import refuse_seen_tests
from pcl_auto.benchmark.subprocess_run import run_in_subprocess
from pcl_auto.benchmark.test_cases import HeldOut, find_held_out, folder_problems, hold_out
from pcl_auto.benchmark.train_and_score import Job, do_job
from pcl_auto.data.dataset.decathlon import find_task
from pcl_auto.data.labels import foreground, ignore_value
from pcl_auto.data.split import Split
from pcl_auto.errors import Problem, StateError, UsageError, format_names
from pcl_auto.nnunet.pretrained.find import FoundSource, find_source
from pcl_auto.nnunet.training.run_settings import start_settings
from pcl_auto.planning.plan import Plan, read_plan
from pcl_auto.recipe.load import recorded_recipe
from pcl_auto.recipe.settings import Recipe
from pcl_auto.training.pretrained_start import AUTO
from pcl_auto.training.request import TrainRequest
from pcl_auto.training.train import start_record
from pcl_auto.workspace.events import Listener
from pcl_auto.workspace.files import file_digest, finite, read_json, read_kept, write_json
from pcl_auto.workspace.folders import DatasetFolder, Workspace
from pcl_auto.workspace.lock import sole_writer
from pcl_auto.workspace.output import refuse_input_folder
from pcl_auto.workspace.run_record import refuse_changes

SCHEMA_VERSION = 2
DEFAULT_ARMS = ",".join([*BASELINE_ARMS, "default", ALL_LABELS])
DEFAULT_DRAWS = 6
RESULTS = ("results.json", "results.csv", "results.png")


_VALUE = (float, None)
# Of the record of a run, see pcl_auto.workspace.shapes.
_SHAPE = {
    "settings": {"arm": str, "labeled": int, "draw": int, "recipe": {...: object}, ...: object},
    "mean": {"dice": _VALUE, "hd95_mm": _VALUE},
    "undefined": {"dice": int, "hd95_mm": int},
    "seconds": _VALUE,
    "memory_mb": _VALUE,
    "model": str,
    "labels?": {...: str},
    "cases": [{"id": str, "dice": _VALUE, "hd95_mm": _VALUE, ...: object}],
}


def read_run_record(file: Path) -> dict[str, Any]:
    """Read the record of a run that was done.

    Raises:
        StateError: it is damaged.
    """
    record: dict[str, Any] = read_json(file, _SHAPE, fix="restore the file, or remove it: the run is then done again")
    return record


@dataclass(frozen=True)
class BenchmarkRequest:
    """The settings of a study, as ``pclauto benchmark`` takes them.

    ``test_cases``: so many labeled cases, which no arm learns from, are the test cases instead of those in folders.
    ``every_class``: draw labeled cases that show every class together. ``mirroring``: average the prediction over
    mirrored copies, for each model along the axes that it was mirrored along in training, as in ``pclauto predict``.
    """

    labeled: str = "2"
    draws: int = DEFAULT_DRAWS
    every_class: bool = True
    arms: str = DEFAULT_ARMS
    base_recipe: str = "quick"
    # What is changed in it and in the recipes of all arms, each as "table.key=value".
    settings: tuple[str, ...] = ()
    epochs: int | None = None
    test_labels: Path | None = None
    test_images: Path | None = None
    test_cases: int = 0
    # What every arm begins with, baselines too; a recipe may name its own instead.
    pretrained: str = ""
    configuration: str | None = None
    mirroring: bool = True
    device: str = "auto"
    workers: int | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class BenchmarkRun:
    """One arm with one number of labeled cases, and one draw of them, which is also the seed of the training."""

    arm: Arm
    labeled: int
    draw: int

    @property
    def name(self) -> str:
        """Name of the run in names of files."""
        return f"{self.arm.name}_L{self.labeled}_s{self.draw}"


@dataclass(frozen=True)
class Study:
    """A benchmark with everything settled: its arms, runs, test cases and folder."""

    folder: Path
    data: DatasetFolder
    plan: Plan
    configuration: str
    base_recipe: Recipe
    arms: tuple[Arm, ...]
    labeled: tuple[int, ...]
    draws: tuple[int, ...]
    every_class: bool
    all_labels: int
    held_out: HeldOut
    mirroring: bool
    device: str
    workers: int | None
    changes: tuple[str, ...] = ()
    pretrained: FoundSource | None = None

    @property
    def runs(self) -> list[BenchmarkRun]:
        """All runs, by number of labels and draw, baselines first; those with all labels after the first comparison.

        In this order a study that is cut short has whole comparisons.
        """
        with_all = [arm for arm in self.arms if arm.all_labels]
        compared = sorted((arm for arm in self.arms if not arm.all_labels), key=lambda arm: not arm.baseline)
        numbers = self.labeled if compared else ()
        runs = [BenchmarkRun(arm, number, draw) for number in numbers for draw in self.draws for arm in compared]
        first = len(self.draws) * len(compared) if numbers else 0
        ceiling = [BenchmarkRun(arm, self.all_labels, draw) for arm in with_all for draw in self.draws]
        # A number of labels may be all of them.
        return list({run.name: run for run in [*runs[:first], *ceiling, *runs[first:]]}.values())

    def file(self, run: BenchmarkRun) -> Path:
        """Return the file that a finished run is recorded in."""
        return self.folder / "runs" / f"{run.name}.json"

    def settings(self, run: BenchmarkRun) -> dict[str, Any]:
        """Return the settings that make a run this run, as its file records them."""
        return {
            "dataset": self.data.name,
            "plan": _digest(_without_digests(self.plan.content)),
            "configuration": self.configuration,
            "arm": run.arm.name,
            "labeled": run.labeled,
            "draw": run.draw,
            "every_class": self.every_class,
            "recipe": run.arm.recipe.as_dict(),
            "baseline": run.arm.baseline,
            "test": {"labels": str(self.held_out.labels), "digest": self.held_out.digest()},
            "images": _digest([self.held_out.image_digests, [case.digest for case in self.plan.cases.values()]]),
            "mirroring": self.mirroring,
            **({} if self.pretrained is None else {"pretrained": self.pretrained.digest}),
        }

    def recorded(self) -> dict[str, dict[str, Any]]:
        """Read the runs on record, by name, in the order of :attr:`runs`.

        Raises:
            StateError: a run was made with other settings, every difference of every run; or two learned from other
                labels of one case.
        """
        found: dict[str, dict[str, Any]] = {}
        problems: list[Problem] = []
        for run in self.runs:
            if self.file(run).exists():
                try:
                    found[run.name] = read_run_record(self.file(run))
                except StateError as error:
                    problems += error.problems
        if problems:
            raise StateError(problems)
        recorded = {name: comparable_settings(entry["settings"]) for name, entry in found.items()}
        wanted = {run.name: comparable_settings(self.settings(run)) for run in self.runs if run.name in found}
        fix = "repeat the settings of this benchmark, or name another folder with --folder"
        for name, settings in recorded.items():  # of version 0.2
            settings.setdefault("images", wanted[name]["images"])
        refuse_changes(recorded, wanted, self.folder / "runs", fix)
        _refuse_other_labels(self.folder / "runs", found)
        return found

    def shared_start(self, run: BenchmarkRun) -> Path | None:
        """Return the file of the supervised start that the arms of one number of labels and one draw share."""
        if run.arm.all_labels or run.arm.recipe.pretrained.source:
            return None
        whole = {"recipe": run.arm.recipe.as_dict(), "seed": run.draw, "split": "", "store": "", "deterministic": False}
        if self.pretrained is not None:
            whole["pretrained"] = self.pretrained.digest
        # Other test cases of the pool leave other cases to learn from.
        pool = [self.held_out.digest()] if self.held_out.of_pool else []
        digest = _digest(
            [start_settings(whole), self.every_class, self.configuration, _without_digests(self.plan.content), *pool]
        )
        return self.folder / "starts" / f"L{run.labeled}_s{run.draw}_{digest}.pth"

    def forget_starts(self, done: Collection[str]) -> None:
        """Remove the supervised starts that only runs named in ``done`` have needed.

        An arm that is added later makes its start anew.
        """
        starts = {run.name: self.shared_start(run) for run in self.runs}
        needed = {start for name, start in starts.items() if name not in done}
        for start in {*starts.values()} - needed:
            if start is not None:
                start.unlink(missing_ok=True)
                start_record(start).unlink(missing_ok=True)
        with suppress(OSError):  # others are still needed, or there never were any
            (self.folder / "starts").rmdir()

    def split(self, run: BenchmarkRun) -> Split:
        """Draw the cases of a run."""
        kept_out = {scan.id for scan in self.held_out.scans} if self.held_out.of_pool else set()
        labeled = None if run.arm.all_labels else run.labeled
        return draw_labeled(self.plan, kept_out, labeled=labeled, draw=run.draw, every_class=self.every_class)

    def label_digests(self, run: BenchmarkRun) -> dict[str, str]:
        """Return the digests of the labels that a run would learn from now."""
        labels = {case: self.plan.cases[case].label for case in self.split(run).labeled}
        return {case: file_digest(label) for case, label in labels.items() if label is not None and label.is_file()}

    def job(self, run: BenchmarkRun, workspace: Workspace) -> Job:
        """Return what a run needs to be done in a process of its own."""
        # What a recipe names itself goes before.
        begun = None if run.arm.recipe.pretrained.source else self.pretrained
        request = TrainRequest(
            dataset=self.data.name,
            split=self.split(run),
            seed=run.draw,
            recipe=run.arm.recipe,
            configuration=self.configuration,
            device=self.device,
            workers=self.workers,
            supervised_only=run.arm.baseline,
            recipe_mirroring=True,
            shared_start=self.shared_start(run),
            remember=False,
            pretrained="" if begun is None else begun.address,
            pretrained_digest="" if begun is None else begun.digest,
        )
        labels, masks = self.plan.dataset_json["labels"], self.folder / "masks" / run.name
        classes, ignored = foreground(labels), ignore_value(labels)
        return Job(request, workspace, self.held_out, classes, self.mirroring, masks, ignored)


def _refuse_other_labels(folder: Path, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to compare runs of which two learned from other labels of one case; version 0.2 does not say from which.

    Raises:
        StateError: the cases, with the runs.
    """
    learned: dict[str, dict[str, list[str]]] = {}
    for name, run in runs.items():
        for case, digest in run.get("labels", {}).items():
            learned.setdefault(case, {}).setdefault(digest, []).append(name)
    problems = [
        Problem(
            code="benchmark.label-changed",
            what=f"the label of {case} is not the one that other runs learned from",
            where=str(folder),
            expected="one label of a case for all runs",
            found=" | ".join(format_names(names, 3) for names in by_digest.values()),
            fix="restore the label, or name another folder with --folder",
        )
        for case, by_digest in learned.items()
        if len(by_digest) > 1
    ]
    if problems:
        raise StateError(problems)


def comparable_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run with the recipe's current keys, and without its name and description.

    The name holds a checksum of the keys, which version 0.1 called otherwise.
    """
    recipe = recorded_recipe(settings["recipe"])
    return {**settings, "recipe": {key: recipe[key] for key in recipe if key not in ("name", "description")}}


def _without_digests(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan as version 0.2 wrote it, whose checksum stands in the records of earlier runs."""
    cases = {case: {key: entry[key] for key in entry if key != "digest"} for case, entry in plan["cases"].items()}
    return {**plan, "cases": cases}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def find_planned(name: str | None, workspace: Workspace) -> DatasetFolder | None:
    """Find a planned data set by its name or its decathlon folder; None if it has no plan yet."""
    planned = workspace.planned()
    if name is None:
        return workspace.dataset(None)
    for data in planned:
        known = read_kept(data.plan_file, {"task": {"root": str}}) if Path(name).is_dir() else None
        if known is not None and Path(known["task"]["root"]).resolve() == Path(name).resolve():
            return data
    try:
        return workspace.dataset(name) if planned else None
    except UsageError:
        return None


def find_unplanned(name: str, request: BenchmarkRequest, folders: Sequence[Path]) -> Path:
    """Return the folder of a data set that is still to be planned, if the request fits it.

    Raises:
        UsageError: no such data set, and everything in the request that can be seen to be wrong without a plan.
    """
    problems = request_problems(request)
    try:
        root = find_task(name, folders)
    except UsageError as error:
        raise UsageError([*error.problems, *problems]) from None
    if not request.test_cases:
        problems += folder_problems(request.test_images or root / "imagesTs", request.test_labels or root / "labelsTs")
    if problems:
        raise UsageError(problems)
    return root


def request_problems(request: BenchmarkRequest) -> list[Problem]:
    """List what is wrong with a request whatever the data set."""
    return _settle(request)[3]


def _settle(request: BenchmarkRequest) -> tuple[Recipe | None, list[Arm], list[int], list[Problem]]:
    """Settle base recipe, arms and numbers of labels, and list what is wrong with the request."""
    numbers, problems = parse_labeled(request.labeled)
    names = [name.strip() for name in request.arms.split(",") if name.strip()]
    base = None
    try:
        base = load_base_recipe(request.base_recipe, request.epochs, request.settings)
    except UsageError as error:
        problems += error.problems
    # The names of the arms are checked even where the base recipe is wrong.
    arms, wrong = make_arms(names, base or Recipe("any"), request.settings if base else ())
    problems += wrong
    if request.test_cases and (request.test_labels or request.test_images):
        where = "--test-cases and --test or --test-images"
        problems.append(Problem("benchmark.two-kinds-of-test", "two kinds of test cases", where, "keep one of them"))
    return base, arms, numbers, problems


def resolve_study(request: BenchmarkRequest, data: DatasetFolder, workspace: Workspace) -> Study:
    """Settle arms, runs, test cases and folder of a benchmark; nothing is written.

    Raises:
        UsageError: everything in the request that does not fit, all at once.
    """
    plan = read_plan(data)
    base, arms, numbers, problems = _settle(request)
    problems += _label_problems(plan, arms, numbers, request.test_cases)
    if request.test_cases:
        held_out, wrong = hold_out(plan, request.test_cases)
    else:
        images, labels = request.test_images or plan.root / "imagesTs", request.test_labels or plan.root / "labelsTs"
        held_out, wrong = find_held_out(images, labels, plan)
    problems += wrong
    configuration = ""
    try:
        configuration = plan.configuration_named(request.configuration)
    except UsageError as error:
        problems += error.problems
    pretrained = find_source(request.pretrained) if request.pretrained not in ("", AUTO) else None
    named = {arm.recipe.pretrained.source for arm in arms} - {"", AUTO}
    sources = [*map(find_source, sorted(named)), *([] if pretrained is None else [pretrained])]
    problems += [] if held_out is None else refuse_seen_tests(sources, held_out, plan)
    if problems or base is None or held_out is None:
        raise UsageError(problems)
    own = request.pretrained == AUTO
    folder = (request.folder or workspace.results.parent / "benchmarks" / data.name).resolve()
    if request.folder is not None:
        refuse_input_folder(request.folder, "--folder")
    _refuse_others(folder)
    return Study(
        folder=folder,
        data=data,
        plan=plan,
        configuration=configuration,
        base_recipe=base,
        arms=tuple(begin_with(AUTO if own else "", arm, base) for arm in arms) if request.pretrained else tuple(arms),
        labeled=tuple(numbers),
        draws=tuple(range(request.draws)),
        every_class=request.every_class,
        all_labels=sum(case.label is not None for case in plan.cases.values()) - request.test_cases,
        held_out=replace(held_out, labels=held_out.labels.resolve()),
        mirroring=request.mirroring,
        device=request.device,
        workers=request.workers,
        changes=request.settings,
        pretrained=pretrained,
    )


def _refuse_others(folder: Path) -> None:
    """Refuse a folder whose results are of something else than a benchmark.

    Raises:
        UsageError: they are.
    """
    first = folder / RESULTS[0]
    if read_kept(first, {"runs_done": object, "runs_wanted": object}) is not None:
        return
    taken = [folder / name for name in RESULTS if os.path.lexists(folder / name)]
    if taken:
        what, fix = "something else has the name of a benchmark's results", "name another folder with --folder"
        raise UsageError([Problem("output.not-ours", what, str(path), fix) for path in taken])


def _label_problems(plan: Plan, arms: list[Arm], numbers: list[int], held_out: int) -> list[Problem]:
    with_label = sum(case.label is not None for case in plan.cases.values()) - held_out
    if with_label <= 0:
        return []  # --test-cases is too large, which is a problem of its own
    joint = any(not arm.baseline for arm in arms)
    problems = []
    for number in numbers:
        if number > with_label:
            what, expected = "more labels than there are", f"1 to {with_label}"
            code, found = "benchmark.too-many-labels", str(number)
            problems.append(Problem(code, what, "--labeled", "ask for fewer", expected, found))
        elif number == len(plan.cases) - held_out and joint:
            what = f"with {number} labels no case is unlabeled"
            fix = "ask for fewer labels, or for supervised arms alone"
            problems.append(Problem("benchmark.no-unlabeled", what, "--labeled", fix))
    return problems


def run_study(
    study: Study,
    workspace: Workspace,
    *,
    print_line: Callable[[str], None],
    listener: Listener,
    work: Callable[[Job, Listener], dict[str, Any]] | None = None,
    after_each: Callable[[dict[str, dict[str, Any]]], object] = lambda _found: None,
) -> dict[str, dict[str, Any]]:
    """Do every run that is not on record yet and return all of them by name.

    Args:
        study: the runs to do.
        workspace: the one that its data set was planned in.
        print_line: takes a line about every run.
        listener: takes the events of every run.
        work: does a run; by default in a process of its own.
        after_each: takes all runs on record, at first and after every new one.

    Raises:
        StateError: a run on record was made with other settings, or with other labels of the cases of this one.
        UsageError: see :func:`pcl_auto.benchmark.draws.draw_labeled`; nothing is trained.
        PclautoError: see :func:`pcl_auto.benchmark.train_and_score.do_job`.
    """
    work = work or (lambda job, listener: run_in_subprocess(do_job, job, listener))
    with sole_writer(study.folder):
        found = study.recorded()
        study.forget_starts(found)  # an earlier try may have been stopped before it did
        after_each(found)
        # Every draw before the first training: a number of labels may be too small for it.
        jobs = {run.name: study.job(run, workspace) for run in study.runs if run.name not in found}
        for number, run in enumerate(study.runs, start=1):
            line = f"run {number}/{len(study.runs)}  {run.arm.name}, labels {run.labeled}, draw {run.draw}"
            if run.name in found:
                print_line(f"{line}: done before")
                continue
            print_line(line)
            now = {"labels": study.label_digests(run)}
            _refuse_other_labels(study.folder / "runs", {**found, run.name: now})
            outcome = work(jobs[run.name], listener)
            content = {"schema_version": SCHEMA_VERSION, "settings": study.settings(run), **outcome}
            write_json(study.file(run), finite(content))
            found[run.name] = read_run_record(study.file(run))
            found = {run.name: found[run.name] for run in study.runs if run.name in found}
            study.forget_starts(found)
            after_each(found)
    return found
