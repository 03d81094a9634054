"""F81: whatever becomes of a text file that is read, the command ends with an exit code of its own, and never hangs."""

from __future__ import annotations

import json
import random
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from mutations import mutations
from refusal import refused
from report_files import write_run, write_scores
from shared import copy_of, model_of
from shell import Shell

from pcl_auto.cli import main
from pcl_auto.errors import StateError
from pcl_auto.report.page import write_report
from pcl_auto.training.request import SUPERVISED_TRAINER
from pcl_auto.workspace.folders import Workspace

EXPECTED = {0, 2, 3, 4, 5, 6, 7}
MAX_SECONDS = 120


def damaged(file: Path, seed: int, number: int) -> Iterator[str]:
    """Yield how a file is damaged, which it is meanwhile; then it is whole again."""
    content = file.read_bytes()
    forms = list(mutations(content, zlib.crc32(f"{seed} {file.name}".encode()), number))
    for how, form in random.Random(seed).sample(forms, number):
        file.write_bytes(form)
        yield how
    file.write_bytes(content)


def verdict(code: int, printed: str) -> str:
    """Return what is wrong with the end of a command; empty where nothing is."""
    if code not in EXPECTED:
        return f"exit {code}"
    return next((word for word in ("Traceback", "unexpected fault", "\x1b") if word in printed), "")


FILES = ("fold_all/run.json", "fold_all/events.jsonl", "fold_all/pseudo_labels/round_2/ledger.csv", "plans.json",
         "dataset.json", "evaluations/labelsTs_True.json")  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_f81_records_of_a_run(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    model = write_run(work / "nnUNet_results")
    write_run(work / "nnUNet_results", trainer=SUPERVISED_TRAINER)
    write_scores(model, {"c": 0.5})
    page = str(tmp_path / "report.html")
    found = []
    for how in damaged(model / name, 1, 12):
        for words in (["status"], ["status", model.name], ["report", "--model", str(model), "-o", page]):
            monkeypatch.setattr(sys, "argv", ["pclauto", *words, "--workspace", str(work)])
            with pytest.raises(SystemExit) as end:
                main.run()
            code = end.value.code or 0
            printed = "".join(capfd.readouterr())
            if wrong := verdict(int(code), printed):
                found.append((how, words[0], wrong, printed))
    assert found == []


def test_f81_a_report_without_what_it_shows(tmp_path: Path) -> None:
    work = tmp_path / "work"
    model = write_run(work / "nnUNet_results")
    plans = json.loads((model / "plans.json").read_text())
    del plans["configurations"]["3d_fullres"]["spacing"]
    (model / "plans.json").write_text(json.dumps(plans))
    with refused(StateError, "run.incomplete") as refusal:
        write_report(model, Workspace.at(work, "test"), tmp_path / "report.html")
    assert refusal.problem.where == str(model / "fold_all")
    assert not (tmp_path / "report.html").exists()


def readers(place: Path, work: Path, task: Path) -> dict[Path, list[list[str]]]:
    """Return the text files of a trained workspace, each with the commands that read it."""
    model, where = model_of(work), ["--workspace", str(work)]
    (data,) = (work / "nnUNet_preprocessed").glob("Dataset*")
    fold, on_cpu = model / "fold_all", ["--device", "cpu", *where]
    status, report = ["status", *where], ["report", *where]
    train = ["train", "--recipe", "tiny.toml", *on_cpu]
    predict = ["predict", str(task / "imagesTs"), "-o", "out", "--no-quality", "--no-mirroring", *on_cpu]
    review, suggest = ["review", "-n", "1", "-o", "to_correct", *where], ["suggest", "-n", "1", *on_cpu]
    plan = ["plan", str(task), "--gpu-memory-gb", "1", "--dry-run", *where]
    benchmark = ["benchmark", "--labeled", "1", "--draws", "1", "--test-cases", "1", "--dry-run", *where]
    return {
        fold / "run.json": [status, report, train, review, suggest],
        fold / "events.jsonl": [status, report],
        fold / "quality.json": [report, review],
        fold / "pseudo_labels/round_2/ledger.csv": [report, review, suggest, train],
        fold / "validation/summary.json": [report],
        model / "plans.json": [status, report, predict, review],
        model / "dataset.json": [status, report, predict, suggest],
        data / "pclauto/plan.json": [train, plan, [*plan, "--force"], benchmark, ["env", *where], review],
        data / "pclauto/checks.json": [plan],
        data / "dataset.json": [train, plan],
        next(data.glob("splits/*.json")): [train],
        next(data.glob("nnUNetPlans_*.json")): [train],
        work / "nnUNet_preprocessed/pclauto.json": [status, report, plan, train],
        place / "tiny.toml": [train],
        task / "dataset.json": [["check", str(task)], ["plan", str(task), "--dry-run", "-w", "other"]],
    }


@pytest.mark.soak
def test_f81_every_text_file_of_a_workspace(shell: Shell, own_trained: Path, own_copy: Path) -> None:
    found, place = [], shell.folder
    for file, commands in readers(place, own_trained, own_copy).items():
        kept = copy_of(own_trained, place / "kept")
        for how in damaged(file, 2, 20):
            for words in commands:
                done = shell.python("-m", "pcl_auto", *words, pictures=False, spawns=False)
                may_be_1 = words[0] in ("check", "predict") and "unexpected fault" not in done.stderr
                code = 0 if may_be_1 and done.returncode == 1 else done.returncode
                if wrong := verdict(code, done.stdout + done.stderr):
                    found.append((file.name, how, words[0], wrong, done.stderr[-500:]))
            shutil.rmtree(place / "out", ignore_errors=True)
        shutil.rmtree(own_trained)
        kept.rename(own_trained)
    assert found == []
