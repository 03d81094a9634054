"""``pclauto train``: from a plan to a trained model."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pcl_auto import __version__
from pcl_auto.data.checks import image_stats
from pcl_auto.data.split import Split, choose_split, draw_split, from_dict
from pcl_auto.errors import Problem, UsageError
from pcl_auto.nnunet.environment import prepare_environment
from pcl_auto.planning.plan import Plan, read_plan
from pcl_auto.planning.split_plans import check_inputs_unchanged, prepare_split, record_split
from pcl_auto.recipe import Recipe, load_recipe
from pcl_auto.run.changes import refuse_changes
from pcl_auto.run.events import Listener
from pcl_auto.run.extras import require
from pcl_auto.run.files import read_json, write_json
from pcl_auto.run.lock import sole_writer
from pcl_auto.run.memory import forget_peak_memory, keep_freed_memory
from pcl_auto.run.quiet import output_to
from pcl_auto.run.workspace import DatasetFolder, Workspace

SCHEMA_VERSION = 1
JOINT, SUPERVISED = "nnUNetTrainerPCL", "nnUNetTrainerPCLSupervised"
# Names in plans files must not hold nnU-Net's separator.
PLANS_PREFIX = "nnUNetPlans"


@dataclass(frozen=True)
class TrainRequest:
    """What ``pclauto train`` was asked for."""

    dataset: str | None = None
    labeled: int | None = None
    labeled_cases: tuple[str, ...] = ()
    split_file: Path | None = None
    validation: int = 0
    seed: int = 0
    # A name, the path of a TOML file, or the recipe itself.
    recipe: str | Recipe = "default"
    epochs: int | None = None
    configuration: str | None = None
    device: str = "auto"
    workers: int | None = None
    supervised_only: bool = False
    deterministic: bool = False
    restart: bool = False
    prepare_only: bool = False
    # The state after the supervised start: read if it is there, else written; for recipes that differ in the rounds.
    shared_start: Path | None = None
    # Whether ``pclauto predict`` takes this model when none is named.
    remember: bool = True


@dataclass(frozen=True)
class Run:
    """A run as it will be or as it is: data, split, recipe, and the folder of its model."""

    data: DatasetFolder
    plan: Plan
    split: Split
    recipe: Recipe
    configuration: str
    trainer: str
    plans_name: str
    model: Path

    @property
    def folder(self) -> Path:
        """The run's own folder, ``fold_all`` of the model."""
        return self.model / "fold_all"

    @property
    def finished(self) -> bool:
        """Whether the model is trained to the end."""
        return (self.folder / "checkpoint_final.pth").is_file()


def resolve_run(request: TrainRequest, workspace: Workspace) -> Run:
    """Settle data set, split, recipe and folder of a run; nothing is written.

    Raises:
        StateError: nothing was planned, or the input changed since.
        UsageError: cases, numbers, recipe or configuration that do not exist.
    """
    data = workspace.dataset(request.dataset)
    plan = read_plan(data)
    split = apart_from_recorded(resolve_split(request, plan), data)
    check_inputs_unchanged(plan, split)
    recipe = request.recipe if isinstance(request.recipe, Recipe) else load_recipe(request.recipe)
    if request.epochs is not None:
        recipe = replace(recipe, schedule=recipe.schedule.scaled_to(request.epochs))
    joint = not request.supervised_only and bool(split.unlabeled)
    name = "_".join(
        [
            split.name,
            recipe.name,
            *([f"e{request.epochs}"] if request.epochs is not None else []),
            *(["deterministic"] if request.deterministic else []),
        ]
    )
    plans_name = f"{PLANS_PREFIX}_{name}"
    trainer = JOINT if joint else SUPERVISED
    configuration = plan.configuration_named(request.configuration)
    model = workspace.results / data.name / f"{trainer}__{plans_name}__{configuration}"
    return Run(data, plan, split, recipe, configuration, trainer, plans_name, model)


