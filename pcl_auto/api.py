"""The Python API: ``plan``, ``pretrain``, ``train``, ``predict`` and ``evaluate``, each as its command has it.

Arguments have the names of the command's options. Nothing is printed: what nnU-Net prints goes to the logs of the
workspace, and a ``listener`` hears what happens. Problems are exceptions of :mod:`pcl_auto.errors`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from pcl_auto.errors import Problem, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from pcl_auto.data.split import Split
    from pcl_auto.evaluation.metrics import Evaluation
    from pcl_auto.inference.predict import Prediction
    from pcl_auto.planning.plan import Plan
    from pcl_auto.recipe.settings import Recipe
    from pcl_auto.training.request import Run, TrainRequest
    from pcl_auto.workspace.folders import Workspace

PathLike = str | Path
# Hears the name of each event and its values; docs/files.md lists the events of a training.
Listener = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class PlanResult:
    """A data set's plan, and what it says of patch and network; axes are z, y, x."""

    dataset: str
    """nnU-Net's name of the data set, ``DatasetNNN_Name``."""
    plan_file: Path
    plan: Plan
    configuration: str
    """The configuration that training takes, such as ``3d_fullres``."""
    patch_voxels: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    labeled: tuple[str, ...]
    """Ids of the cases that have a label."""
    unlabeled: tuple[str, ...]
    """Ids of the cases that have none."""
    up_to_date: bool
    """True if the plan was there already, and nothing had to be done."""
    warnings: tuple[Problem, ...]
    """Findings that are worth a look, but no reason to refuse the data set."""


@dataclass(frozen=True)
class TrainResult:
    """A trained model, and what it was trained on."""

    dataset: str
    """nnU-Net's name of the data set, ``DatasetNNN_Name``."""
    configuration: str
    model: Path
    """The model folder as nnU-Net lays it out; :func:`predict` takes it."""
    folders: tuple[Path, ...]
    """Folder of the run, or of each fold: ``fold_all``, or ``fold_0``, ``fold_1``, …"""
    split: Split
    split_file: Path
    recipe: Recipe
    """The recipe with the schedule that was trained."""
    plans_name: str
    """nnU-Net's name of the split's plans, for its option ``-p``."""
    finished: bool
    """False after ``prepare_only``."""
    report: Path | None
    """The report on one page; None after ``prepare_only``, or where it could not be written (a warning says why)."""


def plan(
    task: PathLike,
    *,
    workspace: PathLike | None = None,
    configuration: str = "auto",
    planner: str = "default",
    gpu_memory_gb: float | None = None,
    plans: PathLike | None = None,
    pretrained: PathLike | None = None,
    pretrained_spacing: bool = False,
    use_test_images: bool = False,
    bias_correction: bool = False,
    follow_symlinks: bool = False,
    skip_bad_unlabeled: bool = False,
    dataset_id: int | None = None,
    force: bool = False,
    dry_run: bool = False,
    listener: Listener | None = None,
) -> PlanResult:
    """Check a data set, plan patch size and network, and preprocess its images.

    A plan that is up to date is returned as it is.

    Args:
        task: a decathlon or nnUNet_raw folder, or its name here, in ``$PCLAUTO_DATA`` or in nnUNet_raw.
        workspace: folder of plans and models. Default: the exported ``nnUNet_*`` folders, else ``./pclauto_work``.
        configuration: ``2d``, ``3d_fullres``, ``3d_lowres`` or ``auto``.
        planner: ``default``, ``resenc-m`` or ``resenc-l``.
        gpu_memory_gb: GPU memory that a training step may take, in GB. Default: nnU-Net's, or 4 without a GPU.
        plans: nnU-Net plans to take as they are: a file, or the name of plans of this data set.
        pretrained: plan the network of these weights: a checkpoint, its folder, or ``hf://OWNER/NAME``; the option
            ``--for``.
        pretrained_spacing: with ``pretrained``, resample to the spacing of the pre-training.
        use_test_images: let ``imagesTs`` join the unlabeled cases.
        bias_correction: even out the shading of MR scans first (N4).
        follow_symlinks: accept links that lead out of the data set's folder.
        skip_bad_unlabeled: leave out unlabeled scans that cannot be used; they are among the warnings.
        dataset_id: nnU-Net's number of the data set, 1 to 999.
        force: plan again even if the plan is up to date.
        dry_run: check and plan, but write nothing.
        listener: hears ``check`` and ``preprocess`` with ``done`` and ``total``.

    Returns:
        The plan, and the warnings that came up.

    Raises:
        DataError: the data set cannot be used; every problem of it is listed.
        UsageError: there is no such data set, or the settings do not fit it.
        StateError: an earlier plan is damaged or of another version.
        ResourceError: the workspace cannot be written, or disk or memory do not suffice.
    """
    _refuse_outside("dataset_id", dataset_id, 1, 999)
    _refuse_outside("gpu_memory_gb", gpu_memory_gb, 1)
    with _quiet(listener) as hear:
        from pcl_auto.data.dataset.decathlon import find_task
        from pcl_auto.planning.make_plan import plan_task
        from pcl_auto.planning.plan import PlanSettings, memory_to_plan_for

        resolved = _workspace(workspace)
        settings = PlanSettings(
            configuration=configuration,
            planner=planner,
            memory_gb=memory_to_plan_for(gpu_memory_gb, planner)[0],
            use_test_images=use_test_images,
            bias_correction=bias_correction,
            plans_file=None if plans is None else str(plans),
            follow_links=follow_symlinks,
            skip_bad_unlabeled=skip_bad_unlabeled,
            pretrained=None if pretrained is None else str(pretrained),
            pretrained_spacing=pretrained_spacing,
        )
        root = find_task(str(task), resolved.data_folders())
        made = plan_task(root, resolved, settings, dataset_id=dataset_id, force=force, dry_run=dry_run, listener=hear)
    chosen = made.plan.nnunet["configurations"][made.plan.configuration]
    cases = made.plan.cases.values()
    return PlanResult(
        dataset=made.data.name,
        plan_file=made.data.plan_file,
        plan=made.plan,
        configuration=made.plan.configuration,
        patch_voxels=tuple(int(size) for size in chosen["patch_size"]),
        spacing_mm=tuple(float(size) for size in chosen["spacing"]),
        labeled=tuple(case.id for case in cases if case.label is not None),
        unlabeled=tuple(case.id for case in cases if case.label is None),
        up_to_date=made.up_to_date,
        warnings=tuple(made.warnings),
    )


