"""Suggest which unlabeled cases of a run to label next, and why: ``pclauto suggest``."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pcl_auto.annotation.review import output_folder
from pcl_auto.data.labels import foreground, values_of
from pcl_auto.method.pseudo_labels import KEPT
from pcl_auto.method.suggestion import diverse_batch, nearest, reasons, standardized, uncertainty
from pcl_auto.nnunet.environment import choose_device, prepare_environment
from pcl_auto.planning.inputs import require_planned_images
from pcl_auto.planning.plan import Plan, PlannedCase, read_plan
from pcl_auto.training.review_record import earlier_record
from pcl_auto.training.run_facts import RunFacts, last_checkpoint, last_round, read_unchanged_run, run_folder
from pcl_auto.training.run_inputs import refuse_other_inputs
from pcl_auto.workspace.events import Listener
from pcl_auto.workspace.files import read_json, refusing_nonsense, table_cell, write_json, write_text
from pcl_auto.workspace.folders import DatasetFolder, Workspace
from pcl_auto.workspace.output import sole_writer_in
from pcl_auto.workspace.processes import output_to
from pcl_auto.workspace.shapes import LABELS

if TYPE_CHECKING:
    import torch

RECORD = "suggestions.json"
TABLE = "suggestions.csv"
SCHEMA_VERSION = 1
# In the run's folder.
_FEATURES = "suggest_features"
# Remarks of a ledger on what the round did, not on volumes.
_DECISIONS = ("dropped: ", KEPT, "rolled back")


@dataclass(frozen=True)
class Suggestion:
    """A case to label.

    ``uncertainty``: its rank among all, in (0, 1]. ``distance``: to the nearest labeled case, in deviations of the
    network's features. ``picture``: the file.
    """

    case: str
    reasons: list[str]
    uncertainty: float
    distance: float
    picture: str


def suggest_cases(
    model: Path, workspace: Workspace, output: Path | None, *, number: int = 5, device: str = "auto", listener: Listener
) -> tuple[Path, list[Suggestion]]:
    """Choose unlabeled cases that are uncertain and unlike all others, and draw each with its pseudo-label.

    No label is read but through what the run's ledgers say of the labeled volumes.

    Args:
        model: a model folder of a run with rounds.
        workspace: where its data set is planned.
        output: the folder for pictures and tables; None for ``suggest`` in the run's own.
        number: so many, or all where there are fewer.
        device: for the network.
        listener: hears ``features``.

    Returns:
        the folder, and the cases in the order in which to label them.

    Raises:
        StateError: no pseudo-labels, no checkpoint, or a folder with other content; images or classes that are not the
            run's; files of the run that are not as its training left them.
        NumericalError: the network's output is not finite.
        UsageError: no such device, or a folder that others read.
        LockedError: another process writes into the folder.
    """
    chosen = choose_device(device)
    run = read_unchanged_run(run_folder(model))
    last_round(run)  # there is one
    folder = output_folder(output, run.folder / "suggest")
    earlier_record(folder, RECORD, run.folder.parent)  # not even a lock goes into a folder of others
    data = workspace.dataset(run.identity["dataset"])
    plan = read_plan(data)
    refuse_other_inputs(run, plan, data)
    with sole_writer_in(folder):
        return folder, _suggest(run, plan, data, folder, number, chosen, listener)


def _suggest(
    run: RunFacts,
    plan: Plan,
    data: DatasetFolder,
    folder: Path,
    number: int,
    device: torch.device,
    listener: Listener,
) -> list[Suggestion]:
    """Choose cases, and write the folder."""
    last, stored = last_round(run)
    earlier = earlier_record(folder, RECORD, run.folder.parent)
    planned = plan.cases
    checkpoint = last_checkpoint(run.folder)
    rows = {row["case"]: row for row in last.rows}
    cases, labeled = sorted(rows), sorted(run.split.labeled)
    plan.require([*cases, *labeled])
    require_planned_images(plan, cases, data)
    prepare_environment()
    with output_to(Path("/dev/null")):  # what nnU-Net prints
        from pcl_auto.nnunet.data.pseudo_label_files import refuse_damaged
        from pcl_auto.nnunet.data.store_records import refuse_damaged_store
        from pcl_auto.nnunet.inference.case_features import features_of

        refuse_damaged(stored.parent, cases)
        refuse_damaged_store(data.store(run.store), [*cases, *labeled])
        found = features_of(
            run.folder.parent, checkpoint, data.store(run.store), [*cases, *labeled], run.folder / _FEATURES, device,
            lambda done, total: listener("features", {"done": done, "total": total}),
        )  # fmt: skip
    with refusing_nonsense(run.folder / _FEATURES):
        vectors = standardized(np.array([found[case].vector for case in [*cases, *labeled]], dtype=float))
    own, known = vectors[: len(cases)], vectors[len(cases) :]
    dice = {
        "rounds disagree": _dice_between_rounds(run, cases),
        "transforms disagree": _numbers(rows, cases, "agreement"),
        "blurred or brighter it is segmented otherwise": np.array([found[case].consistency for case in cases]),
        "the network is unsure, by its own probabilities": np.array([found[case].expected_dice for case in cases]),
    }
    remarks = [_on_volumes(rows[case].get("remarks", "")) for case in cases]
    weights = uncertainty(
        {**{name: -values for name, values in dice.items()}, "volumes": np.array([*map(len, remarks)], dtype=float)}
    )
    distances = nearest(own, known)
    suggestions = [
        Suggestion(
            case=cases[row],
            reasons=reasons(row, dice, remarks, distances),
            uncertainty=round(float(weights[row]), 4),
            distance=round(float(distances[row]), 4),
            picture=str(folder / f"{cases[row]}.png"),
        )
        for row in diverse_batch(own, known, weights, number)
    ]
    _write(run, last.number, stored, planned, suggestions, folder)
    for case in _suggested(earlier) & set(cases) - {entry.case for entry in suggestions}:
        (folder / f"{case}.png").unlink(missing_ok=True)
    return suggestions


def _suggested(record: Mapping[str, Any]) -> set[str]:
    """Return the cases of an earlier suggestion, whose pictures are ours."""
    entries = record.get("suggestions")
    cases = [entry.get("case") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return {case for case in cases if isinstance(case, str)}


def _dice_between_rounds(run: RunFacts, cases: Sequence[str]) -> np.ndarray:
    """Return each case's mean Dice to the round before over all rounds, shape (N,); NaN where there was one round.

    Late rounds hardly change anything: which cases took long to settle is seen in all of them.
    """
    changes: dict[str, list[float]] = {case: [] for case in cases}
    for each in run.rounds:
        for row in each.rows:
            if row["case"] in changes and row.get("dice_to_last_round") and row.get("remarks") != "rolled back":
                changes[row["case"]].append(float(row["dice_to_last_round"]))
    return np.array([np.mean(values) if values else math.nan for values in changes.values()])


def _numbers(rows: Mapping[str, Mapping[str, str]], cases: Sequence[str], column: str) -> np.ndarray:
    return np.array([float(rows[case].get(column) or math.nan) for case in cases])


def _on_volumes(remarks: str) -> list[str]:
    return [remark for remark in remarks.split("; ") if remark and not remark.startswith(_DECISIONS)]


def _write(
    run: RunFacts,
    number: int,
    stored: Path,
    planned: Mapping[str, PlannedCase],
    suggestions: Sequence[Suggestion],
    folder: Path,
) -> None:
    """Write the record first, so that the folder is known as ours from then on; then the table and the pictures."""
    from pcl_auto.inference.preview import draw
    from pcl_auto.nnunet.data.images import read_image
    from pcl_auto.nnunet.inference.export import pseudo_label

    listed = [asdict(entry) for entry in suggestions]
    model = run.folder.parent
    record = {"schema_version": SCHEMA_VERSION, "model": str(model), "round": number, "suggestions": listed}
    write_json(folder / RECORD, record)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["case", "uncertainty", "distance", "reasons"])
    writer.writerows(
        [table_cell(entry.case), entry.uncertainty, entry.distance, table_cell("; ".join(entry.reasons))]
        for entry in suggestions
    )
    write_text(folder / TABLE, table.getvalue())
    labels = foreground(read_json(model / "dataset.json", LABELS)["labels"])
    classes = {name: values_of(value) for name, value in labels.items()}
    for entry in suggestions:
        mask, _ = pseudo_label(model, run.identity["configuration"], stored, entry.case)
        image, properties = read_image(planned[entry.case].files)
        grid = properties["sitk_stuff"]
        title = f"{entry.case}: {entry.reasons[0]}"
        draw(image[0], mask, grid["spacing"], grid["direction"], classes, title, Path(entry.picture))
