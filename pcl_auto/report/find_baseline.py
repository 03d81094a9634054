"""Find the baseline of a run, nnU-Net alone on the same terms, or say why what is there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcl_auto.errors import StateError
from pcl_auto.nnunet.training.run_settings import KEY, patch_axes
from pcl_auto.training.request import SUPERVISED_TRAINER
from pcl_auto.training.run_facts import RunFacts, read_run, run_folder, run_folders, schedule_of
from pcl_auto.training.run_inputs import recorded_meaning
from pcl_auto.workspace.files import read_kept
from pcl_auto.workspace.run_record import RECORD, has_manifest, read_record


@dataclass(frozen=True)
class RefusedBaseline:
    """A supervised run that is no fair pair: the name of its model, and every reason."""

    model: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        """Return both in one line."""
        return f"{self.model}: {'; '.join(self.reasons)}"


def find_baseline(run: RunFacts) -> Path | None:
    """Find the model folder of the finished supervised run with the split, seed, steps and patches of ``run``."""
    fair = [folder.parent for folder, reasons in _supervised_runs(run) if not reasons]
    # Stock nnU-Net mirrors along all axes; a benchmark has baselines that mirror as a recipe does.
    return min(fair, key=lambda model: (mirror_axes(model, run.identity) is not None, model), default=None)


def find_refused(run: RunFacts) -> RefusedBaseline | None:
    """Find the supervised run that is nearest to a baseline of ``run`` without being one."""
    unfair = [(folder, reasons) for folder, reasons in _supervised_runs(run) if reasons]
    if not unfair:
        return None
    folder, reasons = min(unfair, key=lambda entry: len(entry[1]))
    return RefusedBaseline(folder.parent.name, tuple(reasons))


def _supervised_runs(run: RunFacts) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folder of every supervised run on the data set, and why it is no baseline of ``run``."""
    for file in sorted(run.folder.parent.parent.glob(f"{SUPERVISED_TRAINER}__*/fold_*/{RECORD}")):
        with suppress(StateError, KeyError, TypeError):  # a damaged one is no baseline; `pclauto status` names it
            yield file.parent, _differences(run, file.parent, read_record(file.parent))


def _differences(run: RunFacts, folder: Path, record: Mapping[str, Any]) -> list[str]:
    """List in words what a fair baseline of ``run`` would not differ in."""
    own, other = run.identity, record["identity"]
    fold, other_fold = (_fold_in_words(identity.get("fold", "all")) for identity in (own, other))
    steps, other_steps = steps_of(run), _own_steps(other)
    patches, other_patches = (identity["recipe"]["batch"]["patches"] for identity in (own, other))
    same_split = own["split"] == other["split"]
    same_labels = sorted(own["split"]["labeled"]) == sorted(other["split"]["labeled"])
    # Runs of version 0.2 know size and time of what they learned from alone.
    contents = {identity.get("input_content") for identity in (own, other)} - {None}
    axes, other_axes = (
        mirror_axes(each, identity) for each, identity in ((run.folder.parent, own), (folder.parent, other))
    )
    start = None if run.steps_before else own.get("start")
    first = first_run(run) if run.steps_before else run
    pretrained = None if first is None else first.identity.get("pretrained")
    found = {
        f"configuration {other['configuration']}, not {own['configuration']}": own["configuration"]
        == other["configuration"],
        "other labeled cases": same_labels,
        "the other cases are split otherwise": same_split or not same_labels,
        f"seed {other['seed']}, not {own['seed']}": own["seed"] == other["seed"],
        f"trained on {other_fold}, not {fold}": fold == other_fold,
        f"{other_steps} steps, not {steps}": steps == other_steps,
        f"{other_patches or 'the planned number of'} patches a step, not {patches or 'the planned number'}": patches
        == other_patches,
        "a network of another width": own["recipe"]["network"] == other["recipe"]["network"],
        "images or labels were changed in between": not same_split
        or (own["input"] == other["input"] and len(contents) < 2),
        "other classes or channels": recorded_meaning(run.folder, run.record) == recorded_meaning(folder, record),
        "begun with another model": start == other.get("start"),
        "begun with other pretrained weights": pretrained == other.get("pretrained"),
        "mirrors its patches in another way": other_axes in (None, axes),
        "its training has not ended": has_manifest(folder),
    }
    return [reason for reason, is_alike in found.items() if not is_alike]


def _fold_in_words(fold: Any) -> str:
    return "all labeled cases" if fold in (None, "all") else f"fold {fold}"


def steps_of(run: RunFacts) -> int:
    """Count the steps behind the network of ``run``, those of the runs that it goes on from included."""
    return run.steps_before + _own_steps(run.identity)


def _own_steps(identity: Mapping[str, Any]) -> int:
    schedule = schedule_of(identity)
    return schedule.epochs * schedule.steps_per_epoch


def mirror_axes(model: Path, identity: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the axes that a model's patches are mirrored along; None for all, as stock nnU-Net does."""
    plans = read_kept(model / "plans.json") or {}
    configuration = plans.get("configurations", {}).get(identity["configuration"], {})
    settings = configuration.get(KEY, {})
    axes = settings.get("mirror_axes")
    is_stock = identity["trainer"] == SUPERVISED_TRAINER and not settings.get("recipe_mirroring", False)
    if axes is None or is_stock or len(axes) == len(configuration["patch_size"]):
        return None
    return tuple(sorted(axes))


def mirroring_in_words(model: Path, identity: Mapping[str, Any]) -> str:
    """Say along which axes a model's patches are mirrored, such as "along z and x"."""
    axes = mirror_axes(model, identity)
    if axes is None:
        return "along every axis"
    plans = read_kept(model / "plans.json") or {}
    names = patch_axes(plans, identity["configuration"])
    return f"along {' and '.join(names[axis] for axis in axes) or 'no axis'}"


def earlier_runs(run: RunFacts) -> list[RunFacts]:
    """Follow ``run`` back over all corrections, as far as the runs are there."""
    found = []
    while run.steps_before:
        model = run.folder.parent.parent / run.split.history[-1].model
        if not run_folders(model):
            break
        run = read_run(run_folder(model))
        found.append(run)
    return found


def first_run(run: RunFacts) -> RunFacts | None:
    """Follow ``run`` back to the run that its corrections began with; None if one on the way is gone."""
    first = [run, *earlier_runs(run)][-1]
    return None if first.steps_before else first