@dataclass(frozen=True)
class PretrainResult:
    """Weights that were learned from images alone."""

    dataset: str
    """nnU-Net's name of the data set, ``DatasetNNN_Name``."""
    configuration: str
    folder: Path
    """The folder with ``checkpoint_final.pth`` and ``adaptation_plan.json``; the option ``pretrained`` of
    :func:`train` takes it."""
    cases: tuple[str, ...]
    """Ids of the cases whose images were learned from."""
    recipe: Recipe
    """The recipe; its table ``pretraining`` has the method and the length."""


def pretrain(
    dataset: str | None = None,
    *,
    workspace: PathLike | None = None,
    method: str | None = None,
    recipe: PathLike | Recipe = "default",
    settings: Mapping[str, object] | None = None,
    epochs: int | None = None,
    split: PathLike | None = None,
    seed: int = 0,
    device: str = "auto",
    configuration: str | None = None,
    restart: bool = False,
    listener: Listener | None = None,
) -> PretrainResult:
    """Let the network of a later training learn from all images, without any label.

    The same call again goes on where an earlier one stopped.

    Args:
        dataset: a planned data set by name or number. Default: the one planned last.
        workspace: as for :func:`plan`.
        method: ``masked`` or ``contrastive``. Default: the recipe's, ``masked``.
        recipe: as for :func:`train`, which needs the same network.
        settings: what is changed in the recipe, ``{"pretraining.patches": 8}``; the option ``--set``.
        epochs: pre-train so many epochs. Default: the recipe's.
        split: a JSON file with the lists "labeled" and, if wanted, "validation" and "unlabeled": learn from the images
            of these cases alone. Default: all images.
        seed: of the pre-training.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        configuration: a planned configuration. Default: the plan's.
        restart: throw away an earlier pre-training of these settings.
        listener: hears every event, as docs/files.md lists them, and ``step`` after each step.

    Returns:
        The folder with the weights, and what they were made of.

    Raises:
        UsageError: a recipe, method, split, configuration or device that does not exist.
        StateError: nothing was planned, the images changed since, or the folder holds another pre-training.
        ResourceError: disk, memory or device do not suffice.
        LockedError: another process writes the same pre-training.
        NumericalError: the loss is no longer a finite number.
    """
    for name, value, least in (("seed", seed, 0), ("epochs", epochs, 1)):
        _refuse_outside(name, value, least)
    with _quiet(listener) as hear:
        from pcl_auto.recipe.changes import as_changes
        from pcl_auto.recipe.settings import Recipe
        from pcl_auto.report.pretraining_page import write_pretraining_report
        from pcl_auto.training.pretrain import pretrain as pretrain_run
        from pcl_auto.training.pretrain_request import PretrainRequest, resolve_pretraining

        resolved = _workspace(workspace)
        request = PretrainRequest(
            dataset=dataset,
            method=method,
            recipe=recipe if isinstance(recipe, Recipe) else str(recipe),
            settings=as_changes(settings or {}),
            epochs=epochs,
            split_file=None if split is None else Path(split),
            seed=seed,
            configuration=configuration,
        )
        run = resolve_pretraining(request, resolved)
        pretrain_run(run, resolved, hear, device=device, restart=restart)
        write_pretraining_report(run.folder)
        return PretrainResult(run.data.name, run.configuration, run.folder, run.cases, run.recipe)


