"""Keep the pseudo-labels of a round in files: cases as nnU-Net reads them, and the ledger that says which are used."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from pcl_auto.errors import Problem, StateError, format_names
from pcl_auto.method.label_maps import Classes
from pcl_auto.method.pseudo_labels import KEPT, LedgerRow, assess_pseudo_label
from pcl_auto.nnunet.data import store_records
from pcl_auto.nnunet.data.cases import StoredCases, reading
from pcl_auto.nnunet.data.store import publish_case, save_label
from pcl_auto.nnunet.data.store_records import case_files, is_stored
from pcl_auto.workspace.atomic import staging_folder
from pcl_auto.workspace.files import link_relative, read_json, read_table, refusing_nonsense, write_json, write_text

# Beside nnU-Net's own properties of a case.
AGREEMENT_KEY = "pclauto_agreement"


@dataclass(frozen=True)
class RoundFolder:
    """``pseudo_labels/round_k`` of a run: the cases that training reads, and the ledger, written last."""

    path: Path

    @property
    def cases(self) -> Path:
        """The folder in nnU-Net's format; it holds nothing but cases."""
        return self.path / "cases"

    @property
    def ledger(self) -> Path:
        """One line per case: volumes, change, and whether it is used."""
        return self.path / "ledger.csv"

    @property
    def checksums(self) -> Path:
        """Checksums of the files in :attr:`cases`, as they were written; rounds of version 0.2 have none."""
        return self.path / "checksums.json"

    @property
    def shifts(self) -> Path:
        """The shift of each class's logit, in a round whose volumes are matched."""
        return self.path / "logit_shifts.json"

    @property
    def complete(self) -> bool:
        """True once every case of the round was pseudo-labeled."""
        return self.ledger.is_file()


def round_folder(run: Path, number: int) -> RoundFolder:
    """Return the folder of the pseudo-labels of round ``number`` of the run in folder ``run``."""
    return RoundFolder(run / "pseudo_labels" / f"round_{number}")


def last_check_folder(run: Path) -> RoundFolder:
    """Return the folder of a few pseudo-labels by the network that came out of the last round."""
    return RoundFolder(run / "pseudo_labels" / "last_check")


def read_labels(folder: Path, case: str) -> np.ndarray:
    """Read the stored label map of a case, shape (z, y, x); outside the nonzero region it is background."""
    cases = StoredCases(str(folder), [case])
    _, seg, _, _ = cases.load_case(case)
    with reading(lambda: cases):
        labels: np.ndarray = np.maximum(seg[0], 0)
    return labels


def read_agreement(folder: Path, case: str) -> float | None:
    """Read the agreement that is kept with a stored pseudo-label, None where nobody looked at it."""
    agreement: float | None = StoredCases(str(folder), [case]).load_case(case)[3].get(AGREEMENT_KEY)
    return agreement


def keep_pseudo_label(
    folder: RoundFolder,
    store: Path,
    case: str,
    labels: np.ndarray,
    region: np.ndarray,
    properties: dict[str, Any],
    labels_of: LabelManager,
    patch_voxels: tuple[int, ...],
) -> None:
    """Put the pseudo-label (1, z, y, x) of a stored case into the folder of a round, as nnU-Net reads it.

    ``region`` is -1 outside the nonzero region of the scan.
    """
    # As in nnU-Net's own files: background outside the nonzero region is marked, foreground stays.
    labels[(labels == 0) & (region < 0)] = -1
    properties["class_locations"] = DefaultPreprocessor._sample_foreground_locations(labels, sampled_from(labels_of))
    with staging_folder(folder.cases) as staged:
        save_label(staged, case, labels, properties, patch_voxels)
        link_relative(case_files(staged, case)[0], case_files(store, case)[0])
        publish_case(staged, folder.cases, case)


def sampled_from(labels_of: LabelManager) -> list[Any]:
    """List what nnU-Net's loader draws the centers of patches from: classes or regions, and all that is not ignored."""
    drawn = labels_of.foreground_regions if labels_of.has_regions else labels_of.foreground_labels
    return [*drawn, (-1, *labels_of.all_labels)] if labels_of.has_ignore_label else drawn


