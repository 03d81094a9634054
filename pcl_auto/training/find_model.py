"""Find the model that a command means: the one that was named, or the one that was trained last."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from pcl_auto.errors import Problem, StateError, UsageError
from pcl_auto.training.request import JOINT_TRAINER, SUPERVISED_TRAINER, Run
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.lock import held_folders
from pcl_auto.workspace.run_record import is_fold

# Of a model folder in nnUNet_results: data set, model.
MODEL_DEPTH = 2


def find_model(workspace: Workspace, name: str | None, *, supervised_only: bool = False) -> Path:
    """Find the model folder that a command works on, or the folder of the fold that was named.

    Args:
        workspace: where models are looked for by name.
        name: a model folder, a fold's folder, or the name of a model in the workspace; None for the one trained last
            with unlabeled cases, or else without, of the data set that was trained last.
        supervised_only: take the baseline of that data set that was trained last.

    Raises:
        StateError: there is no such model, or more than one.
        UsageError: a name together with ``supervised_only``.
    """
    if name is not None and supervised_only:
        what, fix = "a model is named, and the last baseline is asked for", "give --model or --supervised-only"
        raise UsageError(Problem("usage.model-and-baseline", what, f"--model {name} --supervised-only", fix))
    known = sorted(path.parent for path in workspace.results.glob("Dataset*/*/plans.json"))
    if name is None:
        last = _last_models(workspace)
        for trainer in (SUPERVISED_TRAINER,) if supervised_only else (JOINT_TRAINER, SUPERVISED_TRAINER):
            if trainer in last:
                return last[trainer]
        code = "model.no-baseline" if supervised_only else "model.missing"
        what = "no trained baseline" if supervised_only else "no trained model"
        raise StateError(_no_model(code, what, workspace, known))
    given = Path.cwd() / name if name not in (".", "./") else Path.cwd()
    named = [model for model in known if name == model.name]
    if len(named) > 1:
        raise StateError(
            Problem(
                code="model.ambiguous",
                what=f"{len(named)} data sets have a model {name!r}",
                where=str(workspace.results),
                expected=" | ".join(map(str, named)),
                fix="give the path of one of these with --model",
            )
        )
    for candidate in [*([given] if name and given.is_dir() else []), *named]:
        if (candidate / "plans.json").is_file():
            return candidate.resolve()
        if is_fold(candidate):
            return candidate.parent.resolve() / candidate.name
    raise StateError(_no_model("model.unknown", f"no model {name!r}", workspace, known))


def remember_model(workspace: Workspace, run: Run) -> None:
    """Let the commands that follow take the model of ``run`` where none is named."""
    # Relative, so that a copy of the workspace means its own; the latest is the last.
    model = run.model.relative_to(workspace.results).as_posix()
    workspace.remember(last_dataset=run.data.name, last_run={run.trainer: model})


def model_options(workspace: Workspace, model: Path, *, baseline: bool = False) -> str:
    """Return the options with which a command works on ``model`` in this workspace, as few as possible.

    Args:
        workspace: where the command is given.
        model: a model folder.
        baseline: whether the command knows --supervised-only.
    """
    if model == _found(workspace, None):
        which = ""
    elif baseline and model == _found(workspace, None, supervised_only=True):
        which = " --supervised-only"
    else:
        which = f" --model {shlex.quote(model.name if model == _found(workspace, model.name) else str(model))}"
    return workspace.option + which


def _found(workspace: Workspace, name: str | None, *, supervised_only: bool = False) -> Path | None:
    try:
        return find_model(workspace, name, supervised_only=supervised_only)
    except StateError:
        return None


def _last_models(workspace: Workspace) -> dict[str, Path]:
    """Find the models trained last on the data set that was trained last, by trainer."""
    last: dict[str, str] = workspace.remembered().get("last_run", {})
    # The file may name whatever it likes; models lie in folders of data sets.
    inside = {trainer: Path(model) for trainer, model in last.items() if len(Path(model).parts) == MODEL_DEPTH}
    models = {t: workspace.results / model for t, model in inside.items() if ".." not in model.parts}
    data = [model.parent for model in models.values()][-1:]
    return {t: model for t, model in models.items() if model.parent in data and (model / "plans.json").is_file()}


def _no_model(code: str, what: str, workspace: Workspace, known: Sequence[Path]) -> Problem:
    fix = "train one with `pclauto train`, or name a model folder with --model"
    running = [model.name for data in workspace.results.glob("Dataset*") for model in held_folders(data)]
    if running:
        fix = f"wait for the training of {' and '.join(running)} (`pclauto status` shows it), or {fix}"
    return Problem(
        code=code,
        what=what,
        where=str(workspace.results),
        expected=" | ".join(model.name for model in known),
        fix=f"{fix}{workspace.elsewhere}",
    )