def train(
    dataset: str | None = None,
    *,
    workspace: PathLike | None = None,
    labeled: int | None = None,
    labeled_cases: Sequence[str] = (),
    split: PathLike | None = None,
    validation: int = 0,
    folds: int | None = None,
    seed: int = 0,
    recipe: PathLike | Recipe = "default",
    settings: Mapping[str, object] | None = None,
    epochs: int | None = None,
    budget: str | None = None,
    configuration: str | None = None,
    pretrained: PathLike = "",
    start_from: PathLike | None = None,
    initial_pseudo_labels: PathLike | None = None,
    supervised_only: bool = False,
    device: str = "auto",
    workers: int | None = None,
    deterministic: bool = False,
    restart: bool = False,
    tensorboard: bool = False,
    prepare_only: bool = False,
    listener: Listener | None = None,
) -> TrainResult:
    """Train on a few labels and all images; the same call again goes on where an earlier one stopped.

    Args:
        dataset: a planned data set by name or number. Default: the one planned last.
        workspace: as for :func:`plan`.
        labeled: use the labels of so many cases, drawn by ``seed``. Default: all.
        labeled_cases: use the labels of these cases.
        split: a JSON file with the lists "labeled" and, if wanted, "validation".
        validation: hold out so many labeled cases to choose the model with.
        folds: cross-validate over the labeled cases, with so many models.
        seed: of the draw and of the training.
        recipe: ``default``, ``paper``, ``quick``, a TOML file, or a recipe.
        settings: what is changed in the recipe, ``{"contrast.weight": 0.2}``; the option ``--set``.
        epochs: train so many epochs; the recipe's parts keep their shares.
        budget: be done in this time, ``2h`` or ``1h30m``: the recipe's schedule is fitted to it.
        configuration: a planned configuration. Default: the plan's.
        pretrained: begin with these weights: a checkpoint or folder of nnssl, nnU-Net or pclauto, ``hf://OWNER/NAME``,
            or ``auto``, those that :func:`pretrain` made last.
        start_from: begin the rounds with this model of the same classes: a checkpoint or its folder.
        initial_pseudo_labels: begin with the masks CASE.nii.gz of unlabeled cases in this folder, made by any tool.
        supervised_only: train the baseline, nnU-Net on the labeled cases with as many steps.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        workers: processes that augment data, 0 for none. Default: one per core, none on a CPU.
        deterministic: give the same bytes for the same call, on a machine of one kind with the same versions and
            number of threads; slower.
        restart: throw away an earlier run of these settings.
        tensorboard: write the curves for TensorBoard too.
        prepare_only: write split, plans and data for stock nnU-Net; train nothing.
        listener: hears every event of the training, as docs/files.md lists them, and ``step`` after each step.

    Returns:
        The model folder with split, recipe and report.

    Raises:
        UsageError: cases, numbers, a recipe, a configuration or a device that do not exist or do not fit together.
        StateError: nothing was planned, the data changed since, or the run folder holds another run.
        ResourceError: disk, memory or device do not suffice.
        LockedError: another process trains the same run.
        NumericalError: the loss is no longer a finite number.
    """
    minimum = {"labeled": (labeled, 1), "validation": (validation, 0), "folds": (folds, 2), "seed": (seed, 0)}
    for name, (value, least) in {**minimum, "epochs": (epochs, 1), "workers": (workers, 0)}.items():
        _refuse_outside(name, value, least)
    with _quiet(listener) as hear:
        from pcl_auto.recipe.changes import as_changes
        from pcl_auto.recipe.settings import Recipe
        from pcl_auto.training.request import TrainRequest
        from pcl_auto.training.train import train as train_run

        resolved = _workspace(workspace)
        cases = labeled_cases.split(",") if isinstance(labeled_cases, str) else labeled_cases
        request = TrainRequest(
            dataset=dataset,
            labeled=labeled,
            labeled_cases=tuple(filter(None, (case.strip() for case in cases))),
            split_file=None if split is None else Path(split),
            validation=validation,
            seed=seed,
            recipe=recipe if isinstance(recipe, Recipe) else str(recipe),
            settings=as_changes(settings or {}),
            epochs=epochs,
            budget=budget,
            configuration=configuration,
            device=device,
            workers=workers,
            supervised_only=supervised_only,
            deterministic=deterministic,
            restart=restart,
            pretrained=str(pretrained),
            start_from=None if start_from is None else Path(start_from),
            initial_pseudo_labels=None if initial_pseudo_labels is None else Path(initial_pseudo_labels),
            folds=folds,
            prepare_only=prepare_only,
            tensorboard=tensorboard,
        )
        run = train_run(request, resolved, hear)
        return _trained(run, request, resolved)


