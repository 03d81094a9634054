"""Train with every recipe, kill a training, and train twice with one seed."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import Bench, ChildFailedError, Found, Schedule
from supervise import TimedOutError, orphans_after

JOINT, BASELINE = "nnUNetTrainerPCL", "nnUNetTrainerPCLSupervised"
SECONDS_FOR_WORKERS_TO_GO = 15.0
# For seconds on a CPU: the phantom's patches are small, and this makes a network learn at once.
_TINY_RECIPE = """
[optimizer]
name = "adamw"
learning_rate = 2e-3
weight_decay = 1e-2
[batch]
patches = 2
[network]
width = 0.25
"""


def recipe_text(base: str, schedule: Schedule, *, tiny: bool) -> str:
    """Write the recipe ``base`` in the length of a check; its rounds are joint even where pseudo-labels are poor."""
    return (
        f'extends = "{base}"\n'
        "[schedule]\n"
        f"steps_per_epoch = {schedule.steps}\n"
        f"supervised_epochs = {schedule.supervised}\n"
        f"rounds = {schedule.rounds}\n"
        f"epochs_per_round = {schedule.per_round}\n"
        "[collapse_guard]\n"
        "volume_margin = 0.0\n"
    ) + (_TINY_RECIPE if tiny else "")


def _recipe(bench: Bench, name: str) -> Path:
    file = bench.work / f"{name}.toml"
    base = "paper" if name == "check_paper" else "default"
    file.write_text(recipe_text(base, bench.sizes.schedules[name], tiny=bench.sizes.tiny), encoding="utf-8")
    return file


def _train(bench: Bench, name: str, *options: str, compiled: bool = False) -> float:
    """Train with the recipe ``name`` on two labels; return the seconds of the command."""
    return bench.pclauto(*_training(bench, name, *options), compiled=compiled)


def _training(bench: Bench, name: str, *options: str) -> list[object]:
    return ["train", "--labeled", "2", "--recipe", _recipe(bench, name), "--device", bench.device, *options]


def run_folder(bench: Bench, name: str, trainer: str = JOINT) -> Path:
    """Return the folder of the one run with the recipe ``name``."""
    (found,) = (bench.workspace / "nnUNet_results").glob(f"*/{trainer}__*_{name}__*/fold_all")
    return found


def read_events(file: Path) -> list[dict[str, Any]]:
    """Read the events of a run without half a line at the end."""
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line]


def training_figures(events: Iterable[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """Sum up a training of epochs of ``steps``: milliseconds of its kinds of steps, losses, pseudo-labels.

    Milliseconds are medians over the epochs of a kind without the first one of each stage, which chooses kernels; they
    hold a step's share of the epoch's glance at validation patches.
    """
    kinds: dict[str, dict[str, list[float]]] = {"supervised": {}, "joint": {}}
    losses: list[float | None] = []
    supervised: list[float] = []
    contrast: list[float | None] = []
    seconds = cases = 0.0
    for event in events:
        if event["event"] == "pseudo_labels":
            seconds, cases = seconds + event["seconds"], cases + event["cases"]
        if event["event"] != "epoch":
            continue
        losses += event["losses"].values()
        joint = "contrast" in event["losses"]
        kinds["joint" if joint else "supervised"].setdefault(event["stage"], []).append(event["seconds"])
        contrast += [event["losses"]["contrast"]] if joint else []
        if event["stage"] == "supervised" and event["losses"]["loss"] is not None:
            supervised.append(event["losses"]["loss"])
    ms = {
        kind: 1000 * statistics.median(warm) / steps
        for kind, stages in kinds.items()
        if (warm := [value for stage in stages.values() for value in (stage[1:] or stage)])
    }
    return {
        "ms_per_step": ms,
        "finite": bool(losses) and all(loss is not None and math.isfinite(loss) for loss in losses),
        "supervised_loss": [supervised[0], supervised[-1]] if supervised else [],
        "supervised_epochs": len(supervised),
        "falling": len(supervised) < 2 or supervised[-1] < supervised[0],
        "contrast": contrast[-1] if contrast else None,
        "pseudo_label_s": seconds / cases if cases else None,
    }


def training_problems(figures: Mapping[str, Any], *, joint: bool) -> list[str]:
    """List what speaks against a training."""
    problems = []
    if not figures["finite"]:
        problems.append("a loss is not finite")
    if not figures["falling"]:
        first, last = figures["supervised_loss"]
        problems.append(f"the supervised loss does not fall: {first:.3f}, then {last:.3f}")
    if joint and "joint" not in figures["ms_per_step"]:
        problems.append("no joint step was made")
    return problems


def _training_found(bench: Bench, name: str, seconds: float, trainer: str = JOINT, *, compiled: bool = False) -> Found:
    run = run_folder(bench, name, trainer)
    joint = trainer == JOINT
    found = training_figures(read_events(run / "events.jsonl"), bench.sizes.schedules[name].steps)
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    measured = record["measured"]
    problems = training_problems(found, joint=joint)
    if compiled and not any("Using torch.compile" in log.read_text() for log in run.glob("training_log_*.txt")):
        problems.append("the network was not compiled")
    parts = [f"{kind} {ms:.1f} ms a step" for kind, ms in found["ms_per_step"].items()]
    if found["supervised_epochs"] > 1:
        parts.append("loss {:.3f} → {:.3f}".format(*found["supervised_loss"]))
    if found["contrast"] is not None:
        parts.append(f"contrast {found['contrast']:.3f}")
    if measured["gpu_memory_mb"] is not None:
        parts.append(f"{measured['gpu_memory_mb']} MB of the GPU")
    parts.append(f"{measured['memory_mb']} MB of the process")
    details = {**found, "measured": measured, "forecast": record["forecast"], "command_s": seconds}
    return Found(", ".join(parts), tuple(problems), details)


def train_default(bench: Bench) -> Found:
    """Train with the default recipe, not compiled."""
    return _training_found(bench, "check_default", _train(bench, "check_default"))


def train_supervised(bench: Bench) -> Found:
    """Train the baseline, not compiled."""
    seconds = _train(bench, "check_default", "--supervised-only")
    return _training_found(bench, "check_default", seconds, BASELINE)


def train_paper(bench: Bench) -> Found:
    """Train with the published recipe: a second view of every patch, which is made again for its gradients."""
    return _training_found(bench, "check_paper", _train(bench, "check_paper"))


def train_default_compiled(bench: Bench) -> Found:
    """Train with the default recipe and torch.compile, as nnU-Net does on a GPU unless told otherwise."""
    seconds = _train(bench, "check_compiled", compiled=True)
    return _training_found(bench, "check_compiled", seconds, compiled=True)


def train_supervised_compiled(bench: Bench) -> Found:
    """Train the baseline with torch.compile."""
    seconds = _train(bench, "check_compiled", "--supervised-only", compiled=True)
    return _training_found(bench, "check_compiled", seconds, BASELINE, compiled=True)


def resume(bench: Bench) -> Found:
    """Kill a training after its first checkpoint, repeat the command, and look at what stays behind."""
    name = "check_resume"
    options = ["--restart", *(["--workers", "1"] if bench.device == "cpu" else [])]
    spec = {"pclauto": bench.arguments(*_training(bench, name, *options))}
    begun = time.time()
    child = bench.start(spec)
    pattern = f"nnUNet_results/*/{JOINT}__*_{name}__*/fold_all/checkpoint_latest.pth"
    # One from before is that of an earlier check, which --restart is about to remove.
    while not (checkpoints := [file for file in bench.workspace.glob(pattern) if _written(file) >= begun]):
        if (code := child.poll()) is not None:
            raise ChildFailedError(f"the training ended with exit code {code} before its first checkpoint")
        if not bench.deadline.left():
            child.kill()
            raise TimedOutError
        time.sleep(0.02)
    # The training alone: what becomes of its workers is part of the question.
    os.kill(child.pid, signal.SIGKILL)
    while child.poll() is None:
        time.sleep(0.02)
    run = checkpoints[0].parent
    left = orphans_after(min(SECONDS_FOR_WORKERS_TO_GO, bench.deadline.left()))
    bench.pclauto(*_training(bench, name, *options[1:]))
    problems, epochs = resume_problems(read_events(run / "events.jsonl"), bench.sizes.schedules[name])
    if left:
        problems.append(f"{left} processes of the killed training went on without it")
    stale = [
        str(path.relative_to(bench.workspace))
        for pattern in ("checkpoint_latest.pth", "checkpoint_previous.pth", ".tmp")
        for path in bench.workspace.rglob(pattern)
    ]
    if stale:
        problems.append(f"left behind: {', '.join(stale[:3])}")
    figures = f"killed after epoch {epochs[0]}, gone on to epoch {epochs[1]}" if epochs else ""
    return Found(figures, tuple(problems), {"orphans": left, "stale": stale, "epochs": epochs})


def _written(file: Path) -> float:
    """Return when a file was last written, in seconds since the epoch; 0 if it is gone."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def resume_problems(
    events: Sequence[Mapping[str, Any]], schedule: Schedule
) -> tuple[list[str], tuple[int, int] | tuple[()]]:
    """List what speaks against a run that was killed and repeated, and the epochs that it went on from and came to."""
    problems = []
    resumed = [event["epoch"] for event in events if event["event"] == "resumed"]
    ends = [event["epochs"] for event in events if event["event"] == "trained"]
    epochs = [event["epoch"] for event in events if event["event"] == "epoch"]
    whole = schedule.supervised + schedule.rounds * schedule.per_round
    if len(resumed) != 1 or resumed[0] < 1:
        problems.append(f"not resumed once, after an epoch: {resumed}")
    if ends != [whole]:
        problems.append(f"trained {ends} epochs, not {whole}")
    if sorted(set(epochs)) != list(range(1, whole + 1)):
        problems.append(f"epochs on record are {sorted(set(epochs))}")
    return problems, (resumed[0], whole) if resumed else ()


def deterministic(bench: Bench) -> Found:
    """Train twice with one seed and compare the weights."""
    name = "check_deterministic"
    _train(bench, name, "--deterministic", "--seed", "0")
    final = run_folder(bench, f"{name}_deterministic") / "checkpoint_final.pth"
    first = bench.work / "first.pth"
    shutil.copyfile(final, first)
    _train(bench, name, "--deterministic", "--seed", "0", "--restart")
    found = bench.measure("compare_weights", {"files": [str(first), str(final)]})
    first.unlink()
    problems = []
    if found["differing"]:
        problems.append(f"{found['differing']} of {found['tensors']} tensors differ, by up to {found['largest']:.2g}")
    return Found(f"{found['tensors']} tensors compared", tuple(problems), found)
