"""Run a benchmark in parts of minutes, on a machine that is there for a while only, and go on in the next part.

    python benchmarks/gpu/study.py FOLDER TASK --arms supervised,default --labeled 2 --seeds 3 --minutes 9
    python benchmarks/gpu/study.py FOLDER --table

Each run (an arm, a number of labels, a seed) trains, segments the test scans and scores them as in `pclauto benchmark`,
in a process of its own. FOLDER holds a small JSON file for each finished run and travels between machines; models,
plans and preprocessed cases do not: the data set is planned anew in each part, unless --work names a folder that is
still there. Repeat the command to go on; a run is begun only if it is expected to end in time. More in
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from carried import MB, Carried
from supervise import (
    Child,
    Deadline,
    TimedOutError,
    adopt_orphans,
    interrupt,
    kill_all,
    last_words,
    print_line,
    start_command,
    work_folder,
)

if TYPE_CHECKING:
    from pcl_auto.benchmark.study import BenchmarkRun, Study
    from pcl_auto.workspace.folders import Workspace

CHECKOUT = Path(__file__).resolve().parents[2]
SCHEMA_VERSION = 1
# Kept back from the end of a part.
RESERVE_S = 10.0
# A run may take so much longer than it is expected to, where it was timed by some of its steps, and where runs of its
# arm are on record.
MARGIN_TIMED, MARGIN_RECORDED = 1.25, 1.1
# Added to a timed training: starting it, and segmenting and scoring a test scan.
START_S, SCAN_S = 20.0, 1.0
LOG_TAIL_BYTES = 20_000
# Files of a run's folder that travel beside its scores.
KEPT = ("events.jsonl", "run.json")


@dataclass(frozen=True)
class Expectation:
    """The seconds that a run is expected to take, None if unknown, and the source of that knowledge."""

    seconds: float | None
    source: str


def expected(arm: str, parallel: int, recorded: Sequence[Mapping[str, Any]], timed: Mapping[str, float]) -> Expectation:
    """Tell how long a run of ``arm`` may take while ``parallel`` runs share the device.

    From runs of the arm on record, else from a timing of its steps. A run that was cut off takes longer than it had.
    """
    own = [entry for entry in recorded if entry["arm"] == arm]
    done = [entry["wall_s"] * max(1.0, parallel / entry["parallel"]) for entry in own if not entry["cut_off"]]
    cut_off = [entry["wall_s"] * max(1.0, parallel / entry["parallel"]) for entry in own if entry["cut_off"]]
    if done:
        return Expectation(MARGIN_RECORDED * statistics.median(done), f"{len(done)} of its runs")
    floor = max(cut_off, default=0.0)
    if arm in timed:
        # As if they took turns, until runs have shown better.
        return Expectation(max(MARGIN_TIMED * timed[arm] * parallel, MARGIN_RECORDED * floor), "some of its steps")
    return Expectation(MARGIN_RECORDED * floor, "a run that was cut off") if floor else Expectation(None, "nothing")


def format_minutes(seconds: float) -> str:
    """Write seconds as minutes, or hours and minutes."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 120 else f"{minutes} min"


# --- the folder that travels ----------------------------------------------------------------------------------


