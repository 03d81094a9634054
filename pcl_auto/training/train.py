"""``pclauto train``: from a plan to a trained model."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

from pcl_auto import __version__
from pcl_auto.data.checks.probe import image_stats
from pcl_auto.nnunet.environment import available_cores, choose_device, prepare_environment
from pcl_auto.nnunet.training.settings import RunSettings, with_settings
from pcl_auto.planning.split_plans import prepare_split, record_split
from pcl_auto.recipe.load import with_current_names
from pcl_auto.training.estimate import expected, fit_budget, measured
from pcl_auto.training.models import remember_model
from pcl_auto.training.request import JOINT_TRAINER, SUPERVISED_TRAINER, Run, TrainRequest, resolve_runs
from pcl_auto.workspace.events import Listener, silent, with_tensorboard
from pcl_auto.workspace.files import file_digest, read_json, write_json
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.lock import sole_writer
from pcl_auto.workspace.processes import output_to, started_rank, started_ranks
from pcl_auto.workspace.record import (
    RECORD,
    check_manifest,
    compare_versions,
    has_manifest,
    refuse_changes,
    start_anew,
    write_manifest,
)
from pcl_auto.workspace.system import forget_peak_memory, keep_freed_memory, require

SCHEMA_VERSION = 1


def identity(run: Run, request: TrainRequest, plans: dict[str, Any]) -> dict[str, Any]:
    """What makes a run this run; a run folder goes on only with the same."""
    digest = hashlib.sha256(json.dumps(plans, sort_keys=True).encode()).hexdigest()[:16]
    return {
        "dataset": run.data.name,
        "configuration": run.configuration,
        "trainer": run.trainer,
        "split": run.split.as_dict(),
        "seed": request.seed,
        "recipe": run.recipe.as_dict(),
        "deterministic": request.deterministic,
        "fold": run.fold_name,
        "start": None if run.start is None else file_digest(run.start),
        "plan": digest,
        "input": _input_digest(run),
        **({} if run.budget_s is None else {"budget_s": run.budget_s}),
    }


def _input_digest(run: Run) -> str:
    """One value for the files that a run learns from; hidden labels are not among them."""
    cases = run.plan.cases
    labels = [cases[case].label for case in (*run.split.labeled, *run.split.validation)]
    stats = [
        *(
            (case, cases[case].size, cases[case].mtime_ns)
            for case in sorted({*run.split.labeled, *run.split.validation, *run.split.unlabeled})
        ),
        *(image_stats(label) for label in labels if label is not None),
    ]
    return hashlib.sha256(json.dumps(stats, sort_keys=True).encode()).hexdigest()[:16]


def train(request: TrainRequest, workspace: Workspace, listener: Listener) -> Run:
    """Train a run to its end, going on where an earlier try of the same run stopped.

    Raises:
        UsageError, StateError, ResourceError, NumericalError: see :func:`resolve_runs` and the trainers.
    """
    device = choose_device(request.device)
    runs = resolve_runs(request, workspace)
    run = runs[-1]
    if request.tensorboard:
        require("tensorboard", "tensorboard", "--tensorboard")
    workspace.activate()
    prepare_environment(workers=workers_of(request, device))
    from pcl_auto.nnunet.distributed import process_group, rank_zero_first

    with sole_writer(run.model) if started_rank() == 0 else nullcontext(), process_group(device):
        with rank_zero_first() as first:
            if first and request.restart and run.model.is_dir():
                start_anew(run.model)
        plans, store = _prepare(run, listener)
        if run.budget_s is not None:
            fresh = run.fitted is None
            if fresh:
                listener("timing", {})
                fit_budget(run, request, plans, run_settings(run, plans, store, request, silent), device)
                runs = resolve_runs(request, workspace)
                run = runs[-1]
            listener("budget", {"fitted": run.fitted, "fresh": fresh, "joint": run.trainer == JOINT_TRAINER})
        while waiting := _train_each(runs, plans, store, request, device, listener):
            _meet(waiting, device, listener)
    if first and request.remember and not request.prepare_only:
        remember_model(workspace, run)
    return run


def _prepare(run: Run, listener: Listener) -> tuple[dict[str, Any], str]:
    """The split's plans, and the name of its case store; what lacks is made, by one process at a time."""
    with sole_writer(run.data.pclauto_dir / "prepare", wait=True):
        listener("split", {"file": str(record_split(run.split, run.data)), "split": run.split})
        return prepare_split(
            run.plan, run.split, run.recipe, run.data, configuration=run.configuration, listener=listener
        )


