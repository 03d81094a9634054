"""Tell whether a finished training is as it was left, by what needs neither nnU-Net nor torch.

To import them takes longer than all that a repeated command has to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pcl_auto.errors import StateError
from pcl_auto.nnunet.training.run_settings import read_settings, with_settings
from pcl_auto.planning.plan import require_whole
from pcl_auto.planning.split_plans import holds_masks, prepared_before
from pcl_auto.training.request import Run
from pcl_auto.training.run_identity import compared, identity
from pcl_auto.training.run_inputs import digest_of
from pcl_auto.workspace.files import read_json
from pcl_auto.workspace.run_record import RECORD, check_manifest, has_manifest, read_record

# Of the plans that nnU-Net's trainer has left with the model.
_PLANS = {"foreground_intensity_properties_per_channel": {...: object}, "configurations": {...: {...: object}}}


def trained_before(runs: Sequence[Run]) -> list[Run] | None:
    """Return finished runs as they were trained, if nothing has changed since; else None.

    What was prepared for them is looked at, too: the command makes damaged cases of it anew. Whoever gets None trains,
    which tells what has changed.

    Raises:
        StateError: files of the runs that are gone or hold other bytes, all of them.
    """
    if not all(run.finished and (run.folder / RECORD).is_file() and has_manifest(run.folder) for run in runs):
        return None
    try:
        found = [_as_trained(run) for run in runs]
    except StateError:
        return None
    trained = [run for run in found if run is not None]
    if len(trained) < len(runs):
        return None
    for run in runs:
        check_manifest(run.folder)
    return trained


def _as_trained(run: Run) -> Run | None:
    """Return a run with the settings that it was trained with, if its inputs and what was made of them are the same."""
    if not run.data.split_file(run.split.name).is_file() or (run.budget_s is not None and run.fitted is None):
        return None
    require_whole(run.plan, run.data)
    left = read_json(run.model / "plans.json", _PLANS)
    settings = read_settings(left["configurations"].get(run.configuration, {}), run.plans_name)
    # The others are what was found on the data.
    asked_for = replace(settings, store="", mirror_axes=run.settings.mirror_axes, initial_masks="")
    if asked_for != run.settings:
        return None
    prepared = prepared_before(
        run.plan,
        run.split,
        run.recipe,
        run.data,
        configuration=run.configuration,
        intensities=left["foreground_intensity_properties_per_channel"],
        labels=run.labels,
    )
    if prepared is None or prepared.store != settings.store:
        return None
    if run.initial.files:
        run.initial.require_unchanged()
        view = run.data.initial_view(run.split.name, run.configuration, run.initial.digest)
        if not holds_masks(run.plan, prepared.store, run.initial.files, view, run.data):
            return None
    # With the digest of the plans this compares the intensities, and with that of images and labels what they are of.
    recorded, now = compared(read_record(run.folder), identity(run, prepared.plans), run)
    wanted = with_settings(prepared.plans, run.plans_name, run.configuration, settings)
    plans = read_json(run.data.plans_file(run.plans_name), _PLANS)
    # Other configurations share the file.
    plans["configurations"] = {
        name: plans["configurations"][name] for name in wanted["configurations"] if name in plans["configurations"]
    }
    if recorded != now or digest_of(plans) != digest_of(wanted):
        return None
    return replace(run, settings=settings)