class Record:
    """Read from FOLDER which runs are finished, which were cut off, and how long they took."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = Carried(folder)

    def read(self, name: str, default: Any) -> Any:
        """Read a JSON file of the folder; ``default`` where there is none."""
        file = self.folder / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else default

    def write(self, name: str, content: Any) -> str:
        """Write a JSON file into the folder, if it may come in; else say why not."""
        return self.files.put(name, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())

    def runs(self) -> dict[str, dict[str, Any]]:
        """Read every finished run, by name."""
        files = sorted((self.folder / "runs").glob("*.json"))
        return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}

    def costs(self) -> list[dict[str, Any]]:
        """List what runs have taken, whether they ended or were cut off."""
        done = [
            {
                "arm": entry["settings"]["arm"],
                "wall_s": entry["wall_s"],
                "parallel": entry["parallel"],
                "cut_off": False,
            }
            for entry in self.runs().values()
        ]
        return done + list(self.read("cut_off.json", []))

    def add_cut_off(self, arm: str, seconds: float, parallel: int) -> None:
        """Remember that a run had not ended after ``seconds``."""
        entry = {"arm": arm, "wall_s": seconds, "parallel": parallel, "cut_off": True}
        self.write("cut_off.json", [*self.read("cut_off.json", []), entry])


def portable_settings(study: Study, run: BenchmarkRun, given: argparse.Namespace) -> dict[str, Any]:
    """Describe a run without machine and paths, so that another machine recognizes it."""
    settings = study.settings(run)
    planned = study.plan.nnunet["configurations"][study.configuration]
    architecture = planned["architecture"]["arch_kwargs"]
    settings["plan"] = {
        "patch": [int(size) for size in planned["patch_size"]],
        "spacing": [round(float(value), 4) for value in planned["spacing"]],
        "batch": planned["batch_size"],
        "features": architecture["features_per_stage"],
        "cases": _digest(sorted(study.plan.cases)),
    }
    sizes = [[scan.id, [file.stat().st_size for file in scan.paths]] for scan in study.held_out.scans]
    # The digest of cases kept out of the pool holds the times of their files.
    settings["test"] = _digest(sizes) if study.held_out.of_pool else study.held_out.digest()
    settings["device"] = given.device
    settings["compile"] = given.compile
    return cast("dict[str, Any]", json.loads(json.dumps(settings)))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


# --- one run --------------------------------------------------------------------------------------------------


def find_study(given: argparse.Namespace, work: Path) -> tuple[Study, Workspace]:
    """Settle the study as `pclauto benchmark` does, on the data set that is planned in ``work``.

    Raises:
        UsageError: everything in the request that does not fit.
    """
    from pcl_auto.benchmark.study import BenchmarkRequest, resolve_study
    from pcl_auto.workspace.folders import Workspace

    workspace = Workspace.at(work / "workspace", "a study's own")
    request = BenchmarkRequest(
        labeled=given.labeled,
        seeds=given.seeds,
        arms=given.arms,
        base_recipe=given.recipe,
        epochs=given.epochs,
        test_cases=given.test_cases,
        mirroring=given.mirroring,
        device=given.device,
        workers=workers_each(given),
        folder=work / "benchmark",
    )
    return resolve_study(request, workspace.dataset(None), workspace), workspace


def workers_each(given: argparse.Namespace) -> int | None:
    """Choose the augmentation workers for a run's labeled patches, about one worker per core in all."""
    from pcl_auto.nnunet.environment import available_cores

    if given.device == "cpu" or given.workers is not None:
        return None if given.workers is None else int(given.workers)
    return max(1, available_cores() // (2 * int(given.parallel)))


def do_run(given: argparse.Namespace) -> int:
    """Do one run, in this process, and write its result."""
    from pcl_auto.benchmark.train_and_score import do_job
    from pcl_auto.workspace.events import silent
    from pcl_auto.workspace.files import finite

    study, workspace = find_study(given, given.work)
    run = next(run for run in study.runs if run.name == given.run)
    job = study.job(run, workspace)
    # A run is a unit: none goes on from what another one has left.
    outcome = do_job(replace(job, request=replace(job.request, shared_start=None)), silent)
    content = {"settings": portable_settings(study, run, given), "machine": machine(given.device), **outcome}
    given.result.write_text(json.dumps(finite(content)), encoding="utf-8")
    return 0


def time_arm(given: argparse.Namespace) -> int:
    """Time some steps of an arm, and write how long a whole run may take."""
    from pcl_auto.training.dry_run import estimate_training
    from pcl_auto.training.request import resolve_run

    study, workspace = find_study(given, given.work)
    run = next(run for run in study.runs if run.name == given.run)
    request = replace(study.job(run, workspace).request, shared_start=None)
    workspace.activate()
    forecast = estimate_training(request, resolve_run(request, workspace))
    seconds = None if forecast.wall_s is None else forecast.wall_s + START_S + SCAN_S * len(study.held_out.scans)
    given.result.write_text(json.dumps({"seconds": seconds, "unknown": forecast.unknown}), encoding="utf-8")
    return 0


def machine(device: str) -> dict[str, Any]:
    """Describe the machine that a run was done on."""
    import torch

    from pcl_auto import __version__
    from pcl_auto.nnunet.environment import available_cores

    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cores": available_cores(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "nnunetv2": version("nnunetv2"),
        "pclauto": __version__,
    }