def _train_each(
    runs: Sequence[Run], plans: dict[str, Any], store: str, request: TrainRequest, device: Any, listener: Listener
) -> list[tuple[Run, int]]:
    """Train every run to its end, or to a round whose pseudo-labels wait for the other folds; these, and the round."""
    waiting = []
    for run in runs:
        if run.fold is not None:
            listener("fold", {"fold": run.fold + 1, "folds": len(runs)})
        number = _train_alone(run, plans, store, request, device, listener)
        if number is not None:
            waiting.append((run, number))
    return waiting


def _meet(waiting: Sequence[tuple[Run, int]], device: Any, listener: Listener) -> None:
    """Let the folds that have come to the same round make its pseudo-labels together."""
    from pcl_auto.nnunet.training.folds import meet

    number = min(number for _, number in waiting)
    runs = [run for run, its_number in waiting if its_number == number]
    with output_to(runs[0].folder / "log.txt"):
        trainers = [_make_trainer(run, device, listener) for run in runs]
        for trainer, run in zip(trainers, runs, strict=True):
            _take_up(trainer, run, say=False)
        meet(trainers, number)


def _train_alone(
    run: Run, plans: dict[str, Any], store: str, request: TrainRequest, device: Any, listener: Listener
) -> int | None:
    """Train a run to its end; the number of a round whose pseudo-labels it waits for, if it does."""
    from pcl_auto.nnunet.distributed import rank_zero_first

    if run.start is not None:
        from pcl_auto.nnunet.training.start import refuse_other_model

        refuse_other_model(run.start, plans, run.configuration, run.plan.dataset_json)
    wanted = identity(run, request, plans)
    record_file = run.folder / RECORD
    record = {**_record(wanted, device), "steps_before": request.steps_before, "forecast": expected(run)}
    unbroken = not _has_begun(run)
    if record_file.is_file():
        before = read_json(record_file)
        recorded = before["identity"]
        refuse_changes({**recorded, "recipe": with_current_names(recorded["recipe"])}, wanted, run.folder)
        if not run.finished:
            now, strict = record["versions"], request.deterministic
            compare_versions(before["versions"], now, run.folder, deterministic=strict, listener=listener)
    with rank_zero_first() as first:
        if first:
            _write_plans(run, plans, run_settings(run, plans, store, request, listener))
    if request.prepare_only:
        return None
    if not run.finished:
        with rank_zero_first() as first:
            if first:
                write_json(record_file, record)
        heard = with_tensorboard(listener, run.folder / "tensorboard") if request.tensorboard and first else listener
        waits_for = _drive(run, device, heard, request.shared_start)
        if waits_for is not None:
            return waits_for
    with rank_zero_first() as first:
        if first and has_manifest(run.folder):
            check_manifest(run.folder)
        elif first:
            wall_s = monotonic() - request.asked_at if unbroken and run.fold is None else None
            write_json(record_file, {**read_json(record_file), "measured": measured(run.folder, device, wall_s)})
            write_manifest(run.folder)
    return None


