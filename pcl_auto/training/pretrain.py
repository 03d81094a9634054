"""Pre-train on the images of a plan, and keep the result on record: no label is read."""

from __future__ import annotations

import copy
import platform
import sys
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pcl_auto import __version__
from pcl_auto.nnunet.environment import choose_device, prepare_environment
from pcl_auto.nnunet.pretrained.find import ADAPTATION_PLAN
from pcl_auto.planning.inputs import require_planned_images
from pcl_auto.planning.make_plan import preprocess_images
from pcl_auto.planning.plan import Plan, require_current, require_whole
from pcl_auto.planning.split_plans import with_recipe
from pcl_auto.recipe.settings import Pretraining, Recipe
from pcl_auto.training.pretrain_record import is_finished, read_pretraining
from pcl_auto.training.run_inputs import digest_of
from pcl_auto.workspace.events import EventLog, Listener
from pcl_auto.workspace.files import write_json
from pcl_auto.workspace.folders import DatasetFolder, Workspace
from pcl_auto.workspace.lock import sole_writer
from pcl_auto.workspace.processes import output_to
from pcl_auto.workspace.resources import forget_peak_memory, keep_freed_memory
from pcl_auto.workspace.run_record import (
    FINAL,
    RECORD,
    check_manifest,
    compare_versions,
    refuse_changes,
    start_anew,
    write_manifest,
)

SCHEMA_VERSION = 1
_INTENSITIES = "foreground_intensity_properties_per_channel"


@dataclass(frozen=True)
class PretrainingRun:
    """A pre-training as it will be or as it is: images, settings, and its folder.

    ``cases``: whose images it learns from. ``split``: the name of the split that names them, ``all`` without one.
    """

    data: DatasetFolder
    plan: Plan
    cases: tuple[str, ...]
    split: str
    recipe: Recipe
    seed: int
    configuration: str
    folder: Path

    @property
    def settings(self) -> Pretraining:
        """The recipe's settings for it."""
        return self.recipe.pretraining

    @property
    def chosen(self) -> dict[str, Any]:
        """nnU-Net's configuration with the recipe's network and batch, as a training with the recipe has them."""
        return with_recipe(self.plan.nnunet["configurations"][self.configuration], self.recipe)

    @property
    def finished(self) -> bool:
        """True once it is done and all of its files are on record."""
        return is_finished(self.folder)


def pretrain(
    run: PretrainingRun, workspace: Workspace, listener: Listener, *, device: str = "auto", restart: bool = False
) -> PretrainingRun:
    """Pre-train to the end, from where an earlier try of it stopped.

    Args:
        run: from :func:`pcl_auto.training.pretrain_request.resolve_pretraining`.
        workspace: of the data set.
        listener: hears of everything that happens.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        restart: throw away an earlier pre-training of these settings.

    Returns:
        the run.

    Raises:
        StateError: the folder holds another pre-training, or files of it or of the data set are damaged or changed.
        UsageError: the device is not there.
        ResourceError: disk, memory or device do not suffice.
        LockedError: another process writes the same pre-training.
        NumericalError: the loss is no longer a number.
    """
    workspace.activate()
    if run.finished and not restart:
        with sole_writer(run.folder):
            _refuse_another(run)
            require_planned_images(run.plan, run.cases, run.data)
            check_manifest(run.folder)
        return run
    where = choose_device(device)
    prepare_environment()
    with sole_writer(run.folder):
        if restart and run.folder.is_dir():
            start_anew(run.folder)
        before = _refuse_another(run)
        plans, store = _prepare_images(run, listener)
        record = _record(run, where)
        if before is not None:
            compare_versions(before.get("versions", {}), record["versions"], run.folder, deterministic=False,
                             listener=listener)  # fmt: skip
        write_json(run.folder / RECORD, record)
        _drive(run, plans, store, where, listener)
        write_manifest(run.folder, (FINAL, ADAPTATION_PLAN))
    return run


