"""Run the whole product on this machine's device and print one table: what works, how fast, with how much memory.

    benchmarks/gpu/check.sh TASK_FOLDER OUT_FOLDER
    DEVICE=cpu TINY=1 benchmarks/gpu/check.sh OUT_FOLDER        (on a phantom that it makes, in minutes on one core)

See benchmarks/README.md for the rows. OUT_FOLDER gets check.json and check.md after every row, and for a row that
failed the end of what its processes said. The exit code is 1 if a row failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import FULL, TINY, Bench, ChildFailedError, Found, NotRunError, Row, file_name
from rows import ROWS
from supervise import Deadline, TimedOutError, adopt_orphans, interrupt, kill_all, print_line, work_folder
from table import FAILED, NOT_RUN, PASSED, Result, exit_code, read, render, write

CHECKOUT = Path(__file__).resolve().parents[2]
# Kept back from the end, to kill what runs and to write the table.
RESERVE_S = 5.0
LOG_TAIL_BYTES = 20_000


def run_row(row: Row, bench: Bench, done: dict[str, Result]) -> Result:
    """Do one row within its limit; whatever goes wrong in it is its result."""
    whole, begun = bench.deadline, time.monotonic()
    bench.row = row.name
    if row.gpu and bench.device != "cuda":
        return Result(row.name, NOT_RUN, "needs a GPU")
    missing = [name for name in row.needs if name not in done or done[name].outcome != PASSED]
    if missing:
        return Result(row.name, NOT_RUN, f"needs {' and '.join(missing)}")
    # In the tiny form nobody knows how long a row takes.
    least_s = 1.0 if bench.sizes.tiny else row.least_s
    if whole.left() < least_s:
        return Result(row.name, NOT_RUN, f"{whole.left():.0f} s are left, it takes about {least_s:.0f}")
    bench.deadline = whole.within(row.limit_s)
    (bench.out / f"{file_name(row.name)}.log").unlink(missing_ok=True)
    found, outcome = Found(""), PASSED
    try:
        found = row.work(bench)
        if found.problems:
            outcome = FAILED
    except NotRunError as reason:
        found, outcome = Found(str(reason)), NOT_RUN
    except TimedOutError:
        if whole.left():
            found, outcome = Found(f"killed after {row.limit_s:.0f} s"), FAILED
        else:
            found, outcome = Found("cut off at the end of the check's time"), NOT_RUN
    except Exception as error:  # noqa: BLE001 (a row never stops the others)
        name = "" if isinstance(error, ChildFailedError) else f"{type(error).__name__}: "
        found, outcome = Found(f"{name}{error}"), FAILED
    finally:
        bench.deadline = whole
        kill_all()
    seconds = time.monotonic() - begun
    if outcome != PASSED:
        _keep_log(bench)
    figures = "; ".join(part for part in [*found.problems, found.figures] if part)
    return Result(row.name, outcome, figures, seconds, found.details)


def _keep_log(bench: Bench) -> None:
    if bench.log.is_file() and bench.log.stat().st_size:
        kept = bench.log.read_bytes()[-LOG_TAIL_BYTES:]
        # nnU-Net's own words go to the log of the run, not to the terminal.
        runs = sorted(
            bench.workspace.glob("nnUNet_results/*/*/fold_all/log.txt"), key=lambda file: file.stat().st_mtime
        )
        if runs:
            kept += f"\n--- end of {runs[-1]}\n".encode() + runs[-1].read_bytes()[-LOG_TAIL_BYTES // 4 :]
        (bench.out / f"{file_name(bench.row)}.log").write_bytes(kept)


def chosen_rows(names: str) -> list[Row]:
    """Choose the rows to do: all of them, or those named and what they need, in the table's order.

    Raises:
        SystemExit: a name is none.
    """
    known = {row.name: row for row in ROWS}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if wrong := [name for name in wanted if name not in known]:
        raise SystemExit(f"no row {' or '.join(wrong)}; there are: {', '.join(known)}")
    if not wanted:
        return list(ROWS)
    needed = set(wanted)
    while more := {name for row in needed for name in known[row].needs} - needed:
        needed |= more
    return [row for row in ROWS if row.name in needed]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line and the variables DEVICE and TINY."""
    parser = argparse.ArgumentParser(
        prog="check.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", nargs="?", type=Path, help="a decathlon folder; none is needed with TINY=1")
    parser.add_argument("out", type=Path, help="folder for check.json, check.md and logs of rows that failed")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything; default: 9")
    parser.add_argument("--rows", default="", help="only these, separated by commas, and what they need")
    parser.add_argument("--work", type=Path, help="folder for the workspace, which stays; default: one that goes again")
    given = parser.parse_args(arguments)
    given.tiny = os.environ.get("TINY", "") not in ("", "0")
    given.device = os.environ.get("DEVICE", "") or "cuda"
    if given.task is None and not given.tiny:
        parser.error("name a task folder, or set TINY=1")
    if given.task is not None and not (given.task / "dataset.json").is_file():
        parser.error(f"{given.task} is no decathlon folder: it has no dataset.json")
    return given