def resolve_split(request: TrainRequest, plan: Plan) -> Split:
    """The split that a request describes.

    Raises:
        UsageError: it asks for cases or labels that are not there, or in more than one way.
    """
    with_label = [case.id for case in plan.cases.values() if case.label is not None]
    without_label = [case.id for case in plan.cases.values() if case.label is None]
    ways = {
        "--labeled": request.labeled is not None,
        "--labeled-cases": bool(request.labeled_cases),
        "--split": request.split_file is not None,
    }
    if request.split_file is not None and request.validation:
        raise UsageError(
            Problem(
                what="a split file names the validation cases itself",
                where="--split and --validation",
                fix="leave out --validation",
            )
        )
    if sum(ways.values()) > 1:
        raise UsageError(
            Problem(
                what="more than one way to choose labelled cases",
                where=" and ".join(name for name, given in ways.items() if given),
                fix="keep one of them",
            )
        )
    if request.split_file is not None:
        labeled, validation = _read_split_file(request.split_file)
        return choose_split(with_label, without_label, labeled=labeled, validation=validation, seed=request.seed)
    if request.labeled_cases:
        remaining = [case for case in with_label if case not in request.labeled_cases]
        drawn = draw_split(remaining, [], labeled=request.validation, seed=request.seed) if request.validation else None
        return choose_split(
            with_label,
            without_label,
            labeled=request.labeled_cases,
            validation=() if drawn is None else drawn.labeled,
            seed=request.seed,
        )
    return draw_split(
        with_label, without_label, labeled=request.labeled, validation=request.validation, seed=request.seed
    )


def apart_from_recorded(split: Split, data: DatasetFolder) -> Split:
    """``split``, under a name of its own where its own name was recorded with other cases.

    So a data set that has grown since can be trained again without touching what was trained before.
    """
    file = data.split_file(split.name)
    if not file.is_file() or from_dict(read_json(file)) == split:
        return split
    digest = hashlib.sha256(json.dumps(split.as_dict(), sort_keys=True).encode()).hexdigest()[:6]
    return replace(split, name=f"{split.name}_g{digest}")