def _refuse_another(run: PretrainingRun) -> dict[str, Any] | None:
    """Make sure that the folder of a run holds no pre-training of other settings or images; return its record."""
    if not (run.folder / RECORD).is_file():
        return None
    record, now, defaults = read_pretraining(run.folder), identity(run), Recipe("").as_dict()
    recorded = record["identity"]
    # A setting that an earlier version did not know has its default.
    recipe = {
        table: {**{key: defaults[table][key] for key in values}, **recorded["recipe"].get(table, {})}
        for table, values in now["recipe"].items()
        if table != "name"
    }
    refuse_changes({**recorded, "recipe": {**recorded["recipe"], **recipe}}, now, run.folder)
    return record


def identity(run: PretrainingRun) -> dict[str, Any]:
    """Return what makes a pre-training this one; its folder goes on only with the same."""
    recipe = run.recipe.as_dict()
    chosen = {key: value for key, value in run.chosen.items() if key != "data_identifier"}
    return {
        "dataset": run.data.name,
        "configuration": run.configuration,
        "recipe": {
            "name": recipe["name"],
            "network": recipe["network"],
            "batch": recipe["batch"],
            "contrast": {"head_convolutions": recipe["contrast"]["head_convolutions"]},
            "pretraining": recipe["pretraining"],
        },
        "seed": run.seed,
        "split": run.split,
        "plan": digest_of([chosen, run.plan.nnunet["transpose_forward"]]),
        "images": digest_of(sorted(_images(run).items())),
    }


def _images(run: PretrainingRun) -> dict[str, str]:
    cases = run.plan.cases
    return {case: cases[case].digest for case in run.cases}


def _record(run: PretrainingRun, device: Any) -> dict[str, Any]:
    import torch

    packages = ("nnunetv2", "torch", "numpy")
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": identity(run),
        "images": _images(run),
        "command": sys.argv,
        "versions": {"pclauto": __version__, "python": platform.python_version(), **{p: version(p) for p in packages}},
        "device": str(device),
        "threads": torch.get_num_threads(),
        "last_start": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _prepare_images(run: PretrainingRun, listener: Listener) -> tuple[dict[str, Any], Path]:
    """Preprocess the images that are not stored yet; return nnU-Net's plans for the run, and the case store.

    Only the images of the run are read. Where normalization takes intensities (CT), those of whole images stand in for
    those of labeled foreground.

    Raises:
        StateError: the data set was planned anew since the run was resolved, or an image has changed.
    """
    require_whole(run.plan, run.data)
    with sole_writer(run.data.pclauto_dir / "prepare", wait=True):
        require_current(run.plan, run.data)
        require_planned_images(run.plan, run.cases, run.data)
        content = run.plan.content
        used = replace(run.plan, content={**content, "cases": {case: content["cases"][case] for case in run.cases}})
        plans = copy.deepcopy(run.plan.nnunet)
        if run.plan.depends_on_labels(run.configuration):
            from pcl_auto.nnunet.data.image_intensities import image_intensities

            with output_to(run.data.log_file):
                channels = len(run.plan.dataset_json["channel_names"])
                plans[_INTENSITIES] = image_intensities(list(used.cases.values()), channels)
        store = run.data.store(preprocess_images(used, plans, run.configuration, run.data, listener))
    return {**plans, "configurations": {run.configuration: run.chosen}}, store


def _drive(run: PretrainingRun, plans: dict[str, Any], store: Path, device: Any, listener: Listener) -> None:
    """Let the network learn to the end."""
    with output_to(run.folder / "log.txt"):
        import torch

        from pcl_auto.nnunet.pretraining.pretrainer import Pretrainer, PretrainingTask

        if device.type == "cpu":
            keep_freed_memory()
            forget_peak_memory()
        torch.backends.cudnn.benchmark = True
        task = PretrainingTask(
            plans, run.configuration, run.plan.dataset_json, store, run.cases, run.settings, run.seed, run.folder
        )
        Pretrainer(task, device, EventLog(run.folder / "events.jsonl", listener)).run()