def keep_ledger(
    folder: RoundFolder,
    previous: RoundFolder | None,
    cases: Sequence[str],
    labeled: dict[str, np.ndarray],
    *,
    classes: Classes,
    voxel_ml: float,
    margin: float,
    choose: Callable[[list[LedgerRow]], list[LedgerRow]],
) -> list[LedgerRow]:
    """Judge the round's pseudo-labels against the labeled cases and the last round, and write the ledger.

    Args:
        folder: of the round.
        previous: of the last round, which may have had fewer cases; None where there was none.
        cases: of the round.
        labeled: volumes of each class in the labeled cases, in milliliters.
        classes: foreground classes or regions.
        voxel_ml: volume of a voxel in milliliters.
        margin: see :func:`pcl_auto.method.pseudo_labels.assess_pseudo_label`.
        choose: marks the rows that are not to be used.
    """
    rows = [
        assess_pseudo_label(
            case,
            read_labels(folder.cases, case),
            read_labels(previous.cases, case) if previous is not None and is_stored(previous.cases, case) else None,
            labeled,
            classes=classes,
            voxel_ml=voxel_ml,
            margin=margin,
            agreement=read_agreement(folder.cases, case),
        )
        for case in cases
    ]
    rows = choose(rows)
    files = [file for case in cases for file in case_files(folder.cases, case)[1:]]
    write_json(folder.checksums, store_records.checksums(files))
    _write_ledger(folder, [row.as_dict() for row in rows])
    return rows


def _write_ledger(folder: RoundFolder, rows: Sequence[Mapping[str, Any]]) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(rows[0]) if rows else ["case"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder.ledger, table.getvalue())


def _read_ledger(folder: RoundFolder) -> list[dict[str, str]]:
    return read_table(folder.ledger, ("case", "used"), lambda name: name.startswith("volume_ml_"))


def used_cases(folder: RoundFolder, labeled: Collection[str] = ()) -> list[str]:
    """Read the cases that the round trains on from its ledger.

    Raises:
        StateError: one of the ``labeled`` is among them: a pseudo-label never stands in for a label. Or files of the
            round are not as they were written.
    """
    used = [row["case"] for row in _read_ledger(folder) if row["used"] == "1"]
    if not set(used).isdisjoint(labeled):
        raise StateError(
            Problem(
                code="run.pseudo-label-beside-label",
                what="pseudo-labels of cases that have a label",
                where=str(folder.ledger),
                found=", ".join(sorted(set(used) & set(labeled))),
                fix="remove the folder of the round and repeat the command: it makes the pseudo-labels again",
            )
        )
    refuse_damaged(folder.path, used)
    return used


def refuse_damaged(place: Path, cases: Iterable[str]) -> None:
    """Refuse pseudo-labels of the round in the folder ``place`` that are not as they were written.

    Raises:
        StateError: files are damaged, or the image beside a pseudo-label is that of another case.
    """
    folder = RoundFolder(place)
    if not folder.checksums.is_file():
        return
    recorded, damaged = read_json(folder.checksums, {...: object}), []
    for case in cases:
        image, *labels = case_files(folder.cases, case)
        if image.resolve().name != image.name or not store_records.hold(labels, recorded):
            damaged.append(case)
    if damaged:
        raise StateError(
            Problem(
                code="run.pseudo-label-damaged",
                what="pseudo-labels are not as they were written",
                where=str(folder.cases),
                found=format_names(damaged),
                fix="restore the folder, or train again with --restart",
            )
        )


def volumes_ml(folder: RoundFolder, classes: Iterable[str]) -> dict[str, dict[str, float]]:
    """Read the volume of each class in each case from the ledger, in milliliters."""
    names = list(classes)
    with refusing_nonsense(folder.ledger):
        return {row["case"]: {name: float(row[f"volume_ml_{name}"]) for name in names} for row in _read_ledger(folder)}


def discard(folder: RoundFolder) -> None:
    """Take the pseudo-labels of a rolled-back round out of use; the ledger stays, as a record."""
    _write_ledger(folder, [{**row, "used": 0, "remarks": "rolled back"} for row in _read_ledger(folder)])
    shutil.rmtree(folder.cases, ignore_errors=True)


def summary(rows: Sequence[LedgerRow], classes: Sequence[str]) -> dict[str, Any]:
    """Sum up a round's ledger in a few numbers."""
    changes = [row.change_dice for row in rows if row.change_dice is not None]
    return {
        "cases": len(rows),
        "used": sum(row.used for row in rows),
        # None passed the judgment, and some are used nevertheless.
        "kept_best": any(remark.startswith(KEPT) for row in rows for remark in row.remarks),
        "outside_labeled_range": sum(row.outside != (0, 0.0) for row in rows),
        "dice_to_last_round": float(np.mean(changes)) if changes else None,
        "vanished": [name for name in classes if rows and all(row.volumes_ml[name] == 0 for row in rows)],
    }