# --- a part ---------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """A run in its process; ``parallel``: the most runs that have shared the device with it, itself included."""

    run: BenchmarkRun
    child: Child
    begun: float
    log: Path
    result: Path
    parallel: int = 1

    def seconds(self) -> float:
        """Tell how long it has been running."""
        return time.monotonic() - self.begun


class Part:
    """Do as much of a study as fits before the deadline."""

    def __init__(self, given: argparse.Namespace, arguments: Sequence[str], work: Path, deadline: Deadline) -> None:
        self.given, self.work, self.deadline = given, work, deadline
        self._arguments = list(arguments)
        self.record = Record(given.folder)
        (work / "logs").mkdir(parents=True, exist_ok=True)
        self.study, _ = find_study(given, work)
        self.wanted = {run.name: portable_settings(self.study, run, given) for run in self.study.runs}
        self.failed: list[str] = []

    def refuse_others(self) -> None:
        """Make sure that the folder's runs are those that are asked for.

        Raises:
            StateError: a run was made with other settings; every difference.
        """
        from pcl_auto.benchmark.study import comparable_settings
        from pcl_auto.workspace.run_record import refuse_changes

        runs = self.record.runs()
        found = {name: comparable_settings(runs[name]["settings"]) for name in runs if name in self.wanted}
        wanted = {name: comparable_settings(self.wanted[name]) for name in found}
        fix = "repeat the settings of this study, or name another folder"
        refuse_changes(found, wanted, self.record.folder / "runs", fix)

    def pending(self) -> list[BenchmarkRun]:
        """List the runs that are not on record, in the benchmark's order."""
        done = self.record.runs()
        return [run for run in self.study.runs if run.name not in done]

    def expectation(self, arm: str, parallel: int) -> Expectation:
        """Tell how long a run of ``arm`` may take while ``parallel`` runs share the device."""
        return expected(arm, parallel, self.record.costs(), self.record.read("timed.json", {}))

    def do(self) -> None:
        """Do runs until all are done or no other one fits."""
        running: list[Running] = []
        tried: set[str] = set()
        for first in {run.arm.name: run for run in reversed(self.pending())}.values():
            if self.expectation(first.arm.name, 1).seconds is None:
                self._time(first)
        try:
            while True:
                running = [entry for entry in running if not self._ended(entry)]
                waiting = [run for run in self.pending() if run.name not in tried]
                while len(running) < self.given.parallel and (run := self._next(waiting, running)) is not None:
                    tried.add(run.name)
                    waiting.remove(run)
                    running.append(self._start(run))
                    for entry in running:
                        entry.parallel = max(entry.parallel, len(running))
                if not running or not self.deadline.left():
                    break
                time.sleep(0.1)
        finally:
            for entry in running:
                self._cut_off(entry)

    def _next(self, waiting: Sequence[BenchmarkRun], running: Sequence[Running]) -> BenchmarkRun | None:
        """Choose the first run that is expected to end in time, and to let those that run end in time."""
        sharing, left = len(running) + 1, self.deadline.left()
        for entry in running:
            known = self.expectation(entry.run.arm.name, sharing)
            if known.seconds is None or known.seconds - entry.seconds() > left:
                return None
        for run in waiting:
            known = self.expectation(run.arm.name, sharing)
            # One that nobody knows is tried if there is most of a part for it.
            if (30 * self.given.minutes * sharing if known.seconds is None else known.seconds) <= left:
                return run
        return None

    def _command(self, run: BenchmarkRun, result: Path, what: str) -> list[str]:
        own = ["--work", str(self.work), "--run", run.name, "--result", str(result), "--what", what]
        return [sys.executable, str(Path(__file__).resolve()), *self._arguments, *own]

    def _variables(self) -> dict[str, str]:
        # On a GPU nnU-Net compiles unless it is told not to.
        return {} if self.given.compile else {"nnUNet_compile": "f"}

    def _time(self, run: BenchmarkRun) -> None:
        result, log = self.work / "timed.json", self.work / "logs" / f"timing_{run.arm.name}.txt"
        result.unlink(missing_ok=True)
        print_line(f"timing some steps of {run.arm.name}")
        child = start_command(self._command(run, result, "time"), log, self._variables())
        while (code := child.poll()) is None and self.deadline.left():
            time.sleep(0.05)
        child.kill()
        if code != 0 or not result.is_file():
            print_line(f"no timing of {run.arm.name}: {last_words(log)}")
            return
        found = json.loads(result.read_text(encoding="utf-8"))
        if found["seconds"] is None:
            print_line(f"no timing of {run.arm.name}: {found['unknown']}")
            return
        self.record.write("timed.json", {**self.record.read("timed.json", {}), run.arm.name: found["seconds"]})

    def _start(self, run: BenchmarkRun) -> Running:
        log, result = self.work / "logs" / f"{run.name}.txt", self.work / f"{run.name}.json"
        result.unlink(missing_ok=True)
        known = self.expectation(run.arm.name, 1)
        expected_s = "" if known.seconds is None else f", {format_minutes(known.seconds)} alone by {known.source}"
        print_line(f"begun   {run.name} ({self.deadline.left():.0f} s left{expected_s})")
        return Running(
            run, start_command(self._command(run, result, "run"), log, self._variables()), time.monotonic(), log, result
        )

    def _ended(self, entry: Running) -> bool:
        code = entry.child.poll()
        if code is None:
            return False
        name, seconds = entry.run.name, entry.seconds()
        if code == 0 and entry.result.is_file():
            content = json.loads(entry.result.read_text(encoding="utf-8"))
            folder = Path(content.pop("model")) / "fold_all"
            if '"event": "resumed"' in (folder / "events.jsonl").read_text(encoding="utf-8"):
                # Begun in an earlier part whose work folder is still there.
                seconds = max(seconds, content["seconds"] + START_S)
            extra = {"schema_version": SCHEMA_VERSION, "wall_s": round(seconds, 1), "parallel": entry.parallel}
            left_out = self.record.write(f"runs/{name}.json", {**extra, **content})
            if left_out:
                self.failed.append(f"{name}: its result is left out: {left_out}")
            files = {f"curves/{name}.{kept}": folder / kept for kept in KEPT}
            for line in self.record.files.copy({to: file for to, file in files.items() if file.is_file()}):
                print_line(f"        {line}")
            print_line(f"done    {name}: Dice {content['mean']['dice']:.3f}, {seconds:.0f} s")
        else:
            self.failed.append(f"{name}: exit code {code}: {last_words(entry.log)}")
            self.record.files.put(f"logs/{name}.txt", entry.log.read_bytes()[-LOG_TAIL_BYTES:])
            print_line(f"failed  {self.failed[-1]}")
        return True

    def _cut_off(self, entry: Running) -> None:
        entry.child.kill()
        seconds = entry.seconds()
        self.record.add_cut_off(entry.run.arm.name, round(seconds, 1), entry.parallel)
        print_line(f"cut off {entry.run.name} after {seconds:.0f} s; it begins anew in the next part")

    def summary(self) -> list[str]:
        """Say what is done, what is left and how long that will take."""
        left, all_runs = self.pending(), len(self.study.runs)
        lines = [f"{all_runs - len(left)} of {all_runs} runs are done"]
        if not left:
            return lines
        lines.append(f"left: {', '.join(run.name for run in left)}")
        known = [self.expectation(run.arm.name, self.given.parallel) for run in left]
        seconds = [entry.seconds for entry in known if entry.seconds is not None]
        if seconds:
            parallel = min(self.given.parallel, len(left))
            whole = sum(seconds) * len(left) / len(seconds) / parallel
            more = "" if len(seconds) == len(left) else " if those of arms not timed yet take as long"
            lines.append(f"that will take about {format_minutes(whole)}{more}, in parts of {self.given.minutes:g} min")
        part_s = 60 * self.given.minutes - RESERVE_S
        for arm in dict.fromkeys(run.arm.name for run in left):
            one = self.expectation(arm, 1)
            if one.seconds is not None and one.seconds > part_s:
                lines.append(
                    f"a run of {arm} may take {format_minutes(one.seconds)} and does not fit a part: take --epochs "
                    "or more --minutes"
                )
        return lines


