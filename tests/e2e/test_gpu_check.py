"""The check for a CUDA machine, in its tiny form on a CPU: as real processes, and its pure parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
GPU = ROOT / "benchmarks" / "gpu"
sys.path.insert(0, str(GPU))

import check as checks  # noqa: E402
import rows  # noqa: E402
import supervise  # noqa: E402
import table  # noqa: E402
from bench import TINY, Bench, Found, Row, Schedule  # noqa: E402
from cost_rows import loader_figures  # noqa: E402
from training_rows import resume_problems, training_figures, training_problems  # noqa: E402

pytestmark = pytest.mark.slow

RECIPE = """
extends = "default"
[schedule]
steps_per_epoch = 1
supervised_epochs = 1
rounds = 1
epochs_per_round = 1
[batch]
patches = 2
[network]
width = 0.25
[collapse_guard]
volume_margin = 0.0
"""


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(*command: object, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("nnUNet_", "PCLAUTO_"))}
    done = subprocess.run(
        [str(word) for word in command],
        env={**kept, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **variables},
        capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


# --- the check ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["predict,memory", pytest.param("", marks=pytest.mark.soak)])
def test_every_row_passes_or_says_that_it_needs_a_gpu(tmp_path: Path, named: str) -> None:
    # A slow machine gets its time; the real limit is the test below.
    done = run(GPU / "check.sh", tmp_path / "out", "--minutes", "19", "--rows", named, DEVICE="cpu", TINY="1")
    content = json.loads((tmp_path / "out" / "check.json").read_text())
    found = {entry["row"]: entry for entry in content["rows"]}
    assert list(found) == [row.name for row in checks.chosen_rows(named)]
    on_gpu = {row.name for row in rows.ROWS if row.gpu}
    for name, entry in found.items():
        expected = (table.NOT_RUN, "needs a GPU") if name in on_gpu else (table.PASSED, entry["figures"])
        assert (entry["outcome"], entry["figures"]) == expected
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == ["check", *found]
    assert len((tmp_path / "out" / "check.md").read_text().splitlines()) == 4 + len(found)
    # No log: nothing failed.
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"check.json", "check.md"}

    assert content["machine"]["torch"]
    assert found["plan"]["details"]["batch"] >= 2
    trained = found["train default"]["details"]
    assert trained["ms_per_step"].keys() == {"supervised", "joint"}
    assert found["predict"]["details"]["masks"] == 2
    assert found["predict"]["details"]["differing"] == 0
    if named:
        return
    assert found["train supervised"]["details"]["ms_per_step"].keys() == {"supervised"}
    assert found["kill and resume"]["details"]["orphans"] == 0
    assert found["deterministic"]["details"]["differing"] == 0
    assert found["features"]["details"]["not compiled"]["gradient"] > 0
    assert [entry["workers"] for entry in found["loader"]["details"]["rates"]] == [1]


def test_a_check_without_time_says_so_and_ends(tmp_path: Path) -> None:
    begun = time.monotonic()
    run(GPU / "check.sh", tmp_path / "out", "--minutes", "0.1", DEVICE="cpu", TINY="1")
    assert time.monotonic() - begun < 60
    outcomes = {entry["outcome"] for entry in json.loads((tmp_path / "out" / "check.json").read_text())["rows"]}
    assert table.NOT_RUN in outcomes
    assert table.FAILED not in outcomes


def test_refusals(tmp_path: Path) -> None:
    assert "TINY=1" in run(GPU / "check.sh", tmp_path / "out", code=2).stderr
    assert "dataset.json" in run(GPU / "check.sh", tmp_path, tmp_path / "out", code=2).stderr
    with pytest.raises(SystemExit, match="no row nonsense; there are: environment"):
        checks.chosen_rows("plan,nonsense")


def test_rows_that_are_named_bring_what_they_need() -> None:
    names = [row.name for row in checks.chosen_rows("loader, memory")]
    assert names == ["environment", "plan", "train default", "memory", "loader"]
    assert checks.chosen_rows("") == list(rows.ROWS)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    # Everything below this process is more than what the rows have started.
    monkeypatch.setattr(checks, "kill_all", lambda: None)
    return Bench(
        task=tmp_path, out=tmp_path, work=tmp_path / "work", device="cpu", sizes=TINY,
        deadline=supervise.Deadline(60),
    )  # fmt: skip


def in_shell(script: str) -> Any:
    def work(bench: Bench) -> Found:
        bench.command("sh", "-c", script)
        return Found("done")

    return work


def test_a_row_that_hangs_is_killed_with_its_children(bench: Bench, tmp_path: Path) -> None:
    script = f"for how in '' setsid; do $how sleep 600 & echo $! >> {tmp_path}/pids; done; echo hangs; wait"
    result = checks.run_row(Row("hanging", in_shell(script), 1.0, 0, needs=()), bench, {})
    assert (result.outcome, result.figures) == (table.FAILED, "killed after 1 s")
    assert (tmp_path / "hanging.log").read_text().startswith("hangs")
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    end = time.monotonic() + 10
    while any(map(runs, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(runs, pids))


def runs(pid: str) -> bool:
    """Return True if a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_end_of_the_check_is_not_the_row_s_fault(bench: Bench) -> None:
    bench.deadline = supervise.Deadline(1.5)
    result = checks.run_row(Row("slow", in_shell("sleep 600"), 60, 0, needs=()), bench, {})
    assert result.outcome == table.NOT_RUN
    assert "cut off" in result.figures
    late = checks.run_row(Row("late", in_shell("true"), 60, 0, needs=()), bench, {})
    assert (late.outcome, late.figures) == (table.NOT_RUN, "0 s are left, it takes about 1")


