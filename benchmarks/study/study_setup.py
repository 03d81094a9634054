"""Set up a study: a frozen copy of the code, checked and planned data sets, and the names of machine and device."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from study_list import StudyList
from study_rows import RowFiles
from supervise import last_words, print_line

from pcl_auto.errors import DataError, Problem, StateError
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.lock import sole_writer

CHECKOUT = Path(__file__).resolve().parents[2]
# Of every run: one thread, and no compilation, which takes a minute of each.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
VARIABLES = {**dict.fromkeys(THREADS, "1"), "nnUNet_compile": "f"}
# Of a CUDA device's memory for each run, and cores: one trains, one augments.
GPU_GB_PER_RUN, CORES_PER_RUN = 4.0, 2
# What a run is made of; the rows are not.
FROZEN = ("pcl_auto", "plans", "benchmarks", ":!benchmarks/results")


@dataclass(frozen=True)
class Place:
    """Folders and device of a study, and the names that its rows have for them."""

    listed: StudyList
    rows: RowFiles
    data: Path
    work: Path
    commit: str
    device: str
    machine: str
    device_name: str

    def workspace(self, name: str, digest: str) -> Workspace:
        """Return the workspace of a data set as it is, planned as the list says, for the code at hand.

        Plans and models of other files, other memory or other code are not gone on with.
        """
        dataset = self.listed.datasets[name]
        facts = [code_digest(CHECKOUT), digest, str(self.data / dataset.task), f"{dataset.gpu_memory_gb:g}"]
        key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:10]
        return Workspace.at(self.work / f"workspace-{name}-{key}", "--work")


# --- the frozen copy ------------------------------------------------------------------------------------------


def freeze(work: Path) -> tuple[Path, str]:
    """Copy the last commit into the work folder, once; return the copy and the commit.

    Raises:
        StateError: this is no git checkout.
    """
    git = ["git", "-C", str(CHECKOUT)]
    commit = _ask_git("rev-parse", "--short=10", "HEAD")
    if changed := _ask_git("status", "--porcelain", "--", *FROZEN):
        print_line(f"not committed, so not in these runs: {', '.join(line[3:] for line in changed.splitlines())}")
    copy = work / "code" / commit
    with sole_writer(copy, wait=True):
        if not copy.is_dir():
            staged = copy.with_name(f".{commit}")
            shutil.rmtree(staged, ignore_errors=True)
            with (
                subprocess.Popen([*git, "archive", commit], stdout=subprocess.PIPE) as archive,
                tarfile.open(fileobj=archive.stdout, mode="r|") as tar,
            ):
                tar.extractall(staged, filter="data")
            staged.rename(copy)
    return copy, commit


def in_copy(file: Path, copy: Path) -> Path:
    """Return the committed ``file`` of the checkout as the frozen ``copy`` has it, any other as it is."""
    file = file.resolve()
    frozen = copy / file.relative_to(CHECKOUT) if file.is_relative_to(CHECKOUT) else file
    return frozen if frozen.is_file() else file


def _ask_git(*words: str) -> str:
    try:
        command = ["git", "-C", str(CHECKOUT), *words]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        said, reason = found.stdout.rstrip(), found.stderr.strip() if found.returncode else ""
    except OSError as error:
        said, reason = "", str(error)
    if reason:
        fix = "say which commit this is: --commit"
        raise StateError(Problem("study.no-commit", "no git checkout", str(CHECKOUT), fix, found=reason))
    return said


def code_digest(folder: Path) -> str:
    """Return a checksum of the code that trains: a change of it begins anew what was cut off."""
    content = hashlib.sha256()
    for file in sorted((folder / "pcl_auto").rglob("*.py")):
        content.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return content.hexdigest()[:10]


# --- data sets ------------------------------------------------------------------------------------------------


def data_digest(task: Path) -> str:
    """Return a checksum of all files of a task, wherever it lies and whenever it was written."""
    content = hashlib.sha256()
    names = [task / "dataset.json"]
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        names += sorted(file for file in (task / folder).glob("*") if file.is_file() and not file.name.startswith("."))
    for file in names:
        content.update(file.relative_to(task).as_posix().encode() + b"\0")
        content.update(hashlib.sha256(file.read_bytes()).digest())
    return content.hexdigest()[:10]


def plan(place: Place, name: str, digest: str) -> None:
    """Check and plan a data set in the workspace, once for its files as they are.

    Raises:
        DataError: a test scan that is a training scan, or what `pclauto plan` refuses.
    """
    dataset, folder = place.listed.datasets[name], place.workspace(name, digest).results.parent
    done = place.work / "planned" / folder.name
    with sole_writer(done, wait=True):
        if done.is_file():
            return
        task = place.data / dataset.task
        _refuse_twins(task)
        log = place.work / "logs" / f"plan-{name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pcl_auto", "plan", str(task), "--json"]
        options = ["--workspace", str(folder), "--gpu-memory-gb", f"{dataset.gpu_memory_gb:g}"]
        print_line(f"planning {dataset.task}")
        with log.open("wb") as output:
            ended = subprocess.run(
                [*command, *options], stdout=subprocess.PIPE, stderr=output, env=run_environment(), check=False
            )
        if ended.returncode:
            with suppress(ValueError, KeyError, TypeError):
                raise DataError([Problem(**problem) for problem in json.loads(ended.stdout)["problems"]])
            what, fix = f"{dataset.task} cannot be planned", f"look into {log}"
            found = f"exit code {ended.returncode}: {last_words(log)}"
            raise DataError(Problem("study.not-planned", what, str(task), fix, found=found))
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()


def _refuse_twins(task: Path) -> None:
    """Refuse scans that are there twice: one of them may be scored on, and the other one learned from."""
    from pcl_auto.data.checks.check_dataset import diagnose

    found = diagnose(task, threads=1)
    if twins := [problem for problem in (*found.wrong, *found.warnings) if "twin" in problem.code]:
        raise DataError(twins)


def run_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    path = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, **VARIABLES, "PYTHONPATH": path}


# --- the machine ----------------------------------------------------------------------------------------------------


def machine_name() -> str:
    """Name the processor, what it can do that matters here, and its cores; never the host."""
    model, flags = platform.processor() or platform.machine(), ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        model, flags = known.get("model name", model), known.get("flags", "")
    fast = [name for name, flag in (("AMX", "amx_bf16"), ("AVX-512", "avx512f"), ("AVX2", "avx2")) if flag in flags]
    return f"{' '.join(model.split())}; {fast[0] if fast else 'no AVX2'}; {len(os.sched_getaffinity(0))} cores"


def choose_parallel(device: str) -> tuple[int, str]:
    """Choose how many runs go at once, and name the device."""
    if device != "cuda":
        return 1, "cpu"
    import torch

    free, _ = torch.cuda.mem_get_info()
    by_memory, by_cores = int(free / 2**30 / GPU_GB_PER_RUN), len(os.sched_getaffinity(0)) // CORES_PER_RUN
    return max(1, min(by_memory, by_cores)), torch.cuda.get_device_name()
