"""Resolve what ``pclauto train`` is asked for to a run: data set, split, recipe, folder of the model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from pcl_auto.data.checks.check_files import CheckedLabel
from pcl_auto.data.checks.shown_classes import judge_split
from pcl_auto.data.labels import has_regions
from pcl_auto.data.split import (
    Correction,
    Split,
    choose_split,
    cross_validation,
    draw_split,
    read_split,
    with_corrections,
)
from pcl_auto.errors import DataError, Problem, StateError, UsageError, format_names
from pcl_auto.nnunet.pretrained.find import FoundSource, find_checkpoint
from pcl_auto.nnunet.training.run_settings import NNUNET_FOLDS, RunSettings
from pcl_auto.planning.inputs import check_inputs, known_checks
from pcl_auto.planning.plan import Plan, read_plan
from pcl_auto.recipe.changes import load_changed
from pcl_auto.recipe.settings import Pretrained, Pretraining, Recipe
from pcl_auto.recipe.time_budget import Fitted, format_duration, parse_budget, read_fit
from pcl_auto.training.initial_masks import InitialMasks, find_initial_masks, refuse_unused_masks, warn_of_other_masks
from pcl_auto.training.pretrained_start import refuse_both_starts, resolve_pretrained
from pcl_auto.training.run_inputs import refuse_other_meaning
from pcl_auto.workspace.files import file_digest, read_json, refuse_irregular
from pcl_auto.workspace.folders import DatasetFolder, Workspace
from pcl_auto.workspace.run_record import RECORD, is_trained, read_record
from pcl_auto.workspace.shapes import CORRECTION

JOINT_TRAINER, SUPERVISED_TRAINER = "nnUNetTrainerPCL", "nnUNetTrainerPCLSupervised"
# Of a split, from the name of a file.
# A record of the workspace can be given, too.
_SPLIT_FILE = {
    "labeled": [str], "validation?": [str], "unlabeled?": [str], "hidden?": [str], "history?": [CORRECTION],
    "name?": object, "seed?": object, "schema_version?": object,
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9](?!.*__)[A-Za-z0-9._-]{0,119}")
# Names in plans files must not hold nnU-Net's separator.
PLANS_PREFIX = "nnUNetPlans"


@dataclass(frozen=True)
class TrainRequest:
    """Options of ``pclauto train``."""

    dataset: str | None = None
    labeled: int | None = None
    labeled_cases: tuple[str, ...] = ()
    split_file: Path | None = None
    # In place of all of these, a split that is settled already.
    split: Split | None = None
    validation: int = 0
    seed: int = 0
    # A name, the path of a TOML file, or the recipe itself.
    recipe: str | Recipe = "default"
    # What is changed in it, each as "table.key=value".
    settings: tuple[str, ...] = ()
    epochs: int | None = None
    # Wall-clock time for the whole command: the schedule is fitted to it.
    budget: str | None = None
    configuration: str | None = None
    device: str = "auto"
    workers: int | None = None
    supervised_only: bool = False
    # Without rounds too, mirror as the recipe says, not as stock nnU-Net does.
    recipe_mirroring: bool = False
    deterministic: bool = False
    restart: bool = False
    # A model that segments these classes already, in place of the supervised epochs: a checkpoint, or its folder.
    start_from: Path | None = None
    # Weights of any network to begin with: a checkpoint, its folder, a hub's address, or "auto"; goes before the
    # recipe's own.
    pretrained: str = ""
    # If it has to be that checkpoint: its SHA-256.
    pretrained_digest: str = ""
    # A folder of masks CASE.nii.gz of unlabeled cases, to begin with.
    initial_pseudo_labels: Path | None = None
    # Behind that model, where it is one that this training goes on from.
    steps_before: int = 0
    # Of a cross-validation over the labeled cases; None trains one model on all of them.
    folds: int | None = None
    prepare_only: bool = False
    # The state after the supervised start: read if it is there, else written; for recipes that differ in the rounds.
    shared_start: Path | None = None
    # Whether the curves are written for TensorBoard too.
    tensorboard: bool = False
    # Whether ``pclauto predict`` takes this model when none is named.
    remember: bool = True
    # By the clock that a budget runs on.
    asked_at: float = field(default_factory=monotonic, compare=False)


@dataclass(frozen=True)
class Run:
    """A run as it will be or as it is: data, split, settings, and the folder of its model.

    ``settings``: what its trainer reads. ``start``: the model whose rounds it goes on with, if any. ``pretrained``: the
    weights that its supervised start begins with, if any. ``fitted``: the schedule that fits the time budget
    ``budget_s``; until there is one, the settings have the recipe's own. ``initial``: the masks that it begins with, if
    any.
    """

    data: DatasetFolder
    plan: Plan
    split: Split
    settings: RunSettings
    configuration: str
    trainer: str
    plans_name: str
    model: Path
    fold: int | None = None
    start: Path | None = None
    pretrained: FoundSource | None = None
    budget_s: int | None = None
    fitted: Fitted | None = None
    initial: InitialMasks = field(default_factory=InitialMasks)
    # The digest of each label that it learns or chooses with.
    labels: dict[str, str] = field(default_factory=dict)
    # What its labels do not show.
    warnings: tuple[Problem, ...] = ()

    @property
    def recipe(self) -> Recipe:
        """Recipe of the run, with its schedule as it will be trained."""
        return self.settings.recipe

    @property
    def joint(self) -> bool:
        """True if the run has rounds; a baseline has none."""
        return self.trainer == JOINT_TRAINER

    @property
    def budget_file(self) -> Path:
        """File of the schedule that fits the time budget, for this run and for its baseline."""
        return self.data.budget_file(self.plans_name, self.configuration)

    @property
    def folder(self) -> Path:
        """Folder of the run, ``fold_all`` of the model, or that of its fold."""
        return self.model / f"fold_{self.fold_name}"

    @property
    def fold_name(self) -> str:
        """Fold as nnU-Net names it."""
        return "all" if self.fold is None else str(self.fold)

    @property
    def finished(self) -> bool:
        """True once the model is trained to the end, and validated."""
        return is_trained(self.folder)

    def with_fit(self, fitted: Fitted) -> Run:
        """Return the run with the schedule that was fitted to its time budget."""
        recipe = replace(self.recipe, schedule=fitted.schedule)
        return replace(self, settings=replace(self.settings, recipe=recipe), fitted=fitted)


def resolve_runs(request: TrainRequest, workspace: Workspace) -> list[Run]:
    """Resolve a request to its runs, one for each fold; nothing is written.

    Raises:
        StateError, UsageError: see :func:`resolve_run`; folds that the labeled cases do not allow; a run that is there
            has other classes or channels.
    """
    run = resolve_run(request, workspace)
    runs = _folds_of(run, request)
    for each in runs if not request.restart else []:
        if (each.folder / RECORD).is_file():
            refuse_other_meaning(each.folder, read_record(each.folder), each.plan.dataset_json)
    return runs


def _folds_of(run: Run, request: TrainRequest) -> list[Run]:
    if request.folds is None:
        return [run]
    if run.split.validation:
        raise UsageError(
            Problem(
                code="split.folds-and-validation",
                what="a cross-validation holds out cases itself",
                where="--folds and --validation",
                fix="keep one of them",
            )
        )
    if run.split.corrected:
        raise UsageError(
            Problem(
                code="split.folds-and-corrections",
                what="a cross-validation would score by corrected pseudo-labels",
                where="--folds",
                fix="leave out --folds, or add the corrected masks to the data set and plan again",
            )
        )
    return [replace(run, fold=fold) for fold in range(len(cross_validation(run.split.labeled, request.folds)))]


def resolve_run(request: TrainRequest, workspace: Workspace) -> Run:
    """Resolve data set, split, recipe and folder of a run on all labeled cases; nothing is written.

    Raises:
        StateError: nothing was planned, or the input changed since.
        DataError: labels that cannot be learned from.
        UsageError: cases, numbers, recipe or configuration that do not exist.
    """
    data = workspace.dataset(request.dataset)
    plan = read_plan(data)
    split = apart_from_recorded(resolve_split(request, plan), data)
    refuse_overridden_labels(split, data)
    plan = replace(plan, corrected={case: data.correction_file(case, mask) for case, mask in split.corrected.items()})
    labels = check_inputs(plan, split, data)
    warnings = _judge_labels(split, labels, plan, request.folds)
    recipe = load_changed(request.recipe, request.settings)
    budget_s = _budget_s(request)
    if request.epochs is not None:
        recipe = replace(recipe, schedule=recipe.schedule.scaled_to(request.epochs))
    start = None if request.start_from is None else find_checkpoint(request.start_from)
    if start is not None:
        recipe = replace(recipe, schedule=replace(recipe.schedule, supervised_epochs=0))
    configuration = plan.configuration_named(request.configuration)
    recipe, pretrained = _pretrained_of(recipe, request, workspace, data, plan, configuration, split)
    if pretrained is not None and request.pretrained_digest not in ("", pretrained.digest):
        what, fix = "the checkpoint is not the one that the command began with", "restore it, or begin anew"
        raise StateError(Problem("pretrained.changed", what, str(pretrained.file), fix))
    _refuse_nothing_learned(recipe, request, pretrained)
    joint = not request.supervised_only and bool(split.unlabeled)
    if joint and has_regions(plan.dataset_json["labels"]):
        _refuse_what_regions_lack(recipe)
    initial = InitialMasks()
    if request.initial_pseudo_labels is not None:
        refuse_unused_masks(recipe, supervised_only=request.supervised_only, started=start is not None)
        initial = find_initial_masks(request.initial_pseudo_labels, plan, split, known_checks(data))
    name = "_".join(
        [
            split.name,
            recipe.name,
            *([f"e{request.epochs}"] if request.epochs is not None else []),
            *([f"b{format_duration(budget_s)}"] if budget_s is not None else []),
            *(["deterministic"] if request.deterministic else []),
            *([f"cv{request.folds}"] if request.folds is not None else []),
            *([f"from{file_digest(start)[:6]}"] if start is not None else []),
            *([f"pre{pretrained.digest[:6]}"] if pretrained is not None else []),
            *([f"masks{initial.digest}"] if initial.files else []),
        ]
    )
    plans_name = f"{PLANS_PREFIX}_{name}"
    trainer = JOINT_TRAINER if joint else SUPERVISED_TRAINER
    model = workspace.results / data.name / f"{trainer}__{plans_name}__{configuration}"
    settings = RunSettings(
        recipe, request.seed, split.name, deterministic=request.deterministic, folds=request.folds or NNUNET_FOLDS,
        recipe_mirroring=request.recipe_mirroring or not request.supervised_only,
        pretrained="" if pretrained is None else pretrained.digest,
    )  # fmt: skip
    run = Run(
        data, plan, split, settings, configuration, trainer, plans_name, model, start=start, pretrained=pretrained,
        budget_s=budget_s, initial=initial, labels={case: label.digest for case, label in labels.items()},
        warnings=(*warnings, *initial.warnings, *warn_of_other_masks(model, initial)),
    )  # fmt: skip
    if budget_s is None or not run.budget_file.is_file():
        return run
    return run.with_fit(read_fit(run.budget_file, recipe))


def _pretrained_of(
    recipe: Recipe,
    request: TrainRequest,
    workspace: Workspace,
    data: DatasetFolder,
    plan: Plan,
    configuration: str,
    split: Split,
) -> tuple[Recipe, FoundSource | None]:
    """Return the weights to begin with, known by what is in them, and the recipe without how they were made."""
    recipe = replace(recipe, pretraining=Pretraining())
    if request.start_from is not None:
        refuse_both_starts(request.pretrained, request.start_from)
        return replace(recipe, pretrained=Pretrained()), None
    source = request.pretrained or recipe.pretrained.source
    if not source:  # how to go on from weights is no setting then
        return replace(recipe, pretrained=Pretrained()), None
    found = resolve_pretrained(source, workspace, data, plan, configuration, split)
    if recipe.pseudo_labels.restart_network and not request.supervised_only:
        raise UsageError(
            Problem(
                code="pretrained.not-with-new-networks",
                what="every round of the recipe begins with a new network, which would have none of the weights",
                where="--pretrained and pseudo_labels.restart_network",
                fix="leave out one of the two",
            )
        )
    return replace(recipe, pretrained=replace(recipe.pretrained, source="")), found


def _judge_labels(
    split: Split, labels: Mapping[str, CheckedLabel], plan: Plan, folds: int | None
) -> tuple[Problem, ...]:
    """Return warnings about classes that the labels of a split do not show; only these labels are known here.

    Raises:
        DataError: they show no class at all, or no fold's do.
    """
    cases = split.labeled
    # Other numbers of folds are refused for what they are.
    folds = folds if folds is not None and 2 <= folds <= len(cases) else None
    parts = [] if folds is None else [part for part, _ in cross_validation(cases, folds)]
    counts = {case: label.counts for case, label in labels.items()}
    problems, warnings = judge_split(split, counts, plan.dataset_json["labels"], parts)
    if problems:
        raise DataError(problems)
    return tuple(warnings)


def _budget_s(request: TrainRequest) -> int | None:
    if request.budget is None:
        return None
    if request.epochs is not None:
        fix = "keep one of them: each decides how long the training is"
        raise UsageError(
            Problem("budget.and-epochs", "a number of epochs and a budget of time", "--epochs and --budget", fix)
        )
    return parse_budget(request.budget)


def _refuse_nothing_learned(recipe: Recipe, request: TrainRequest, pretrained: FoundSource | None) -> None:
    schedule = recipe.schedule
    problems = []
    given = "--start-from" if request.start_from is not None else "--pretrained"
    if (request.start_from is not None or pretrained is not None) and request.prepare_only:
        fix = "leave out --prepare-only; for stock nnU-Net there is `nnUNetv2_train -pretrained_weights`"
        problems.append(
            Problem(
                "model.start-unknown-to-stock",
                "stock nnU-Net does not know the model to start from",
                given,
                fix,
            )
        )
    if schedule.epochs == 0 or (schedule.supervised_epochs == 0 and request.start_from is None):
        fix = "give the recipe supervised epochs, or a model with --start-from; and rounds to learn in"
        problems.append(
            Problem(
                "recipe.nothing-to-begin-with",
                "the recipe has nothing to begin with",
                recipe.name,
                fix,
                found=str(schedule),
            )
        )
    if problems:
        raise UsageError(problems)


def _refuse_what_regions_lack(recipe: Recipe) -> None:
    """Refuse settings that need classes that exclude each other."""
    method = recipe.unlabeled_loss.method
    needing = {
        "pseudo_labels.match_volumes": (
            recipe.pseudo_labels.match_volumes > 0,
            "0",
            f"{recipe.pseudo_labels.match_volumes:g}",
        ),
        "pseudo_label_filter.largest_component": (recipe.pseudo_label_filter.largest_component, "false", "true"),
        "unlabeled_loss.method": (method != "pseudo_labels", repr("pseudo_labels"), repr(method)),
    }
    fix = "switch it off in the recipe, or declare classes in dataset.json instead of regions"
    problems = [
        Problem("recipe.not-with-regions", f"{key} is not possible with regions", recipe.name, fix, expected, found)
        for key, (wanted, expected, found) in needing.items()
        if wanted
    ]
    if problems:
        raise UsageError(problems)


def resolve_split(request: TrainRequest, plan: Plan) -> Split:
    """Draw or read the split that a request describes.

    Raises:
        UsageError: it asks for cases or labels that are not there, or in more than one way.
    """
    if request.split is not None:
        return request.split
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
                code="split.file-and-validation",
                what="a split file names the validation cases itself",
                where="--split and --validation",
                fix="leave out --validation",
            )
        )
    if sum(ways.values()) > 1:
        raise UsageError(
            Problem(
                code="split.several-ways",
                what="more than one way to choose labeled cases",
                where=" and ".join(name for name, given in ways.items() if given),
                fix="keep one of them",
            )
        )
    if request.split_file is not None:
        named = _read_split_file(request.split_file)
        corrected = dict.fromkeys(entry.case for entry in named.history)
        chosen = choose_split(
            with_label,
            without_label,
            labeled=[case for case in named.labeled if case not in corrected],
            validation=named.validation,
            unlabeled=None if named.unlabeled is None else [*named.unlabeled, *corrected],
            seed=request.seed,
        )
        if opened := {*named.hidden} & {*named.labeled, *named.validation}:
            raise UsageError([_hidden_and_open(case, str(request.split_file)) for case in sorted(opened)])
        if not named.history:
            return chosen
        if wrong := {*corrected} - ({*named.labeled} & {*chosen.unlabeled}):
            raise UsageError([_not_corrected(case, str(request.split_file)) for case in sorted(wrong)])
        name = request.split_file.stem.split("_plus")[0]
        return with_corrections(replace(chosen, name=name) if _NAME.fullmatch(name) else chosen, named.history)
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


def refuse_overridden_labels(split: Split, data: DatasetFolder) -> None:
    """Make sure that corrections stand in for no label: each is of a case that the split it names kept unlabeled.

    Raises:
        UsageError: corrections of other cases, or of splits that are not on record.
    """
    problems = []
    for entry in split.history:
        file = data.split_file(entry.split)
        before = read_split(file) if file.is_file() else None
        if before is None or entry.case not in {*before.unlabeled, *before.corrected}:
            problems.append(_not_corrected(entry.case, str(file)))
    if problems:
        raise UsageError(problems)


def _not_corrected(case: str, where: str) -> Problem:
    return Problem(
        code="split.not-corrected",
        what=f"case {case!r} of the history has no pseudo-label that could have been corrected",
        where=where,
        expected="an unlabeled case of the split that the correction names, listed as labeled since",
        fix="take the case out of the history, or restore the split that was recorded",
    )


def apart_from_recorded(split: Split, data: DatasetFolder) -> Split:
    """Rename ``split`` where its name was recorded with other cases.

    So a data set that has grown since can be trained again without touching what was trained before.
    """
    file = data.split_file(split.name)
    if not file.is_file() or read_split(file) == split:
        return split
    digest = hashlib.sha256(json.dumps(split.as_dict(), sort_keys=True).encode()).hexdigest()[:6]
    return replace(split, name=f"{split.name}_g{digest}")


class _SplitFile(NamedTuple):
    """Cases that a file of ``--split`` names; ``unlabeled`` is None for all others."""

    labeled: Sequence[str]
    validation: Sequence[str]
    unlabeled: Sequence[str] | None
    hidden: Sequence[str]
    history: Sequence[Correction]


def _hidden_and_open(case: str, where: str) -> Problem:
    what, fix = f"case {case!r} is hidden, and its label is used", "take it out of one of the two"
    return Problem("split.hidden-and-open", what, where, fix, found="hidden, and labeled or validation")


def _read_split_file(path: Path) -> _SplitFile:
    refuse_irregular(path, UsageError, "name a file with a split")
    try:
        content = read_json(path, _SPLIT_FILE)
        history = [Correction(**entry) for entry in content.get("history", [])]
    except (StateError, TypeError, ValueError) as error:
        fix = "write such a file; those under splits/ of a workspace are examples"
        expected = 'JSON with "labeled": [case, …] and, if wanted, "validation": [case, …]'
        found = error.problems[0].found if isinstance(error, StateError) else str(error)
        raise UsageError(Problem("split.unreadable", "not a split", str(path), fix, expected, found)) from error
    if unknown := sorted(content.keys() - {name.rstrip("?") for name in _SPLIT_FILE}):
        what, fix = "keys of a split file that are not read", "correct or remove them"
        expected = ", ".join(name.rstrip("?") for name in _SPLIT_FILE)
        raise UsageError(Problem("split.unknown-key", what, str(path), fix, expected, format_names(unknown)))
    none: list[str] = []
    return _SplitFile(
        content["labeled"],
        content.get("validation", none),
        content.get("unlabeled"),
        content.get("hidden", none),
        history,
    )