def test_a_failed_row_keeps_its_last_words_and_stops_those_that_need_it(bench: Bench, tmp_path: Path) -> None:
    script = "echo 'it is broken' >&2; exit 3"
    done = {"a": checks.run_row(Row("a", in_shell(script), 60, 0, needs=()), bench, {})}
    assert (done["a"].outcome, done["a"].figures) == (table.FAILED, "sh ended with exit code 3: it is broken")
    assert (tmp_path / "a.log").read_text() == "it is broken\n"
    assert checks.run_row(Row("b", in_shell("true"), 60, 0, needs=("a",)), bench, done).figures == "needs a"
    assert checks.run_row(Row("c", in_shell("true"), 60, 0, needs=()), bench, done).outcome == table.PASSED
    assert checks.run_row(Row("d", in_shell("true"), 60, 0, (), gpu=True), bench, done).figures == "needs a GPU"

    def wrong(_bench: Bench) -> Found:
        return Found("figures", ("a reason",))

    def faulty(_bench: Bench) -> Found:
        raise KeyError("nothing")

    for work, figures in ((wrong, "a reason; figures"), (faulty, "KeyError: 'nothing'")):
        result = checks.run_row(Row("e", work, 60, 0, needs=()), bench, {})
        assert (result.outcome, result.figures) == (table.FAILED, figures)


def test_forks_end_as_processes_do(tmp_path: Path) -> None:
    def exits() -> int:
        raise SystemExit("said aloud")

    def fails() -> int:
        raise ValueError("said in a traceback")

    for work, code, said in ((lambda: 0, 0, ""), (lambda: 5, 5, ""), (exits, 1, "said aloud"), (fails, 1, "traceback")):
        log = tmp_path / "log"
        child = supervise.start_fork(work, log, {"WHATEVER": "1"})
        assert child.wait(supervise.Deadline(30)) == code
        assert said in log.read_text()
    assert "WHATEVER" not in os.environ


def test_a_deadline_only_comes_nearer() -> None:
    clock = Clock()
    whole = supervise.Deadline(50, clock)
    row = whole.within(20)
    assert (whole.left(), row.left()) == (50, 20)
    clock.now += 15
    assert (whole.left(), row.left(), whole.within(90).left()) == (35, 5, 35)
    clock.now += 40
    assert (whole.left(), row.left()) == (0, 0)