def plan_task(given: argparse.Namespace, work: Path, deadline: Deadline) -> None:
    """Plan and preprocess the task in ``work``, unless that is done.

    Raises:
        SystemExit: it cannot be planned, or not in time.
    """
    log = work / "plan.txt"
    command = [sys.executable, "-m", "pcl_auto", "plan", str(given.task), "--workspace", str(work / "workspace")]
    child = start_command([*command, "--gpu-memory-gb", f"{given.gpu_memory_gb:g}"], log, {})
    try:
        code = child.wait(deadline)
    except TimedOutError:
        raise SystemExit("planning alone takes longer than a part") from None
    if code != 0:
        raise SystemExit(f"pclauto plan ended with exit code {code}: {last_words(log)}")


# --- the table ------------------------------------------------------------------------------------------------


def table(record: Record) -> str:
    """Render the results of the runs that are there, as `pclauto benchmark` does, without any data set at hand."""
    from pcl_auto.benchmark.arms import ALL_LABELS_ARM, BASELINE_ARM
    from pcl_auto.benchmark.table import make_rows, p_text

    runs = record.runs()
    names = sorted({entry["settings"]["arm"] for entry in runs.values()}, key=lambda arm: (arm != BASELINE_ARM, arm))
    arms = {name: SimpleNamespace(name=name, all_labels=name == ALL_LABELS_ARM) for name in names}
    listed = [
        SimpleNamespace(name=name, arm=arms[entry["settings"]["arm"]], labeled=entry["settings"]["labeled"])
        for name, entry in runs.items()
    ]
    all_labels = next((run.labeled for run in listed if run.arm.all_labels), 0)
    study = SimpleNamespace(runs=listed, arms=list(arms.values()), all_labels=all_labels)
    columns = ["arm", "labels", "seeds", "Dice ± sd", "HD95", "Δ Dice", "p", "better", "gap", "min"]
    lines = [columns]
    verdicts = []
    for row in make_rows(cast("Study", study), runs):
        found = row.comparison
        compared = ["", "", "", ""]
        if found is not None:
            better = f"{found.seeds_better}/{found.seeds}"
            compared = [_number(found.difference, "+.3f"), p_text(found.p), better, _number(found.gap_closed, ".0%")]
            verdicts.append(row.verdict)
        dice = f"{_number(row.dice.mean, '.3f')} ± {_number(row.dice.sd, '.3f')}"
        cells = [row.arm, str(row.labeled), str(row.dice.seeds), dice, _number(row.hd95_mm.mean, ".2f")]
        lines.append([*cells, *compared, _number(row.seconds / 60, ".1f")])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    machines = sorted({json.dumps(entry["machine"], sort_keys=True) for entry in runs.values()})
    described = [", ".join(f"{key} {value}" for key, value in json.loads(entry).items()) for entry in machines]
    return "\n".join([*text, "", *verdicts, *described])


