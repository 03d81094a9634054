"""Do the study's runs: each once, whatever is killed when, and from a frozen copy of the code."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import study_run
import study_setup
from refusal import refused
from refusals import small_task
from study_list import StudyRun, read_list
from study_lists import toy_block, toy_dataset
from study_rows import RowFiles, RunRows
from supervise import Deadline, adopt_orphans

from pcl_auto.errors import DataError, StateError, UsageError
from pcl_auto.workspace.lock import sole_writer

LIST = toy_dataset() + toy_block(labels="[1, 2]", draws=3)
# In place of a training: takes a moment, notes that it was begun, and leaves a result.
CHILD = """
import json, pathlib, sys, time
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
run, result = json.loads(words["--run"]), pathlib.Path(words["--result"])
with open("begun.txt", "a") as file:
    file.write(f"{run}\\n")
time.sleep(0.1)
if run["arm"] == "default" and run["draw"] == 2 and pathlib.Path("broken").exists():
    sys.exit("it is broken")
cases = [{"id": case, "dice": 0.5, "hd95_mm": None} for case in "ab"]
result.parent.mkdir(parents=True, exist_ok=True)
part = result.with_suffix(".part")
made_by = {"commit": "c0ffee", "data_digest": "data", "machine": "a machine", "device": "cpu"}
part.write_text(json.dumps({"cases": cases, "seconds": 1.0, "memory_mb": 1, **made_by}))
part.rename(result)
"""
# A call of the command, without planning.
CALL = """
import sys
sys.path[:0] = {paths!r}
import test_study_run
test_study_run.do_all(float(sys.argv[1]))
"""


def place_in(folder: Path) -> study_setup.Place:
    (folder / "study.toml").write_text(LIST)
    return study_setup.Place(
        listed=read_list(folder / "study.toml"), rows=RowFiles(folder / "results"), data=folder, work=folder / "work",
        commit="c0ffee", device="cpu", machine="a machine", device_name="cpu",
    )  # fmt: skip


def scheduler_in(folder: Path, seconds: float, *, parallel: int = 2, **options: object) -> study_run.Scheduler:
    given = {"block": [], "only": [], "parallel": parallel, "whole": False, **options}
    given["child"] = [sys.executable, "-c", CHILD]
    return study_run.Scheduler(place_in(folder), Namespace(**given), {"toy": "data"}, Deadline(seconds))


def do_all(seconds: float) -> None:
    adopt_orphans()
    scheduler_in(Path.cwd(), seconds).do()


def begun(folder: Path) -> list[str]:
    file = folder / "begun.txt"
    return file.read_text().splitlines() if file.is_file() else []


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_run_is_done_once_and_nothing_twice(here: Path) -> None:
    scheduler = scheduler_in(here, 60)
    scheduler.do()
    runs = scheduler.place.listed.runs()
    assert {*scheduler.place.rows.read()} == {*runs}
    assert scheduler.done == len(runs) == 12
    before = (here / "results" / "toy_development.csv").read_bytes()
    again = scheduler_in(here, 60)
    again.do()
    assert again.done == 0
    assert (here / "results" / "toy_development.csv").read_bytes() == before
    assert len(begun(here)) == 12


def test_runs_begin_in_the_order_of_the_list(here: Path) -> None:
    scheduler = scheduler_in(here, 60, parallel=1)
    scheduler.do()
    assert begun(here) == [str(asdict(run)) for run in scheduler.place.listed.runs()]


def test_killed_at_random_and_repeated_yields_each_row_once(here: Path) -> None:
    paths = [str(Path(__file__).parent), *sys.path]
    moments = random.Random(0)
    rows: dict[StudyRun, RunRows] = {}
    for _ in range(60):
        call = subprocess.Popen(
            [sys.executable, "-c", CALL.format(paths=paths), "60"], cwd=here, stderr=subprocess.PIPE
        )
        # When it has begun a run, as a rule; sooner now and then. How fast the machine is does not matter.
        if moments.random() < 0.8:
            before = len(begun(here))
            while call.poll() is None and len(begun(here)) == before:
                time.sleep(0.01)
        try:
            call.wait(timeout=moments.uniform(0.0, 1.0))
        except subprocess.TimeoutExpired:
            os.kill(call.pid, moments.choice([signal.SIGKILL, signal.SIGTERM]))
        call.communicate()
        rows = RowFiles(here / "results").read()
        if len(rows) == 12:
            break
    assert {*rows} == {*place_in(here).listed.runs()}
    lines = (here / "results" / "toy_development.csv").read_text().splitlines()
    assert len(lines) == len({*lines}) == 1 + 12 * 2


def test_a_result_that_was_not_recorded_is_collected(here: Path) -> None:
    scheduler = scheduler_in(here, 60)
    run = scheduler.place.listed.runs()[5]
    result = {"cases": [{"id": "a", "dice": 0.25, "hd95_mm": 1.0}, {"id": "b", "dice": None, "hd95_mm": None}],
              "seconds": None, "memory_mb": 1, "commit": "before"}  # fmt: skip
    file = here / "work" / "results" / f"{run.name}.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(result))
    scheduler.collect()
    (entry,) = scheduler.place.rows.read().values()
    assert (entry.run, entry.commit, entry.dice["a"]) == (run, "before", 0.25)
    assert not file.exists()


def test_a_result_says_itself_what_made_it(here: Path) -> None:
    scheduler = scheduler_in(here, 60)
    first, second = scheduler.place.listed.runs()[:2]
    result = {"cases": [{"id": "a", "dice": 0.25, "hd95_mm": 1.0}], "seconds": 1.0, "memory_mb": 1,
              "commit": "before", "data_digest": "data", "machine": "elsewhere", "device": "a GPU"}  # fmt: skip
    results = here / "work" / "results"
    results.mkdir(parents=True)
    (results / f"{first.name}.json").write_text(json.dumps(result))
    # The data set changed before its rows were written.
    (results / f"{second.name}.json").write_text(json.dumps({**result, "data_digest": "of other files"}))
    scheduler.collect()
    (entry,) = scheduler.place.rows.read().values()
    assert (entry.run, entry.machine, entry.device, entry.data_digest) == (first, "elsewhere", "a GPU", "data")
    assert [file.name for file in results.iterdir()] == [f"{second.name}.other-data"]
    assert second in scheduler.missing(scheduler.place.rows.read())


def test_two_calls_share_the_list(here: Path) -> None:
    first, second = scheduler_in(here, 60, parallel=1), scheduler_in(here, 60, parallel=1)
    assert first._begin_next()
    assert second._begin_next()
    assert first.running[0].run != second.running[0].run
    runs = first.place.listed.runs()
    with sole_writer(here / "work" / "runs" / runs[2].name):
        third = scheduler_in(here, 60, parallel=1)
        assert third._begin_next()
        assert third.running[0].run == runs[3]
    for each in (first, second, third):
        each.deadline = Deadline(0)
        each.do()
    # Cut off, unless it was faster.
    assert {*RowFiles(here / "results").read()} <= {runs[0], runs[1], runs[3]}


def test_what_runs_at_the_end_is_cut_off(here: Path) -> None:
    scheduler = scheduler_in(here, 0.05, parallel=3)
    started = time.monotonic()
    scheduler.do()
    assert time.monotonic() - started < 30
    assert all(entry.child.poll() is not None for entry in scheduler.running)


def test_a_run_that_fails_stops_no_other_and_is_told(here: Path) -> None:
    (here / "broken").touch()
    scheduler = scheduler_in(here, 60)
    scheduler.do()
    assert len(scheduler.place.rows.read()) == 10
    assert len(scheduler.failed) == 2
    assert all("it is broken" in line for line in scheduler.failed)
    # Tried again by the next call.
    (here / "broken").unlink()
    scheduler_in(here, 60).do()
    assert len(scheduler.place.rows.read()) == 12


def test_whole_runs_alone_are_begun_in_the_time_that_is_left(here: Path) -> None:
    scheduler = scheduler_in(here, 100, whole=True)
    first, *others = scheduler.place.listed.runs()
    recorded = {
        first: RunRows(first, {"a": 1.0}, {"a": 1.0}, "c", "data", scheduler.place.machine, "cpu", seconds=1000.0)
    }
    same_arm = next(run for run in others if run.arm == first.arm)
    assert not scheduler._fits(same_arm, recorded)
    assert scheduler._fits(same_arm, {})
    # Of another machine nothing is known here.
    elsewhere = {first: replace(recorded[first], machine="another")}
    assert scheduler.expected_s(same_arm, elsewhere) is None


def test_the_data_set_is_known_by_its_content(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        small_task(tmp_path / folder)
    first, second = (next((tmp_path / folder).glob("Task*")) for folder in ("a", "b"))
    os.utime(first / "dataset.json", (1, 1))
    assert study_setup.data_digest(first) == study_setup.data_digest(second)
    label = next((first / "labelsTr").iterdir())
    label.write_bytes(label.read_bytes()[:-1] + b"?")
    assert study_setup.data_digest(first) != study_setup.data_digest(second)


def test_a_scan_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    small_task(tmp_path)
    task = next(tmp_path.glob("Task*"))
    study_setup._refuse_twins(task)
    scan = next((task / "imagesTr").iterdir())
    (task / "imagesTs").mkdir(exist_ok=True)
    description = json.loads((task / "dataset.json").read_text())
    (task / "imagesTs" / f"twin{''.join(scan.suffixes)}").write_bytes(scan.read_bytes())
    description["test"] = [*description.get("test", []), f"./imagesTs/twin{''.join(scan.suffixes)}"]
    (task / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(DataError) as caught:
        study_setup._refuse_twins(task)
    assert "data.labeled-twin-in-test" in [problem.code for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("said", "code"), [('{"problems": [{"code": "data.x", "what": "w", "where": "", "fix": "f"}]}', "data.x"),
                       ("Killed", "study.not-planned")],
)  # fmt: skip
def test_what_the_plan_refuses_is_told_as_it_tells_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, said: str, code: str
) -> None:
    shutil.move(small_task(here), here / "Task05_Toy")
    (here / "python").write_text(f"#!/bin/sh\necho '{said}'\necho 'it ends' >&2\nexit 3\n")
    (here / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(here / "python"))
    with refused(DataError, code):
        study_setup.plan(place_in(here), "toy", "digest")


def test_the_frozen_copy_is_the_last_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "pcl_auto").mkdir(parents=True)
    code = checkout / "pcl_auto" / "code.py"
    code.write_text("committed = 1\n")
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    code.write_text("changed = 2\n")
    monkeypatch.setattr(study_setup, "CHECKOUT", checkout)
    copy, commit = study_setup.freeze(tmp_path / "work")
    assert (copy / "pcl_auto" / "code.py").read_text() == "committed = 1\n"
    assert copy.name == commit
    assert study_setup.code_digest(copy) != study_setup.code_digest(checkout)
    assert study_setup.freeze(tmp_path / "work") == (copy, commit)
    # A list of the checkout comes from the copy too, with the recipes beside it; another one from where it is.
    assert study_setup.in_copy(code, copy) == copy / "pcl_auto" / "code.py"
    for other in (checkout / "new.toml", tmp_path / "list.toml"):
        assert study_setup.in_copy(other, copy) == other
    monkeypatch.setattr(study_setup, "CHECKOUT", tmp_path / "work")
    with refused(StateError, "study.no-commit"):
        study_setup.freeze(tmp_path / "elsewhere")


def test_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused(StateError, "study.no-commit"):
        study_setup.freeze(tmp_path / "work")


def test_what_is_not_committed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("benchmarks/study.toml", "benchmarks/results/rows.csv", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(study_setup, "CHECKOUT", tmp_path)
    study_setup.freeze(tmp_path.parent / f"{tmp_path.name}-work")
    assert capsys.readouterr().err == ""
    for name in ("benchmarks/study.toml", "benchmarks/results/rows.csv", "README.md"):
        (tmp_path / name).write_text("after")
    study_setup.freeze(tmp_path.parent / f"{tmp_path.name}-work")
    assert capsys.readouterr().err == "not committed, so not in these runs: benchmarks/study.toml\n"


def test_a_plan_is_of_its_files_its_memory_and_its_code(here: Path) -> None:
    place = place_in(here)
    folders = {place.workspace("toy", digest).results for digest in ("one", "other")}
    (here / "study.toml").write_text(LIST.replace("gpu_memory_gb = 1", "gpu_memory_gb = 2"))
    folders.add(replace(place, listed=read_list(here / "study.toml")).workspace("toy", "one").results)
    assert len(folders) == 3


def test_words_that_mean_no_run_are_refused(here: Path) -> None:
    place = place_in(here)
    study_run.refuse_unknown_words(place, Namespace(block=[], only=["default", "L2"]))
    with refused(UsageError, "study.unknown-word"):
        study_run.refuse_unknown_words(place, Namespace(block=[], only=["default", "other"]))
    with refused(UsageError, "study.unknown-block"):
        place.listed.runs(["second"])


@pytest.mark.parametrize("words", [["--parallel", "-1"], ["--workers", "-1"]])
def test_numbers_below_none_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        study_run.parse(["--data", ".", *words])
    assert "take 0 or more" in capsys.readouterr().err


def test_a_run_ends_with_a_parent_that_is_gone_already(here: Path) -> None:
    """The parent may be killed while the child still imports."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    code = f"import sys, time; sys.path[:0] = {sys.path!r}; import study_run as run; run._end_with({gone.pid})"
    child = subprocess.Popen([sys.executable, "-c", f"{code}; time.sleep(60)"], start_new_session=True)
    assert child.wait(timeout=50) == -signal.SIGKILL


def test_an_interrupted_study_does_not_end_as_one_that_is_through(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    shutil.move(small_task(here), here / "Task05_Toy")
    monkeypatch.setattr(study_run, "plan", interrupted)
    given = Namespace(time="1m", block=[], only=[], parallel=1, whole=False, dry_run=False)
    assert study_run.run_study(place_in(here), given, []) == study_run.INTERRUPTED
    assert "0 runs more on record, 12 are missing" in capsys.readouterr().err


def test_no_data_set_of_the_list(here: Path) -> None:
    given = Namespace(time="1m", block=[], only=[])
    with refused(DataError, "study.no-data"):
        study_run.run_study(place_in(here), given, [])


def test_the_machine_is_described_without_its_name() -> None:
    text = study_setup.machine_name()
    assert "cores" in text
    assert os.uname().nodename not in text


def test_a_run_is_handed_over_whole() -> None:
    run = StudyRun("toy", "default", "all", 3, "confirmation", "abcd")
    assert StudyRun(**json.loads(json.dumps(asdict(run)))) == run