def _read_split_file(path: Path) -> tuple[Sequence[str], Sequence[str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        labeled, validation = content["labeled"], content.get("validation", [])
        if not (isinstance(labeled, list) and isinstance(validation, list)):
            raise TypeError("the groups are lists")
        if not all(isinstance(case, str) for case in [*labeled, *validation]):
            raise TypeError("case ids are strings")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            Problem(
                what="not a split",
                where=str(path),
                expected='JSON with "labeled": [case, …] and, if wanted, "validation": [case, …]',
                found=f"{type(error).__name__}: {error}",
                fix="write such a file; those under splits/ of a workspace are examples",
            )
        ) from error
    return labeled, validation


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
        "plan": digest,
        "input": _input_digest(run),
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


def choose_device(wanted: str) -> Any:
    """The torch device for ``auto``, ``cuda``, ``mps`` or ``cpu``.

    Raises:
        UsageError: the device is not there; the ones that are, are named.
    """
    import torch

    there = [
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
        "cpu",
    ]
    if wanted == "auto":
        return torch.device(there[0])
    if wanted not in there:
        raise UsageError(
            Problem(
                what=f"no device {wanted!r} on this machine",
                where="--device",
                expected=" | ".join(there),
                fix=f"take --device {there[0]}, or leave it out",
            )
        )
    return torch.device(wanted)


def train(request: TrainRequest, workspace: Workspace, listener: Listener) -> Run:
    """Train a run to its end, going on where an earlier try of the same run stopped.

    Raises:
        UsageError, StateError, ResourceError, NumericalError: see :func:`resolve_run` and the trainers.
    """
    device = choose_device(request.device)
    run = resolve_run(request, workspace)
    if run.trainer == JOINT and run.recipe.pseudo_labels.crf and not run.finished:
        require("pydensecrf", "crf", "pseudo_labels.crf")
    workspace.activate()
    prepare_environment(workers=_workers(request, device))
    with sole_writer(run.model):
        _train_alone(run, request, workspace, device, listener)
    return run


def _train_alone(run: Run, request: TrainRequest, workspace: Workspace, device: Any, listener: Listener) -> None:
    listener("split", {"file": str(record_split(run.split, run.data)), "split": run.split})
    plans, store = prepare_split(
        run.plan, run.split, run.recipe, run.data, configuration=run.configuration, listener=listener
    )
    wanted = identity(run, request, plans)
    if request.restart and run.model.is_dir():
        shutil.rmtree(run.model)
    record_file = run.folder / "run.json"
    if record_file.is_file():
        refuse_changes(read_json(record_file)["identity"], wanted, run.folder)
    _write_plans(run, plans, store, request, _mirror_axes(run, plans, store, listener))
    if request.prepare_only:
        return
    if not run.finished:
        write_json(record_file, _record(wanted, device))
        _drive(run, device, listener, request.shared_start)
    if request.remember:
        workspace.remember(last_dataset=run.data.name, last_run={**_remembered(workspace), run.trainer: str(run.model)})


def _workers(request: TrainRequest, device: Any) -> int | None:
    """Processes for data augmentation: none on a CPU, where they take from the network what they save it."""
    if request.deterministic:
        return 0
    if request.workers is None and device.type == "cpu":
        return 0
    return request.workers


def _remembered(workspace: Workspace) -> dict[str, str]:
    runs: dict[str, str] = workspace.remembered().get("last_run", {})
    return runs


def _mirror_axes(run: Run, plans: dict[str, Any], store: str, listener: Listener) -> tuple[int, ...] | None:
    """What the recipe's mirroring comes to for this data set; None where nnU-Net decides, as in every baseline."""
    if run.recipe.augmentation.mirroring == "all":
        return None
    from pcl_auto.nnunet.symmetry import mirror_axes, stored_symmetries

    symmetries = stored_symmetries(run.data.store(store), list(run.plan.cases))
    if run.trainer == JOINT:
        names = ["zyx"[axis] for axis in plans["transpose_forward"]]
        listener("mirroring", {names[entry.axis]: entry for entry in symmetries})
    return mirror_axes(symmetries, len(plans["configurations"][run.configuration]["patch_size"]))


def _write_plans(
    run: Run, plans: dict[str, Any], store: str, request: TrainRequest, mirror_axes: tuple[int, ...] | None
) -> None:
    from pcl_auto.nnunet.settings import KEY, RunSettings

    settings = RunSettings(run.recipe, request.seed, run.split.name, store, request.deterministic, mirror_axes)
    file = run.data.plans_file(run.plans_name)
    # Other configurations of the same split and recipe share the file, as in nnU-Net's own plans.
    earlier = read_json(file)["configurations"] if file.is_file() else {}
    (chosen,) = plans["configurations"].values()
    configurations = {**earlier, run.configuration: {**chosen, KEY: settings.as_dict()}}
    write_json(file, {**plans, "plans_name": run.plans_name, "configurations": configurations})


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


def _drive(run: Run, device: Any, listener: Listener, shared_start: Path | None) -> None:
    """Build the trainer as nnU-Net would, take up its last checkpoint, and train."""
    with output_to(run.folder / "log.txt"):
        import torch

        from pcl_auto.nnunet.joint_trainer import nnUNetTrainerPCL
        from pcl_auto.nnunet.trainer import nnUNetTrainerPCLSupervised

        if device.type == "cpu":
            keep_freed_memory()
            forget_peak_memory()
        kind = {JOINT: nnUNetTrainerPCL, SUPERVISED: nnUNetTrainerPCLSupervised}[run.trainer]
        latest = run.folder / "checkpoint_latest.pth"
        plans = {**read_json(run.data.plans_file(run.plans_name)), "continue_training": latest.is_file()}
        trainer = kind(plans, run.configuration, "all", read_json(run.data.path / "dataset.json"), device)
        trainer.events.listener = listener
        trainer.shared_start = shared_start
        # As stock nnU-Net has it: patches have one size, so the fastest kernels are worth looking for.
        torch.backends.cudnn.benchmark = not trainer.settings.deterministic
        if latest.is_file():
            trainer.load_checkpoint(str(latest))
            trainer.events.emit("resumed", epoch=trainer.epoch)
        elif shared_start is not None and shared_start.is_file():
            trainer.load_start(shared_start)
            trainer.events.emit("started", epochs=trainer.num_epochs, from_shared_start=str(shared_start))
        else:
            trainer.events.emit("started", epochs=trainer.num_epochs)
        trainer.run_training()