def _number(value: float, form: str) -> str:
    return "n/a" if math.isnan(value) else format(value, form)


# --- the command ----------------------------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of small files that the study goes on from")
    parser.add_argument("task", nargs="?", type=Path, help="a decathlon folder")
    parser.add_argument("--table", action="store_true", help="print the table of the runs that are there, do none")
    parser.add_argument("--arms", default="supervised,default", help="as in `pclauto benchmark`")
    parser.add_argument("--labeled", default="2", help="numbers of labels: 1,2,8")
    parser.add_argument("--seeds", type=int, default=3)
    own = str(Path(__file__).resolve().with_name("full_width.toml"))
    parser.add_argument("--recipe", default=own, help="optimizer, batch, network and steps of every arm")
    parser.add_argument("--epochs", type=int, help="so many; the recipe's parts keep their shares")
    parser.add_argument("--test-cases", type=int, default=0, help="test on so many labeled cases instead of imagesTs")
    parser.add_argument("--mirroring", action="store_true", help="mirror the test scans")
    parser.add_argument("--gpu-memory-gb", type=float, default=8.0, help="to plan for")
    parser.add_argument("--compile", action="store_true", help="with torch.compile, which takes a minute of each run")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, help="that augment data, for each run; default: by cores and --parallel")
    parser.add_argument("--minutes", type=float, default=9.0, help="for this part; default: 9")
    parser.add_argument("--parallel", type=int, default=1, help="runs that share the device")
    parser.add_argument("--work", type=Path, help="folder for plan, cases and models, which stays; default: none does")
    for hidden in ("--run", "--what"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.task is None and not given.table:
        parser.error("name a task folder, or ask for --table")
    if given.parallel < 1 or given.seeds < 1:
        parser.error("--parallel and --seeds are 1 or more")
    return given


def do_part(given: argparse.Namespace, arguments: Sequence[str], work: Path, deadline: Deadline) -> int:
    """Do a part of the study and say how far it is; 1 if a run failed or none fits a part."""
    plan_task(given, work, deadline)
    part = Part(given, arguments, work, deadline)
    part.refuse_others()
    try:
        part.do()
    except KeyboardInterrupt:
        print_line("interrupted")
    for line in part.record.files.enforce(work / "left_out"):
        print_line(line)
    print("\n".join(part.summary()))
    print(f"{given.folder}: {part.record.files.size() / MB:.2f} MB; models stay behind")
    for line in part.failed:
        print(f"failed: {line}")
    return int(bool(part.failed))


def main(arguments: Sequence[str] | None = None) -> int:
    """Do a part of a study, or print its table."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = parse(words)
    sys.path.insert(0, str(CHECKOUT))
    if given.what:
        return {"run": do_run, "time": time_arm}[given.what](given)
    if given.table:
        print(table(Record(given.folder)))
        return 0
    deadline = Deadline(max(0.0, 60 * given.minutes - RESERVE_S))
    adopt_orphans()
    signal.signal(signal.SIGTERM, interrupt)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    for name in [name for name in os.environ if name.startswith("nnUNet_")]:
        del os.environ[name]
    given.folder.mkdir(parents=True, exist_ok=True)
    from pcl_auto.errors import PclautoError
    from pcl_auto.workspace.lock import sole_writer

    try:
        with work_folder(given.work, "pclauto-study-") as work, sole_writer(given.folder.resolve()):
            return do_part(given, words, work, deadline)
    except PclautoError as error:
        for problem in error.problems:
            print_line(f"error: {problem}")
        return error.exit_code
    finally:
        kill_all()


if __name__ == "__main__":
    sys.exit(main())
