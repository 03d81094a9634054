"""Say what makes a run this run: a run folder goes on only with the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcl_auto.data.checks.check_files import image_stats
from pcl_auto.data.labels import meaning
from pcl_auto.recipe.load import recorded_recipe
from pcl_auto.training.request import Run
from pcl_auto.training.run_inputs import content_digest, digest_of, planned_images, recorded_meaning
from pcl_auto.workspace.files import file_digest


def identity(run: Run, plans: dict[str, Any]) -> dict[str, Any]:
    """Return what makes a run this run; a run folder goes on only with the same."""
    return {
        "dataset": run.data.name,
        "configuration": run.configuration,
        "trainer": run.trainer,
        "split": run.split.as_dict(),
        "seed": run.settings.seed,
        "recipe": run.recipe.as_dict(),
        "deterministic": run.settings.deterministic,
        "fold": run.fold_name,
        "start": None if run.start is None else file_digest(run.start),
        "plan": digest_of(plans),
        "input": _input_digest(run),
        "input_content": input_content(run),
        **meaning(run.plan.dataset_json),
        **({} if run.budget_s is None else {"budget_s": run.budget_s}),
        **({} if run.pretrained is None else {"pretrained": run.pretrained.digest}),
        **({"initial_pseudo_labels": dict(run.initial.digests)} if run.initial.files else {}),
    }


def _input_digest(run: Run) -> str:
    """Return one value for the files that a run learns from; hidden labels are not among them."""
    cases = run.plan.cases
    labels = [cases[case].label for case in (*run.split.labeled, *run.split.validation)]
    stats = [
        *(
            (case, cases[case].size, cases[case].mtime_ns)
            for case in sorted({*run.split.labeled, *run.split.validation, *run.split.unlabeled})
        ),
        *(image_stats(label) for label in labels if label is not None),
    ]
    return digest_of(stats)


def input_content(run: Run) -> str:
    """Return one value for what is in the files of :func:`_input_digest`, wherever and since when they lie there."""
    return content_digest(run.split, planned_images(run.plan.cases), run.labels)


def compared(
    record: Mapping[str, Any], identity_now: Mapping[str, Any], run: Run
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the identity in the ``record`` of a run's folder and that of now, as they are to be compared."""
    now = dict(identity_now)
    recorded = {**record["identity"], "recipe": recorded_recipe(record["identity"]["recipe"])}
    # Which earlier versions did not record.
    recorded |= recorded_meaning(run.folder, record) or meaning(run.plan.dataset_json)
    if "input_content" in recorded:
        # Which says it alone: a copy of the same images and labels may have other times.
        now["input"] = recorded["input"]
    else:  # of version 0.2
        recorded["input_content"] = now["input_content"]
    return recorded, now
