"""Train runs to their end: prepare the split, fit the time budget, drive nnU-Net's trainer, put all of it on record."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from pcl_auto import __version__
from pcl_auto.nnunet.environment import available_cores, choose_device, prepare_environment
from pcl_auto.nnunet.training.run_settings import patch_axes, with_settings
from pcl_auto.planning.ground_truth import require_ground_truth
from pcl_auto.planning.plan import require_current, require_whole
from pcl_auto.planning.split_plans import PreparedSplit, prepare_masks, prepare_split, record_split
from pcl_auto.recipe.time_budget import overrun
from pcl_auto.training.estimate import expected, fit_budget, measured
from pcl_auto.training.find_model import remember_model
from pcl_auto.training.pretrained_start import match_record, read_and_match
from pcl_auto.training.request import Run, TrainRequest, resolve_runs
from pcl_auto.training.run_identity import compared, identity, input_content
from pcl_auto.training.run_inputs import used_cases
from pcl_auto.training.trained_before import trained_before
from pcl_auto.workspace.atomic import atomic_path
from pcl_auto.workspace.events import Listener, with_tensorboard
from pcl_auto.workspace.files import read_json, write_json
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.lock import sole_writer
from pcl_auto.workspace.processes import output_to, started_rank, started_ranks
from pcl_auto.workspace.resources import forget_peak_memory, keep_freed_memory, require
from pcl_auto.workspace.run_record import (
    FINAL,
    RECORD,
    check_manifest,
    compare_versions,
    has_manifest,
    read_record,
    refuse_changes,
    start_anew,
    write_manifest,
)

if TYPE_CHECKING:
    from pcl_auto.method.mirroring import MeasuredAxis
    from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised

SCHEMA_VERSION = 1


def train(request: TrainRequest, workspace: Workspace, listener: Listener) -> Run:
    """Resolve ``request`` and train its runs; see :func:`train_runs`."""
    return train_runs(resolve_runs(request, workspace), request, workspace, listener)


def train_runs(runs: Sequence[Run], request: TrainRequest, workspace: Workspace, listener: Listener) -> Run:
    """Train resolved runs to their end, one after the other, each from where an earlier try of it stopped.

    Args:
        runs: from :func:`pcl_auto.training.request.resolve_runs`, one or a fold each.
        request: that they were resolved from; says how they are trained (device, workers, …).
        workspace: of the data set.
        listener: hears of everything that happens.

    Returns:
        the last of the runs, as it was trained.

    Raises:
        UsageError, StateError, ResourceError, NumericalError: see :func:`resolve_runs` and the trainers.
    """
    model = runs[-1].model
    if request.tensorboard:
        require("tensorboard", "tensorboard", "--tensorboard")
    workspace.activate()
    if not (request.restart or request.prepare_only) and started_ranks() == 1 and all(run.finished for run in runs):
        with sole_writer(model):
            trained = trained_before(runs)
        if trained is not None:
            if request.remember:
                remember_model(workspace, trained[-1])
            return trained[-1]
    device = choose_device(request.device)
    prepare_environment(workers=workers_of(request, device))
    from pcl_auto.nnunet.distributed import process_group, rank_zero_first

    last = runs[-1]
    matched: dict[str, Any] = {}
    if last.pretrained is not None:  # known before anything is prepared
        matched = match_record(last.pretrained, last.plan, last.configuration, last.recipe)
        listener("pretrained", {"matched": matched})

    with sole_writer(model) if started_rank() == 0 else nullcontext(), process_group(device):
        with rank_zero_first() as first:
            if first and request.restart and model.is_dir():
                start_anew(model)
        run, plans = prepare(runs[0], listener)
        runs = [replace(each, settings=run.settings, labels=run.labels) for each in runs]
        runs = _fit_budget(runs, request, plans, device, listener)
        unbroken = not any((run.folder / RECORD).is_file() for run in runs)
        epochs_s: list[float] = []
        for run in runs:
            if run.fold is not None:
                listener("fold", {"fold": run.fold + 1, "folds": len(runs)})
            _train_run(run, plans, request, device, _noting_epochs(listener, epochs_s), matched)
        # Of what earlier commands took nothing is known.
        if unbroken:
            _tell_overrun(runs[-1], monotonic() - request.asked_at, epochs_s, listener)
    if first and request.remember and not request.prepare_only:
        remember_model(workspace, runs[-1])
    return runs[-1]


def prepare(run: Run, listener: Listener) -> tuple[Run, dict[str, Any]]:
    """Put the split of a run on record and make what lacks of its data; return the run with all settings, and plans.

    Raises:
        StateError: the data set was planned anew since the run was resolved, or its plan is damaged.
    """
    require_whole(run.plan, run.data)
    with sole_writer(run.data.pclauto_dir / "prepare", wait=True):
        require_current(run.plan, run.data)
        listener("split", {"file": str(record_split(run.split, run.data)), "split": run.split})
        prepared = prepare_split(
            run.plan, run.split, run.recipe, run.data, configuration=run.configuration, listener=listener
        )
        initial = _prepare_masks(run, prepared)
    axes = _mirror_axes(run, prepared.plans, prepared.store, listener)
    settings = replace(run.settings, store=prepared.store, mirror_axes=axes, initial_masks=initial)
    return replace(run, settings=settings, labels=prepared.labels), prepared.plans


def _prepare_masks(run: Run, prepared: PreparedSplit) -> str:
    """Store the masks that the run begins with; return where, in the folder of the data set, or nothing without any."""
    if not run.initial.files:
        return ""
    view = run.data.initial_view(run.split.name, run.configuration, run.initial.digest)
    run.initial.require_unchanged()
    prepare_masks(run.plan, prepared, run.initial.files, view, run.data, run.configuration)
    return str(view.relative_to(run.data.path))


def _mirror_axes(run: Run, plans: dict[str, Any], store: str, listener: Listener) -> tuple[int, ...] | None:
    """Choose the axes to mirror along, by what is stored where the recipe says so; None leaves it to nnU-Net."""
    rule = run.recipe.augmentation.mirroring
    found = [] if rule in ("all", "none") else _measure_axes(run, store)
    names = patch_axes(plans, run.configuration)
    axes = dict(zip(names, found[-len(names) :], strict=False))  # nothing may have been measured
    # A baseline mirrors as stock nnU-Net, whatever its recipe says.
    listener("mirroring", {"rule": rule if run.settings.recipe_mirroring else "all", "axes": axes})
    if rule == "none":
        return ()
    from pcl_auto.nnunet.data.mirror_axes import mirror_axes

    return mirror_axes(found, len(names))


def _measure_axes(run: Run, store: str) -> list[MeasuredAxis]:
    """Measure the symmetry of the scans that the run may see, or the order of the classes in its labeled cases."""
    from pcl_auto.nnunet.data.mirror_axes import stored_orders, stored_symmetries

    if run.recipe.augmentation.mirroring == "unordered":
        view = run.data.labeled_view(run.split.name, run.configuration)
        return stored_orders(view, run.split.labeled, run.plan.dataset_json["labels"])
    # A benchmark keeps some cases out.
    seen = {*run.split.labeled, *run.split.validation, *run.split.unlabeled}
    return stored_symmetries(run.data.store(store), [case for case in run.plan.cases if case in seen])


def _fit_budget(
    runs: list[Run], request: TrainRequest, plans: dict[str, Any], device: Any, listener: Listener
) -> list[Run]:
    """Give the runs the schedule that fits their time budget, if they have one; it is measured once."""
    run = runs[-1]
    if run.budget_s is None:
        return runs
    fitted = run.fitted
    if fitted is None:
        listener("timing", {})
        fitted = fit_budget(run, request, plans, device)
    listener("budget", {"fitted": fitted, "fresh": run.fitted is None, "joint": run.joint})
    return [each.with_fit(fitted) for each in runs]


def _noting_epochs(listener: Listener, epochs_s: list[float]) -> Listener:
    """Return a listener that also notes what the steps of each epoch take."""

    def hear(event: str, values: dict[str, Any]) -> None:
        listener(event, values)
        if event == "epoch":
            epochs_s.append(values["seconds"])

    return hear


def _tell_overrun(run: Run, wall_s: float, epochs_s: Sequence[float], listener: Listener) -> None:
    """Tell of a training that took well longer than its time budget.

    Its schedule stays as it was fitted, however slow the machine becomes: the run could not be repeated or resumed
    else, and its baseline would have other steps.
    """
    if run.budget_s is None or run.fitted is None:
        return
    found = overrun(run.fitted, joint=run.joint, budget_s=run.budget_s, wall_s=wall_s, epochs_s=epochs_s)
    if found is not None:
        listener("overrun", {"overrun": found})


def workers_of(request: TrainRequest, device: Any) -> int | None:
    """Choose how many processes augment data: none on a CPU, where they take from the network what they save it."""
    if request.deterministic:
        return 0
    if request.workers is None and device.type == "cpu":
        return 0
    if request.workers is None and started_ranks() > 1:
        return max(1, available_cores() // started_ranks())
    return request.workers


# --- one run --------------------------------------------------------------------------------------------------


def _train_run(
    run: Run, plans: dict[str, Any], request: TrainRequest, device: Any, listener: Listener, matched: dict[str, Any]
) -> None:
    """Train a run, or resume it, and put it on record; or only write its plans, if that is all that is asked for."""
    from pcl_auto.nnunet.distributed import rank_zero_first

    if run.start is not None:
        from pcl_auto.nnunet.pretrained.strict_start import refuse_other_model

        refuse_other_model(run.start, plans, run.configuration, run.plan.dataset_json)
    record_file = run.folder / RECORD
    record = {**_record(run, plans, device), "steps_before": request.steps_before, "forecast": expected(run)}
    if matched:
        record["pretrained"] = matched
    unbroken = not record_file.is_file()
    if record_file.is_file():
        record["threads"] = _refuse_another(read_record(run.folder), record, run, listener)
    with rank_zero_first() as first:
        if first:
            _write_plans(run, plans)
    if request.prepare_only:
        return
    if not run.finished:
        with rank_zero_first() as first:
            if first:
                write_json(record_file, record)
        if request.tensorboard and first:
            listener = with_tensorboard(listener, run.folder / "tensorboard")
        _drive(run, device, record["threads"], listener, request.shared_start)
    with rank_zero_first() as first:
        if first and has_manifest(run.folder):
            check_manifest(run.folder)
        elif first:
            wall_s = monotonic() - request.asked_at if unbroken and run.fold is None else None
            write_json(record_file, {**read_record(run.folder), "measured": measured(run.folder, device, wall_s)})
            write_manifest(run.folder)


def _refuse_another(before: dict[str, Any], record: dict[str, Any], run: Run, listener: Listener) -> int:
    """Make sure that the record ``before`` in the folder of ``run`` is of this run.

    Returns:
        the number of threads to go on with: sums are added up in another order where there are more or fewer.
    """
    refuse_changes(*compared(before, record["identity"], run), run.folder)
    if not run.finished:
        strict = run.settings.deterministic
        # Another device gives other bytes, and other versions may.
        versions, versions_now = (
            {**entry.get("versions", {}), **({"device": entry["device"]} if strict and "device" in before else {})}
            for entry in (before, record)
        )
        compare_versions(versions, versions_now, run.folder, deterministic=strict, listener=listener)
        threads = int(before.get("threads", record["threads"]))
        if strict and threads != record["threads"]:
            listener("threads", {"threads": threads, "here": record["threads"]})
            return threads
    return int(record["threads"])


def _record(run: Run, plans: dict[str, Any], device: Any) -> dict[str, Any]:
    import torch

    cases = run.plan.cases
    packages = ("nnunetv2", "torch", "batchgenerators", "SimpleITK", "numpy")
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": identity(run, plans),
        # One by one, so that what is changed later can be named.
        "images": {case: cases[case].digest for case in used_cases(run.split) if cases[case].digest},
        "labels": dict(run.labels),
        "command": sys.argv,
        "versions": {"pclauto": __version__, "python": platform.python_version(), **{p: version(p) for p in packages}},
        "device": str(device),
        # Of a step on a CPU; a repetition with another number need not give the same bytes.
        "threads": torch.get_num_threads(),
        "last_start": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _write_plans(run: Run, plans: dict[str, Any]) -> None:
    file = run.data.plans_file(run.plans_name)
    fix = "remove the file and repeat the command: it is written again"
    whole = with_settings(plans, run.plans_name, run.configuration, run.settings)
    # Other configurations of the same split and recipe share the file, as in nnU-Net's own plans; their runs may start
    # at this moment.
    with sole_writer(run.data.pclauto_dir / "prepare", wait=True):
        found = read_json(file, {"configurations": {...: object}}, fix=fix) if file.is_file() else {}
        earlier = found.get("configurations", {})
        write_json(file, {**whole, "configurations": {**earlier, **whole["configurations"]}})


# --- nnU-Net's trainer ----------------------------------------------------------------------------------------


def _drive(run: Run, device: Any, threads: int, listener: Listener, shared_start: Path | None) -> None:
    """Build the trainer of a run as nnU-Net would, let it train to its end, and validate."""
    shared_start = shared_start if run.settings.shares_start else None
    with output_to(run.folder / "log.txt"):
        print(  # noqa: T201 (into the log)
            f"pclauto {__version__}: what nnU-Net and torch print while {run.plans_name}, fold {run.fold_name}, is "
            "trained; nnU-Net's own log of epochs is training_log_*.txt, ours events.jsonl",
            flush=True,
        )
        import torch

        from pcl_auto.nnunet.distributed import rank_zero_first
        from pcl_auto.nnunet.inference.confidence import write_reference
        from pcl_auto.nnunet.training.joint_trainer import TRAINERS
        from pcl_auto.nnunet.training.save_and_resume import checkpoint_to_resume

        if run.settings.deterministic:
            torch.set_num_threads(threads)
        if device.type == "cpu":
            keep_freed_memory()
            forget_peak_memory()
        # As stock nnU-Net has it: patches have one size, so the fastest kernels are worth looking for.
        torch.backends.cudnn.benchmark = not run.settings.deterministic
        latest = checkpoint_to_resume(run.folder)
        plans = {**read_json(run.data.plans_file(run.plans_name)), "continue_training": latest is not None}
        fold = "all" if run.fold is None else run.fold
        # The plan's: the folder's own file may be nnU-Net's, or edited since.
        trainer = TRAINERS[run.trainer](plans, run.configuration, fold, run.plan.dataset_json, device)
        trainer.events.subscribe(_keeping_start(listener, run, shared_start))
        final = run.folder / FINAL
        if final.is_file():  # stopped in its validation
            trainer.load_checkpoint(str(final))
        else:
            _begin(trainer, run, latest, shared_start)
            trainer.run_training()
        with rank_zero_first() as first:
            if first:
                write_reference(trainer)
        # nnU-Net scores by copies that all runs share, and another one may have been prepared since.
        require_ground_truth(
            run.data, {case: run.labels[case] for case in run.labels if case not in run.split.corrected}
        )
        trainer.validate()


def _begin(trainer: nnUNetTrainerPCLSupervised, run: Run, latest: Path | None, shared_start: Path | None) -> None:
    """Give the trainer the state of the ``latest`` checkpoint, if there is one, else the start that it is to have."""
    from pcl_auto.nnunet.pretrained.strict_start import load_weights
    from pcl_auto.nnunet.training.save_and_resume import load_supervised_start

    epochs = trainer.num_epochs
    if latest is not None:
        trainer.load_checkpoint(str(latest))
        trainer.events.emit("resumed", epoch=trainer.epoch)
    elif run.start is not None:
        load_weights(trainer, run.start)
        trainer.events.emit("started", epochs=epochs, from_model=str(run.start))
    elif run.pretrained is not None and not (shared_start is not None and _is_start_of(run, shared_start)):
        trainer.begin_with(*read_and_match(run.pretrained, run.plan, run.configuration, run.recipe))
        trainer.events.emit("started", epochs=epochs, pretrained=run.pretrained.address)
    elif shared_start is not None and _is_start_of(run, shared_start):
        load_supervised_start(trainer, shared_start)
        trainer.events.emit("started", epochs=epochs, from_shared_start=str(shared_start))
    else:
        trainer.events.emit("started", epochs=epochs)


def _keeping_start(listener: Listener, run: Run, shared_start: Path | None) -> Listener:
    """Return a listener that copies the checkpoint after the supervised start to ``shared_start``, once."""

    def hear(event: str, values: dict[str, Any]) -> None:
        listener(event, values)
        if shared_start is None or started_rank() != 0 or _is_start_of(run, shared_start):
            return
        if event == "checkpoint" and values["epochs"] == run.recipe.schedule.supervised_epochs:
            record = start_record(shared_start)
            record.unlink(missing_ok=True)
            with atomic_path(shared_start) as temporary:
                shutil.copyfile(values["file"], temporary)
            write_json(record, {"schema_version": SCHEMA_VERSION, "input_content": input_content(run)})

    return hear


def start_record(shared_start: Path) -> Path:
    """Return the record of what a shared start was trained on."""
    return shared_start.with_suffix(".json")


def _is_start_of(run: Run, shared_start: Path) -> bool:
    """Tell whether a shared start is there and was trained on the images and labels of ``run`` as they are now."""
    record = start_record(shared_start)
    if not shared_start.is_file() or not record.is_file():
        return False
    return bool(read_json(record).get("input_content") == input_content(run))