def _trained(run: Run, request: TrainRequest, workspace: Workspace) -> TrainResult:
    names = ["all"] if request.folds is None else [str(fold) for fold in range(request.folds)]
    return TrainResult(
        dataset=run.data.name,
        configuration=run.configuration,
        model=run.model,
        folders=tuple(run.model / f"fold_{name}" for name in names),
        split=run.split,
        split_file=run.data.split_file(run.split.name),
        recipe=run.recipe,
        plans_name=run.plans_name,
        finished=run.finished,
        report=None if request.prepare_only else _report(run, workspace),
    )


def _report(run: Run, workspace: Workspace) -> Path | None:
    """Write the run's report, or warn of what is wrong with it."""
    from pcl_auto.report.page import report_of_training

    report, why_none = report_of_training(run.folder, workspace)
    if report is None:
        warnings.warn(why_none, stacklevel=4)
    return report


@overload
def predict(
    inputs: PathLike | Sequence[PathLike],
    output: PathLike,
    *,
    model: PathLike | None = None,
    supervised_only: bool = False,
    workspace: PathLike | None = None,
    device: str = "auto",
    mirroring: bool = True,
    quality: bool = True,
    preview: bool = False,
    keep_format: bool = False,
    dicom_seg: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> list[Prediction]: ...


@overload
def predict(
    inputs: npt.NDArray[Any],
    *,
    spacing_mm: Sequence[float],
    affine: npt.NDArray[Any] | None = None,
    model: PathLike | None = None,
    supervised_only: bool = False,
    workspace: PathLike | None = None,
    device: str = "auto",
    mirroring: bool = True,
) -> npt.NDArray[Any]: ...


def predict(
    inputs: PathLike | Sequence[PathLike] | npt.NDArray[Any],
    output: PathLike | None = None,
    *,
    spacing_mm: Sequence[float] | None = None,
    affine: npt.NDArray[Any] | None = None,
    model: PathLike | None = None,
    supervised_only: bool = False,
    workspace: PathLike | None = None,
    device: str = "auto",
    mirroring: bool = True,
    quality: bool = True,
    preview: bool = False,
    keep_format: bool = False,
    dicom_seg: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> list[Prediction] | npt.NDArray[Any]:
    """Segment scans in files, or one image in memory.

    A file that fails does not stop the others. For an image in memory only the options from ``spacing_mm`` to
    ``mirroring`` count.

    Args:
        inputs: scans or folders of scans: NIfTI, NRRD, MHA, DICOM series; any names, 3D or 4D. Or an array of shape
            (z, y, x), or (C, z, y, x) with the channels in the order of the model's.
        output: folder for the masks of files.
        spacing_mm: of an array's voxels along z, y and x.
        affine: of an array's scan, where its header has one (x, y, z to mm, shape (4, 4)): checks the order of axes.
        model: a model folder, or its name in the workspace. Default: of the data set trained last, the model trained
            last with unlabeled cases.
        supervised_only: take the baseline that was trained last.
        workspace: as for :func:`plan`.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        mirroring: average over mirrored scans. Without, 3D is eight times as fast and a little less accurate.
        quality: estimate the confidence of each mask.
        preview: draw three planes through the largest structure of each scan.
        keep_format: write masks of NRRD and MHA scans in that format, instead of NIfTI.
        dicom_seg: write a DICOM SEG too for each DICOM series (needs the extra ``dicom``).
        overwrite: replace masks that are there, each when the new one is; one that a person has changed stays.
        listener: hears ``predict`` with ``done`` and ``total`` after each scan.

    Returns:
        For files the outcome of each: its mask, the volume of each class in ml, confidence, or why it failed. For an
        array its mask, shape (z, y, x).

    Raises:
        UsageError: no scans, a device or package that is not there, or an output folder that scans lie in; files
            without ``output``, or an array without ``spacing_mm``; an output folder of a data set, plan or model.
        DataError: an array that is no image, or whose spacing is not that of the affine.
        StateError: no usable model, or masks of another model in the output folder.
        LockedError: another process writes into the output folder.
        ResourceError: there is no room on the disk, where the masks made before are whole; or in memory for an array.
        NumericalError: the network gives NaN for an array.
    """
    if (output is None) == (spacing_mm is None) or (spacing_mm is not None) != hasattr(inputs, "__array__"):
        fix = "give files and output, or an array and spacing_mm"
        raise UsageError(Problem("usage.files-or-array", "neither files nor an array to segment", "predict", fix))
    with _quiet(listener) as hear:
        from pcl_auto.data.formats.scans import refuse_missing
        from pcl_auto.inference.predict import Outputs, predict_array
        from pcl_auto.inference.predict import predict as segment
        from pcl_auto.training.find_model import find_model

        scans = [] if output is None else _paths(inputs)
        refuse_missing(scans)
        name = None if model is None else str(model)
        folder = find_model(_workspace(workspace), name, supervised_only=supervised_only)
        if output is None:
            how: dict[str, Any] = {"affine": affine, "device": device, "mirroring": mirroring}
            return predict_array(cast("npt.NDArray[Any]", inputs), spacing_mm or (), folder, **how)
        return segment(
            scans,
            Path(output),
            folder,
            device=device,
            mirroring=mirroring,
            overwrite=overwrite,
            outputs=Outputs(keep_format=keep_format, preview=preview, dicom_seg=dicom_seg, quality=quality),
            listener=hear,
        )


def _paths(given: Any) -> list[Path]:
    return [Path(given)] if isinstance(given, (str, Path)) else [Path(path) for path in given]


def evaluate(
    predictions: PathLike, labels: PathLike, *, allow_missing: bool = False, ignore: int | None = None
) -> Evaluation:
    """Score masks against labels: Dice and HD95 in mm, per class and case.

    Files are paired by their names. Masks that :func:`predict` made have their scores kept with the model, for reports.

    Args:
        predictions: folder of predicted masks, or one file.
        labels: folder of labels with the same names, or one file.
        allow_missing: score the cases that have both, and list the others.
        ignore: value of label voxels that are not scored. Default: as the model says that made the masks.

    Returns:
        The scores; NaN stands for a score that does not exist.

    Raises:
        DataError: masks and labels that cannot be read or do not fit together; all of them are listed.
        UsageError: no such file or folder.
    """
    with _quiet(None):
        from pcl_auto.evaluation.scores import evaluate_on_record

        evaluation, _ = evaluate_on_record(Path(predictions), Path(labels), ignored=ignore, allow_missing=allow_missing)
        return evaluation


def _workspace(folder: PathLike | None) -> Workspace:
    from pcl_auto.workspace.folders import Workspace

    return Workspace.find(None if folder is None else Path(folder))


@contextmanager
def _quiet(listener: Listener | None) -> Iterator[Listener]:
    """Yield a listener that reaches the caller, and leave nnU-Net's environment variables as they were.

    Raises:
        ResourceError: in place of what the system says where disk or memory do not suffice.
    """
    from pcl_auto.workspace.events import silent
    from pcl_auto.workspace.processes import reaching_caller
    from pcl_auto.workspace.resources import as_resource_error

    before = _variables_of_nnunet()
    try:
        with reaching_caller(silent if listener is None else listener) as hear:
            yield hear
    except Exception as error:
        refusal = as_resource_error(error)
        if refusal is None:
            raise
        raise refusal from error
    finally:
        for name in _variables_of_nnunet():
            del os.environ[name]
        os.environ.update(before)


def _variables_of_nnunet() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(("nnUNet_", "TQDM_DISABLE"))}


def _refuse_outside(name: str, value: float | None, minimum: float, maximum: float | None = None) -> None:
    if value is None or (value >= minimum and (maximum is None or value <= maximum)):
        return
    expected = f"{minimum} or more" if maximum is None else f"{minimum} to {maximum}"
    raise UsageError(
        Problem(
            code="usage.out-of-range",
            what=f"{name} is out of range",
            where=name,
            expected=expected,
            found=str(value),
            fix="give a number in this range, or leave it out",
        )
    )
