"""Write down the commands that make what a comparison lacks, with the folders that are known."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcl_auto.errors import PclautoError
from pcl_auto.inference.mask_record import read_record
from pcl_auto.report.find_baseline import first_run, steps_of
from pcl_auto.training.find_model import model_options
from pcl_auto.training.run_facts import RunFacts
from pcl_auto.workspace.files import read_kept
from pcl_auto.workspace.folders import DatasetFolder, Workspace

_PLAN = {"task": {"root": str, ...: object}, ...: object}
SCANS, LABELS, OUT = "SCANS", "LABELS", "predictions"


def shell_path(path: Path) -> str:
    """Quote a path for a shell, from the working folder or the home folder on where it lies there: no user's name."""
    if path.is_relative_to(Path.cwd()):
        return shlex.quote(str(path.relative_to(Path.cwd())))
    if path.is_relative_to(Path.home()):
        return f"~/{shlex.quote(str(path.relative_to(Path.home())))}"
    return shlex.quote(str(path))


def evaluation_commands(
    run: RunFacts, workspace: Workspace, model: Path | None, scores: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Return the commands that evaluate ``model`` as ``scores`` were made, and report.

    Args:
        run: the run that is reported.
        workspace: of the run.
        model: a model folder; None for the baseline that will have been trained last.
        scores: an evaluation of ``run`` to be matched; None where there is none, and the data set's test scans, if it
            has labels of them, are taken.
    """
    scans, labels = _scored_folders(scores) if scores is not None else _test_folders(run, workspace)
    masks = _free(Path(scores["predictions"]) if scores is not None else Path.cwd() / OUT, model != run.folder.parent)
    options = f"{_workspace_option(workspace)} --supervised-only" if model is None else _model_options(workspace, model)
    plain = "" if scores is None or scores.get("mirroring") is not False else " --no-mirroring"
    return (
        f"pclauto predict {scans} -o {shell_path(masks)}{options}{plain}",
        f"pclauto evaluate {shell_path(masks)} {labels}",
        f"pclauto report{_model_options(workspace, run.folder.parent)}",
    )


def _scored_folders(scores: Mapping[str, Any]) -> tuple[str, str]:
    """Return the folders of the scans and labels of an evaluation, as far as they are known."""
    try:
        record = read_record(Path(scores["predictions"]))
    except PclautoError:
        record = None
    entries = [] if record is None else record.scans.values()
    folders = {Path(path).parent for entry in entries for files in entry.files for path, *_ in files}
    scans = shell_path(folders.pop()) if len(folders) == 1 else SCANS
    return scans, shell_path(Path(scores["labels"]))


def _test_folders(run: RunFacts, workspace: Workspace) -> tuple[str, str]:
    """Return the folders of the data set's test scans and of their labels, as far as it has some."""
    data = DatasetFolder(workspace.preprocessed / run.identity["dataset"])
    content = read_kept(data.plan_file, _PLAN)
    if content is None:
        return SCANS, LABELS
    folders = [Path(content["task"]["root"]) / name for name in ("imagesTs", "labelsTs")]
    scans, labels = (
        shell_path(folder) if folder.is_dir() and any(folder.iterdir()) else name
        for folder, name in zip(folders, (SCANS, LABELS), strict=True)
    )
    return scans, labels


def _free(masks: Path, of_baseline: bool) -> Path:  # noqa: FBT001 (private)
    """Return a folder for masks that is not there yet, named after ``masks``."""
    name = f"{masks.name}_baseline" if of_baseline else masks.name
    names = [name, *(f"{name}_{number}" for number in range(2, 100))]
    return next((masks.with_name(each) for each in names if not masks.with_name(each).exists()), masks)


def _model_options(workspace: Workspace, model: Path) -> str:
    options = model_options(workspace, model, baseline=True).removeprefix(workspace.option)
    return _workspace_option(workspace) + options.replace(str(model), shell_path(model))


def _workspace_option(workspace: Workspace) -> str:
    option = shlex.split(workspace.option)
    return f" {option[0]} {shell_path(Path(option[1]))}" if option else ""


def scoring_command(scores: Mapping[str, Any]) -> str | None:
    """Return the command that scores the masks of an evaluation again; None where they are gone."""
    masks = Path(scores["predictions"])
    if not masks.is_dir():
        return None
    return f"pclauto evaluate {shell_path(masks)} {shell_path(Path(scores['labels']))}"


def training_command(run: RunFacts, workspace: Workspace) -> str | None:
    """Return the command that trains the baseline of ``run``; None where no command has its number of steps."""
    command = [str(part) for part in run.record.get("command", [])]
    if not run.steps_before:
        if command[1:2] != ["train"]:
            return None
        # Masks to begin with are no part of a baseline, and a second start is none of its own.
        kept = [part for part in _without(command[1:], "--initial-pseudo-labels") if part != "--restart"]
        return shlex.join(["pclauto", *kept, "--supervised-only"])
    first, identity, steps = first_run(run), run.identity, steps_of(run)
    if first is None or first.identity.get("start") or "budget_s" in first.identity or steps % first.steps_per_epoch:
        return None
    recipe = [
        part for name in ("--recipe", "--set", "--pretrained") for part in _options(first.record["command"], name)
    ]
    split_file = DatasetFolder(workspace.preprocessed / identity["dataset"]).split_file(run.split.name)
    settled = [
        *(*recipe, "--configuration", identity["configuration"], "--seed", str(identity["seed"])),
        *("--epochs", str(steps // first.steps_per_epoch), "--supervised-only"),
    ]
    begun = f"pclauto train {shlex.quote(identity['dataset'])} --split {shell_path(split_file)} "
    return begun + shlex.join(settled) + _workspace_option(workspace)


def _without(command: Sequence[str], name: str) -> list[str]:
    """Return a command without an option and its value."""
    before = ["", *command]
    return [
        part
        for part, previous in zip(command, before, strict=False)
        if name not in (part, previous) and not part.startswith(f"{name}=")
    ]


def _options(command: Sequence[str], name: str) -> list[str]:
    """Return an option with its value, as often as a command gave it."""
    found = []
    for part, following in zip(command, [*command[1:], ""], strict=True):
        if part == name:
            found += [name, following]
        elif part.startswith(f"{name}="):
            found += [name, part.removeprefix(f"{name}=")]
    return found