def check(given: argparse.Namespace, work: Path, deadline: Deadline) -> list[Result]:
    """Do the rows one after the other, writing the table after each."""
    rows, sizes = chosen_rows(given.rows), TINY if given.tiny else FULL
    task = given.task
    if task is None:
        from pcl_auto.data.phantom import make_phantom

        task = make_phantom(work, labeled=2, unlabeled=sizes.phantom_unlabeled, test=2)
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    bench = Bench(task=task.resolve(), out=out, work=work, device=given.device, sizes=sizes, deadline=deadline)
    done: dict[str, Result] = {}
    facts = {"task": task.name, "tiny": given.tiny, "device": given.device}
    earlier_machine, earlier = read(out, facts)

    def results() -> list[Result]:
        """Return the rows of this check, and the others that an earlier one on the same machine has left."""
        kept = earlier if bench.machine in ({}, earlier_machine) else {}
        waiting = {row.name: Result(row.name, NOT_RUN, "not yet") for row in rows}
        every = {**kept, **waiting, **done}
        return [every[row.name] for row in ROWS if row.name in every]

    def put(result: Result) -> None:
        done[result.row] = result
        write(out, "Check", {**facts, "minutes": given.minutes, "machine": bench.machine}, results())

    interrupted = False
    for row in rows:
        if interrupted:
            put(Result(row.name, NOT_RUN, "interrupted"))
            continue
        print_line(f"{row.name} … ({deadline.left():.0f} s left)")
        try:
            put(run_row(row, bench, done))
            if row.name == "environment" and done[row.name].outcome == PASSED:
                bench.warm_up()
        except KeyboardInterrupt:
            interrupted = True
            kill_all()
            put(Result(row.name, NOT_RUN, "interrupted"))
        print_line(f"  {done[row.name].outcome}  {done[row.name].figures}")
    return results()


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the check; the exit code is 1 if a row failed."""
    given = parse(sys.argv[1:] if arguments is None else arguments)
    deadline = Deadline(max(0.0, 60 * given.minutes - RESERVE_S))
    signal.signal(signal.SIGTERM, interrupt)
    adopt_orphans()
    # This checkout, installed or not, here and in every process.
    sys.path.insert(0, str(CHECKOUT))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Looking for a GPU through its driver's library leaves a process fit for forks.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    for name in [name for name in os.environ if name.startswith("nnUNet_")]:
        del os.environ[name]
    with work_folder(given.work, "pclauto-check-") as work:
        # Compiled kernels go with the rest.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(work / "inductor"))
        os.environ.setdefault("TRITON_CACHE_DIR", str(work / "triton"))
        results = check(given, work, deadline)
        # Before the work folder goes, which may take a while.
        print(render(results), flush=True)
    return exit_code(results)


if __name__ == "__main__":
    sys.exit(main())