def test_the_table(tmp_path: Path) -> None:
    results = [
        table.Result("first", table.PASSED, "1 | 2", 3.4, {"value": 1}),
        table.Result("second", table.NOT_RUN, ""),
    ]
    assert table.render(results) == (
        "check   result   s  figures\nfirst   pass     3  1 | 2\nsecond  not run  0"
    )  # fmt: skip
    assert table.exit_code(results) == 0
    assert table.exit_code([*results, table.Result("third", table.FAILED, "")]) == 1
    table.write(tmp_path, "Check", {"task": "a", "machine": {"gpu": "b"}}, results)
    assert "| first | pass | 3 | 1 \\| 2 |" in (tmp_path / "check.md").read_text()
    assert table.read(tmp_path, {"task": "a"}) == ({"gpu": "b"}, {entry.row: entry for entry in results})
    assert table.read(tmp_path, {"task": "another"}) == ({}, {})
    assert table.read(tmp_path / "nowhere", {}) == ({}, {})


def epoch(number: int, stage: str, seconds: float, loss: float | None, **losses: float) -> dict[str, Any]:
    return {"event": "epoch", "epoch": number, "stage": stage, "seconds": seconds, "losses": {"loss": loss, **losses}}


def test_figures_of_a_training() -> None:
    events = [
        {"event": "started", "epochs": 6},
        epoch(1, "supervised", 90.0, 1.0),
        epoch(2, "supervised", 4.0, 0.8),
        epoch(3, "supervised", 6.0, 0.5),
        {"event": "pseudo_labels", "seconds": 3.0, "cases": 6},
        epoch(4, "round 1", 50.0, 0.6, contrast=2.0),
        epoch(5, "round 1", 8.0, 0.6, contrast=1.5),
        epoch(6, "round 2", 7.0, 0.6, contrast=1.4),
    ]
    found = training_figures(events, 10)
    # Without the first epoch of a stage, unless it has no other.
    assert found["ms_per_step"] == {"supervised": 500.0, "joint": 750.0}
    assert (found["supervised_loss"], found["contrast"], found["pseudo_label_s"]) == ([1.0, 0.5], 1.4, 0.5)
    assert training_problems(found, joint=True) == []
    rising = training_figures([epoch(1, "supervised", 1.0, 0.5), epoch(2, "supervised", 1.0, None)], 10)
    assert training_problems(rising, joint=True) == ["a loss is not finite", "no joint step was made"]
    rising = training_figures([epoch(1, "supervised", 1.0, 0.5), epoch(2, "supervised", 1.0, 0.7)], 10)
    assert training_problems(rising, joint=False) == ["the supervised loss does not fall: 0.500, then 0.700"]
    assert training_problems(training_figures([], 10), joint=False) == ["a loss is not finite"]


def test_problems_of_a_run_that_was_killed() -> None:
    schedule = Schedule(2, 1, 1, 1)
    done = [epoch(1, "supervised", 1, 1), {"event": "resumed", "epoch": 1}, epoch(2, "round 1", 1, 1)]
    ended = {"event": "trained", "epochs": 2}
    assert resume_problems([*done, ended], schedule) == ([], (1, 2))
    assert resume_problems(done, schedule)[0] == ["trained [] epochs, not 2"]
    problems, epochs = resume_problems([done[2], ended], schedule)
    assert epochs == ()
    assert problems == ["not resumed once, after an epoch: []", "epochs on record are [2]"]


def test_what_limits_the_loader() -> None:
    def rates(*found: float) -> dict[str, Any]:
        entries = [
            {"workers": 2 * number, "steps_per_s": rate, "utilization": 50.0} for number, rate in enumerate(found, 1)
        ]
        return {"rates": entries, "held": {"steps_per_s": 10.0, "utilization": None}}

    assert loader_figures(rates(3.0, 9.5)) == (
        "steps a second: 2 workers 3.0 (GPU 50 %), 4 workers 9.5 (GPU 50 %), one batch held in memory 10.0; "
        "4 workers keep up"
    )
    assert loader_figures(rates(3.0)).endswith("augmentation is the limit with any of these")