def workers_of(request: TrainRequest, device: Any) -> int | None:
    """Processes for data augmentation: none on a CPU, where they take from the network what they save it."""
    if request.deterministic:
        return 0
    if request.workers is None and device.type == "cpu":
        return 0
    if request.workers is None and started_ranks() > 1:
        return max(1, available_cores() // started_ranks())
    return request.workers


def _mirror_axes(run: Run, plans: dict[str, Any], store: str, listener: Listener) -> tuple[int, ...] | None:
    """What the recipe's mirroring comes to for this data set; None where nnU-Net decides, as in every baseline."""
    if run.recipe.augmentation.mirroring == "all":
        return None
    from pcl_auto.nnunet.data.symmetry import mirror_axes, stored_symmetries

    # Of the cases that the run may see: a benchmark keeps some out.
    seen = {*run.split.labeled, *run.split.validation, *run.split.unlabeled}
    symmetries = stored_symmetries(run.data.store(store), [case for case in run.plan.cases if case in seen])
    if run.trainer == JOINT_TRAINER:
        names = ["zyx"[axis] for axis in plans["transpose_forward"]]
        listener("mirroring", {names[entry.axis]: entry for entry in symmetries})
    return mirror_axes(symmetries, len(plans["configurations"][run.configuration]["patch_size"]))


def run_settings(run: Run, plans: dict[str, Any], store: str, request: TrainRequest, listener: Listener) -> RunSettings:
    """What the trainer of ``run`` is told; ``store`` is the case store that its split reads."""
    mirror_axes = _mirror_axes(run, plans, store, listener)
    settings = RunSettings(run.recipe, request.seed, run.split.name, store, request.deterministic, mirror_axes)
    return settings if request.folds is None else replace(settings, folds=request.folds)


def _write_plans(run: Run, plans: dict[str, Any], settings: RunSettings) -> None:
    file = run.data.plans_file(run.plans_name)
    # Other configurations of the same split and recipe share the file, as in nnU-Net's own plans.
    earlier = read_json(file)["configurations"] if file.is_file() else {}
    whole = with_settings(plans, run.plans_name, run.configuration, settings)
    write_json(file, {**whole, "configurations": {**earlier, **whole["configurations"]}})


def _record(wanted: dict[str, Any], device: Any) -> dict[str, Any]:
    packages = ("nnunetv2", "torch", "batchgenerators", "SimpleITK", "numpy")
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": wanted,
        "command": sys.argv,
        "versions": {"pclauto": __version__, "python": platform.python_version(), **{p: version(p) for p in packages}},
        "device": str(device),
        "last_start": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _make_trainer(run: Run, device: Any, listener: Listener) -> Any:
    """The trainer of a run, built as nnU-Net would."""
    from pcl_auto.nnunet.training.joint_trainer import nnUNetTrainerPCL
    from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised

    kind = {JOINT_TRAINER: nnUNetTrainerPCL, SUPERVISED_TRAINER: nnUNetTrainerPCLSupervised}[run.trainer]
    plans = {**read_json(run.data.plans_file(run.plans_name)), "continue_training": _has_begun(run)}
    fold = "all" if run.fold is None else run.fold
    trainer = kind(plans, run.configuration, fold, read_json(run.data.path / "dataset.json"), device)
    trainer.events.listener = listener
    trainer.meets_folds = run.fold is not None
    return trainer


def _drive(run: Run, device: Any, listener: Listener, shared_start: Path | None) -> int | None:
    """Take up the last checkpoint of a run and train; the number of a round whose pseudo-labels it waits for."""
    with output_to(run.folder / "log.txt"):
        import torch

        from pcl_auto.nnunet.distributed import rank_zero_first
        from pcl_auto.nnunet.inference.confidence import write_reference
        from pcl_auto.nnunet.training.folds import WaitsForFolds

        if device.type == "cpu":
            keep_freed_memory()
            forget_peak_memory()
        trainer = _make_trainer(run, device, listener)
        trainer.shared_start = shared_start
        # As stock nnU-Net has it: patches have one size, so the fastest kernels are worth looking for.
        torch.backends.cudnn.benchmark = not trainer.settings.deterministic
        final = run.folder / "checkpoint_final.pth"
        if final.is_file():  # stopped in its validation
            trainer.load_checkpoint(str(final))
        else:
            _take_up(trainer, run)
            try:
                trainer.run_training()
            except WaitsForFolds as waits:
                return waits.round_number
        with rank_zero_first() as first:
            if first:
                write_reference(trainer)
        trainer.validate()
    return None


def _has_begun(run: Run) -> bool:
    from pcl_auto.nnunet.checkpoints import LATEST, PREVIOUS

    return (run.folder / LATEST).is_file() or (run.folder / PREVIOUS).is_file()


def _take_up(trainer: Any, run: Run, *, say: bool = True) -> None:
    """Give the trainer the state that an earlier try of the run left, or else the start that it is to have."""
    from pcl_auto.nnunet.checkpoints import LATEST
    from pcl_auto.nnunet.training.start import load_weights

    start = trainer.shared_start
    emit = trainer.events.emit if say else lambda *_event, **_values: None
    if _has_begun(run):
        trainer.load_checkpoint(str(run.folder / LATEST))
        emit("resumed", epoch=trainer.epoch)
    elif run.start is not None:
        load_weights(trainer, run.start)
        emit("started", epochs=trainer.num_epochs, from_model=str(run.start))
    elif start is not None and start.is_file():
        trainer.load_start(start)
        emit("started", epochs=trainer.num_epochs, from_shared_start=str(start))
    else:
        emit("started", epochs=trainer.num_epochs)
