"""Do the study's next missing runs, in order of worth, and append their rows: see study.toml and benchmarks/README.md.

    make study TIME=2h
    python benchmarks/study/study_run.py --time 2h --data FOLDER_OF_TASKS

Runs are processes of one thread, one at a time on a CPU, as many as fit on a CUDA device. They run from a frozen copy
of the last commit, so that work can go on. What is cut off goes on from its last checkpoint with the next call, unless
the code has changed. Several calls may share a work folder: each takes runs that no other one has.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "benchmarks" / "gpu"), str(Path(__file__).resolve().parent)]

from study_list import ALL, StudyRun, collected, read_list
from study_rows import RowFiles, RunRows, refuse_changed_data
from study_setup import (
    VARIABLES,
    Place,
    choose_parallel,
    data_digest,
    freeze,
    in_copy,
    machine_name,
    plan,
    run_environment,
)
from supervise import Child, Deadline, adopt_orphans, interrupt, kill_all, last_words, print_line, start_command

from pcl_auto.errors import DataError, LockedError, PclautoError, Problem, StateError, UsageError
from pcl_auto.recipe.time_budget import format_duration, parse_budget
from pcl_auto.workspace.files import finite, read_json, write_json
from pcl_auto.workspace.lock import sole_writer
from pcl_auto.workspace.processes import reaching_caller
from pcl_auto.workspace.resources import as_resource_error

if TYPE_CHECKING:
    from pcl_auto.benchmark.train_and_score import Job

NICE = 10
SECONDS_BETWEEN_LOOKS = 0.2
# A run may take so much longer than others of its kind have; besides training it starts, segments and scores.
MARGIN, BESIDES_S = 1.15, 30.0
# The exit code, as a shell has it.
INTERRUPTED = 130


# --- one run, in a process of its own -------------------------------------------------------------------------


def make_job(place: Place, run: StudyRun, digest: str, workers: int | None) -> Job:
    """Settle what a run trains on and is scored on; no label of a scan that it is scored on is opened.

    Raises:
        StateError: code, data set or recipe changed since the run was chosen.
        UsageError: fewer labeled cases than the run needs.
    """
    from pcl_auto.benchmark.arms import ALL_LABELS
    from pcl_auto.benchmark.study import BenchmarkRequest, resolve_study

    dataset, all_labels = place.listed.datasets[run.dataset], run.labels == ALL
    arm = place.listed.name_arm(run)
    workspace = place.workspace(run.dataset, digest)
    planned = workspace.planned()
    if len(planned) != 1:
        what, fix = (
            f"{dataset.task} is not planned for this code",
            "repeat the command: the code changed since it began",
        )
        raise StateError(Problem("study.not-planned", what, str(workspace.results.parent), fix))
    request = BenchmarkRequest(
        labeled="1" if all_labels else run.labels,
        draws=run.draw + 1,
        arms=f"{arm},{ALL_LABELS}" if all_labels else arm,
        base_recipe=place.listed.base_name(dataset),
        test_cases=dataset.development if run.scans == "development" else 0,
        configuration=dataset.configuration,
        device=place.device,
        workers=workers,
        folder=place.work / "runs" / run.name,
    )
    study = resolve_study(request, planned[0], workspace)
    chosen = next(entry for entry in study.runs if entry.draw == run.draw and entry.arm.all_labels == all_labels)
    job = study.job(chosen, workspace)
    # A run is a unit of its own, on any machine.
    return replace(job, request=replace(job.request, shared_start=None))


def do_run(job: Job) -> dict[str, Any]:
    """Train, segment and score; return scores by case, and the seconds."""
    from pcl_auto.benchmark.train_and_score import do_job

    def log(event: str, values: object) -> None:
        if event in ("epoch", "pseudo_labels", "predicted", "rolled_back", "degenerate"):
            print(event, str(values)[:300], flush=True)

    with reaching_caller(log) as listener:
        outcome = do_job(job, listener)
    shutil.rmtree(outcome["model"], ignore_errors=True)
    return {key: outcome[key] for key in ("cases", "seconds", "memory_mb")}


def run_child(place: Place, given: argparse.Namespace) -> int:
    """Do one run and leave its result in a file, with what made it."""
    outcome = do_run(make_job(place, StudyRun(**json.loads(given.run)), given.digest, given.workers))
    made_by = {
        "commit": place.commit,
        "data_digest": given.digest,
        "machine": place.machine,
        "device": place.device_name,
    }
    write_json(Path(given.result), finite({**outcome, **made_by}))
    return 0


def _end_with(parent: int) -> None:
    """Kill this process and what it starts as soon as its parent is gone, which may be so already."""
    import threading

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


# --- many runs ------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """A run in its process, which holds its lock."""

    run: StudyRun
    child: Child
    begun: float
    log: Path
    lock: ExitStack


class Scheduler:
    """Do the next missing runs until the time is over."""

    def __init__(self, place: Place, given: argparse.Namespace, digests: dict[str, str], deadline: Deadline) -> None:
        self.place, self.given, self.digests, self.deadline = place, given, digests, deadline
        self.tried: set[StudyRun] = set()
        self.running: list[Running] = []
        self.failed: list[str] = []
        self.done = 0
        self.besides_s: list[float] = []

    def missing(self, recorded: Mapping[StudyRun, RunRows]) -> list[StudyRun]:
        """List the runs that are not on record, of data sets that are at hand."""
        return [
            run
            for run in self.place.listed.runs(self.given.block)
            if run not in recorded
            and run.dataset in self.digests
            and (not self.given.only or any(word in run.name for word in self.given.only))
        ]

    def expected_s(self, run: StudyRun, recorded: Mapping[StudyRun, RunRows]) -> float | None:
        """Tell how long a run may take here, by runs of its kind on record; None if there are none."""
        place = self.place
        here = [
            entry
            for entry in recorded.values()
            if (entry.machine, entry.device, entry.run.dataset) == (place.machine, place.device_name, run.dataset)
        ]
        alike = [entry for entry in here if entry.run.arm == run.arm] or here
        if not alike:
            return None
        besides = statistics.median(self.besides_s) if self.besides_s else BESIDES_S
        return MARGIN * (statistics.median(entry.seconds for entry in alike) + besides)

    def do(self) -> None:
        """Begin and watch runs; cut off what is running when the time is over."""
        self.collect()
        try:
            while self.deadline.left():
                while len(self.running) < self.given.parallel and self._begin_next():
                    pass
                if not self.running:
                    return
                before = len(self.running)
                while len(self.running) == before and self.deadline.left():
                    time.sleep(SECONDS_BETWEEN_LOOKS)
                    self.running = [entry for entry in self.running if not self._ended(entry)]
        finally:
            for entry in self.running:
                entry.child.kill()
                entry.lock.close()
                print_line(f"cut off {entry.run.name} after {time.monotonic() - entry.begun:.0f} s")

    def _begin_next(self) -> bool:
        recorded = self.place.rows.read()
        for run in self.missing(recorded):
            if run in self.tried or not self._fits(run, recorded):
                continue
            lock = ExitStack()
            try:
                lock.enter_context(sole_writer(self.place.work / "runs" / run.name))
            except LockedError:  # another call has it
                continue
            self.tried.add(run)
            if run in self.place.rows.read() or self._result(run).is_file():  # another call was faster
                lock.close()
                self.collect()
                continue
            self.running.append(self._start(run, lock))
            return True
        return False

    def _fits(self, run: StudyRun, recorded: Mapping[StudyRun, RunRows]) -> bool:
        expected = self.expected_s(run, recorded)
        return not self.given.whole or expected is None or expected < self.deadline.left()

    def _start(self, run: StudyRun, lock: ExitStack) -> Running:
        log = self.place.work / "logs" / f"{run.name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        print_line(f"begun   {run.name} ({format_duration(self.deadline.left())} left)")
        words = ["--run", json.dumps(asdict(run)), "--result", str(self._result(run)), "--digest",
                 self.digests[run.dataset], "--parent", str(os.getpid())]  # fmt: skip
        child = start_command([*self.given.child, *words], log, VARIABLES)
        return Running(run, child, time.monotonic(), log, lock)

    def _result(self, run: StudyRun) -> Path:
        return self.place.work / "results" / f"{run.name}.json"

    def _ended(self, entry: Running) -> bool:
        code = entry.child.poll()
        if code is None:
            return False
        if code == 0 and self._result(entry.run).is_file():
            trained_s, wall_s = self._keep(entry.run), time.monotonic() - entry.begun
            self.besides_s.append(max(0.0, wall_s - trained_s))
            print_line(f"done    {entry.run.name}: {wall_s:.0f} s, {trained_s:.0f} of them training")
        else:
            self.failed.append(f"{entry.run.name}: exit code {code}: {last_words(entry.log)}; see {entry.log}")
            print_line(f"failed  {self.failed[-1]}")
        entry.lock.close()
        return True

    def collect(self) -> None:
        """Put on record what an earlier call has finished but not recorded."""
        for run in self.missing(self.place.rows.read()):
            if self._result(run).is_file():
                with suppress(LockedError), sole_writer(self.place.work / "runs" / run.name):
                    file = self._result(run)
                    if not file.is_file():  # another call has kept it just now
                        continue
                    if read_json(file).get("data_digest", self.digests[run.dataset]) == self.digests[run.dataset]:
                        self._keep(run)
                    else:
                        kept = file.rename(file.with_suffix(".other-data"))
                        print_line(f"left out: a result of other files of {run.dataset}: {kept}")

    def _keep(self, run: StudyRun) -> float:
        """Append the rows of a finished run; return the seconds of its training."""
        result, place = read_json(self._result(run)), self.place
        scores = {
            metric: {case["id"]: math.nan if case[metric] is None else case[metric] for case in result["cases"]}
            for metric in ("dice", "hd95_mm")
        }
        seconds = math.nan if result["seconds"] is None else result["seconds"]
        # Another call may have made it, of another commit and elsewhere; results of before say their commit alone.
        rows = RunRows(
            run, scores["dice"], scores["hd95_mm"], result.get("commit", place.commit),
            result.get("data_digest", self.digests[run.dataset]), result.get("machine", place.machine),
            result.get("device", place.device_name), seconds,
        )  # fmt: skip
        self.done += place.rows.append(rows)
        self._result(run).unlink()
        shutil.rmtree(place.work / "runs" / run.name, ignore_errors=True)
        return seconds


# --- the command ----------------------------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", default="2h", help="2h | 90m: no run is begun after it, what still runs is cut off")
    parser.add_argument("--data", type=Path, default=os.environ.get("PCLAUTO_TEST_DATA"), help="folder of the tasks")
    parser.add_argument("--list", type=Path, help="default: benchmarks/study.toml of the commit")
    parser.add_argument("--results", type=Path, default=CHECKOUT / "benchmarks" / "results", help="folder of the rows")
    parser.add_argument("--work", type=Path, default=CHECKOUT / ".study", help="for plans, models and logs")
    parser.add_argument("--block", action="append", default=[], help="also this block, which waits to be asked for")
    parser.add_argument("--only", action="append", default=[], help="only runs with this in their name")
    parser.add_argument("--device", default="auto", help="auto | cpu | cuda")
    parser.add_argument("--parallel", type=int, default=0, help="runs at once; default: 1, or what the GPU takes")
    parser.add_argument("--workers", type=int, help="processes that augment data, of each run")
    parser.add_argument("--whole", action="store_true", help="begin only what is expected to end in time")
    parser.add_argument("--dry-run", action="store_true", help="list the missing runs")
    parser.add_argument("--commit", default="", help="run this code as it is, and call it so")
    for hidden in ("--run", "--result", "--digest"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.parallel < 0 or (given.workers or 0) < 0:
        parser.error("--parallel and --workers take 0 or more")
    if given.data is None:
        parser.error("name the folder of the tasks with --data, or in PCLAUTO_TEST_DATA")
    return given


def settle(given: argparse.Namespace) -> Place:
    """Settle folders, code and device."""
    device = given.device
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    parallel, device_name = choose_parallel(device)
    given.parallel = given.parallel or parallel
    return Place(
        read_list(given.list or CHECKOUT / "benchmarks" / "study.toml"), RowFiles(given.results.resolve()),
        Path(given.data).resolve(), given.work.resolve(), given.commit, device, machine_name(), device_name,
    )  # fmt: skip


def in_frozen_copy(given: argparse.Namespace, words: Sequence[str]) -> int:
    """Run this command from a copy of the last commit."""
    copy, commit = freeze(given.work.resolve())
    folders = ["--results", str(given.results.resolve()), "--work", str(given.work.resolve()), "--data",
               str(Path(given.data).resolve())]  # fmt: skip
    if given.list is not None:
        folders += ["--list", str(in_copy(given.list, copy))]
    command = [
        sys.executable,
        str(copy / "benchmarks" / "study" / "study_run.py"),
        *words,
        *folders,
        "--commit",
        commit,
    ]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(copy), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.execv(sys.executable, command)


def refuse_unknown_words(place: Place, given: argparse.Namespace) -> None:
    """Make sure that each word of --only is in the name of a run.

    Raises:
        UsageError: one is in none.
    """
    names = [run.name for run in place.listed.runs(given.block)]
    if unknown := [word for word in given.only if not any(word in name for name in names)]:
        fix, expected = "name a part of a run's name, as --dry-run lists them", names[0] if names else ""
        what = f"no run has {unknown[0]!r} in its name"
        raise UsageError(Problem("study.unknown-word", what, "--only", fix, expected, ", ".join(unknown)))


def refuse_impossible(place: Place, missing: Sequence[StudyRun], digests: Mapping[str, str]) -> None:
    """Make sure that there are the cases that the missing runs need, and that rows on record are of the same scans.

    Raises:
        UsageError: labeled cases are too few, or none shows some class, or other scans; everything at once.
    """
    problems: dict[str, Problem] = {}
    recorded = {(run.dataset, run.scans): {*entry.dice} for run, entry in place.rows.read().items()}
    # Every arm has the same cases.
    for run in {(run.dataset, run.labels, run.draw, run.scans): run for run in missing}.values():
        found: dict[str, Problem] = {}
        with collected(found):
            scored = {scan.id for scan in make_job(place, run, digests[run.dataset], 0).held_out.scans}
            if scored != recorded.get((run.dataset, run.scans), scored):
                what, expected = "rows on record are of other scans", f"{len(recorded[run.dataset, run.scans])} scans"
                raise UsageError(Problem("study.other-cases", what, "", "", expected, f"{len(scored)} scans"))
        where = f"{run.dataset} with {run.labels} labels, {run.scans} scans"
        wrong = [replace(problem, where=where, fix="correct the list or the data set") for problem in found.values()]
        problems |= {str(problem): problem for problem in wrong}
    if problems:
        raise UsageError(list(problems.values()))


def run_study(place: Place, given: argparse.Namespace, words: Sequence[str]) -> int:
    """Do runs until the time is over; return 1 if one failed, another code if interrupted."""
    deadline = Deadline(parse_budget(given.time, "--time"))
    there = {name: place.data / dataset.task for name, dataset in place.listed.datasets.items()}
    for name, task in there.items():
        if not (task / "dataset.json").is_file():
            print_line(f"left out: data set {name}, no folder {task}")
    refuse_unknown_words(place, given)
    digests = {name: data_digest(task) for name, task in there.items() if (task / "dataset.json").is_file()}
    if not digests:
        fix = "name their folder with --data, or in PCLAUTO_TEST_DATA"
        expected = " | ".join(dataset.task for dataset in place.listed.datasets.values())
        raise DataError(Problem("study.no-data", "no data set of the list", str(place.data), fix, expected))
    refuse_changed_data(place.rows.read().values(), digests, place.rows.folder)
    given.child = [sys.executable, str(Path(__file__).resolve()), *words]
    scheduler = Scheduler(place, given, digests, deadline)
    missing = scheduler.missing(place.rows.read())
    print_line(f"runs to do: {len(missing)}; {given.parallel} at once on {place.device_name}, {place.machine}")
    if given.dry_run:
        print("\n".join(run.name for run in missing))
        return 0
    interrupted = False
    try:
        place.rows.refuse_unwritable()
        for name in dict.fromkeys(run.dataset for run in missing):
            plan(place, name, digests[name])
        refuse_impossible(place, missing, digests)
        scheduler.do()
    except KeyboardInterrupt:
        interrupted = True
        print_line("interrupted")
    print_line(f"{scheduler.done} runs more on record, {len(scheduler.missing(place.rows.read()))} are missing")
    return INTERRUPTED if interrupted else int(bool(scheduler.failed))


def main(arguments: Sequence[str] | None = None) -> int:
    """Do a part of the study, or one of its runs."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = parse(words)
    try:
        if not given.commit:
            return in_frozen_copy(given, words)
        if given.run:
            _end_with(given.parent)
            return run_child(settle(given), given)
        os.nice(NICE)
        adopt_orphans()
        signal.signal(signal.SIGTERM, interrupt)
        os.environ.update(run_environment())
        return run_study(settle(given), given, words)
    except KeyboardInterrupt:
        print_line("interrupted")
        return INTERRUPTED
    except (PclautoError, OSError) as error:
        known = error if isinstance(error, PclautoError) else as_resource_error(error)
        if known is None:
            raise
        for problem in known.problems:
            print_line(f"error: {problem}")
        return known.exit_code
    finally:
        kill_all()


if __name__ == "__main__":
    sys.exit(main())
