"""Resolve what ``pclauto pretrain`` is asked for: data set, images, recipe and folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pcl_auto.errors import Problem, StateError, UsageError
from pcl_auto.planning.plan import read_plan
from pcl_auto.recipe.changes import load_changed
from pcl_auto.recipe.settings import PretrainingMethod, Recipe
from pcl_auto.training.pretrain import PretrainingRun
from pcl_auto.training.request import TrainRequest, resolve_split
from pcl_auto.training.run_inputs import digest_of, used_cases
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.run_record import PRETRAINING

METHODS: tuple[PretrainingMethod, ...] = ("masked", "contrastive")
# In place of the name of a split.
ALL = "all"


@dataclass(frozen=True)
class PretrainRequest:
    """Options of ``pclauto pretrain``."""

    dataset: str | None = None
    # The recipe's without one.
    method: str | None = None
    # A name, the path of a TOML file, or the recipe itself.
    recipe: str | Recipe = "default"
    # What is changed in it, each as "table.key=value".
    settings: tuple[str, ...] = ()
    epochs: int | None = None
    split_file: Path | None = None
    # In place of a split, cases that are settled already.
    cases: tuple[str, ...] = ()
    seed: int = 0
    configuration: str | None = None


def resolve_pretraining(request: PretrainRequest, workspace: Workspace) -> PretrainingRun:
    """Resolve a request to a run; nothing is written, and no label is looked at.

    Raises:
        StateError: nothing was planned, or the plan was made before images had digests.
        UsageError: a data set, method, recipe, split or configuration that does not exist.
    """
    recipe = load_changed(request.recipe, request.settings)
    settings = recipe.pretraining
    if request.method is not None:
        settings = replace(settings, method=_method(request.method))
    if request.epochs is not None:
        settings = replace(settings, epochs=request.epochs)
    data = workspace.dataset(request.dataset)
    plan = read_plan(data)
    planned = plan.cases
    split, cases = ALL, sorted(planned)
    if request.split_file is not None:
        chosen = resolve_split(TrainRequest(split_file=request.split_file), plan)
        split, cases = chosen.name, used_cases(chosen)
    elif request.cases:
        split, cases = f"cases-{digest_of(sorted(request.cases))[:6]}", sorted(request.cases)
    if undigested := [case for case in cases if not planned[case].digest]:
        what, fix = "a plan of version 0.2 does not know the content of its images", "run `pclauto plan` again"
        raise StateError(Problem("pretrain.old-plan", what, str(data.plan_file), fix, found=undigested[0]))
    configuration = plan.configuration_named(request.configuration)
    name = "_".join(
        [
            settings.method,
            recipe.name,
            f"e{settings.epochs}",
            split,
            *([f"seed{request.seed}"] if request.seed else []),
        ]
    )
    return PretrainingRun(
        data,
        plan,
        tuple(cases),
        split,
        replace(recipe, pretraining=settings),
        request.seed,
        configuration,
        workspace.results / data.name / PRETRAINING / f"{name}__{configuration}",
    )


def _method(name: str) -> PretrainingMethod:
    for method in METHODS:
        if method == name:
            return method
    what, fix = f"no method {name!r}", "take one of these"
    raise UsageError(Problem("pretrain.unknown-method", what, "--method", fix, " | ".join(METHODS), name))
