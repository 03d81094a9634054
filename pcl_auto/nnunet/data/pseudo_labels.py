"""Make and store the pseudo-labels of a round as nnU-Net reads them, with a ledger."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from pcl_auto.errors import Problem, StateError
from pcl_auto.method.label_maps import Classes, keep_largest
from pcl_auto.method.pseudo_labels import KEPT, LedgerRow, assess_pseudo_label, drop_disagreeing, drop_outside
from pcl_auto.nnunet.data.cases import StoredCases
from pcl_auto.nnunet.data.store import case_files, is_stored, publish_case, save_label
from pcl_auto.recipe.settings import PseudoLabelFilter
from pcl_auto.workspace.atomic import staging_folder
from pcl_auto.workspace.files import link_relative, write_text

# Logits (K, z, y, x) of a preprocessed image (C, z, y, x).
Segmenter = Callable[[torch.Tensor], torch.Tensor]
# How far the segmentations of a case's preprocessed image agree under transforms.
AgreementCheck = Callable[[str, np.ndarray], float]
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
    def complete(self) -> bool:
        """True once every case of the round was pseudo-labeled."""
        return self.ledger.is_file()


def round_folder(run: Path, number: int) -> RoundFolder:
    """Return the folder of the pseudo-labels of round ``number`` of the run in folder ``run``."""
    return RoundFolder(run / "pseudo_labels" / f"round_{number}")


def last_check_folder(run: Path) -> RoundFolder:
    """Return the folder of a few pseudo-labels by the network that came out of the last round."""
    return RoundFolder(run / "pseudo_labels" / "last_check")


def predict_round(
    segment: Segmenter,
    cases: Sequence[str],
    store: Path,
    folder: RoundFolder,
    *,
    patch_voxels: tuple[int, ...],
    labels_of: LabelManager,
    one_piece: Sequence[int],
    check: AgreementCheck | None,
    progress: Callable[[int, int], None],
) -> None:
    """Pseudo-label ``cases`` from the case store; those that an interrupted try has finished are kept.

    Stored are label maps, with regions too: nnU-Net makes regions of them as of labels.

    Of the classes ``one_piece`` only the largest connected component stays; what ``check`` finds is kept with the case.
    """
    images = StoredCases(str(store), list(cases))
    for index, case in enumerate(cases):
        if not is_stored(folder.cases, case):
            data, region, _, properties = images.load_case(case)
            image = data[:]
            labels = keep_largest(label_map(segment, labels_of, image), one_piece)[None]
            if check is not None:
                properties[AGREEMENT_KEY] = check(case, image)
            # As in nnU-Net's own files: background outside the nonzero region is marked, foreground stays.
            labels[(labels == 0) & (region[:] < 0)] = -1
            properties["class_locations"] = DefaultPreprocessor._sample_foreground_locations(
                labels, _sampled_from(labels_of)
            )
            with staging_folder(folder.cases) as staged:
                save_label(staged, case, labels, properties, patch_voxels)
                link_relative(case_files(staged, case)[0], case_files(store, case)[0])
                publish_case(staged, folder.cases, case)
        progress(index + 1, len(cases))


def label_map(segment: Segmenter, labels_of: LabelManager, image: np.ndarray) -> np.ndarray:
    """Segment a preprocessed image (C, z, y, x); of regions the values they are written with, shape (z, y, x)."""
    return labels_from(labels_of, segment(torch.from_numpy(image)))


def labels_from(labels_of: LabelManager, logits: torch.Tensor) -> np.ndarray:
    """Turn logits (K, z, y, x) to a label map (z, y, x); of regions the values they are written with."""
    # nnU-Net would look for the largest of the classes on the CPU.
    found = labels_of.convert_logits_to_segmentation(logits) if labels_of.has_regions else logits.argmax(0)
    labels: np.ndarray = found.cpu().numpy().astype(np.int16)
    return labels


def _sampled_from(labels_of: LabelManager) -> list[Any]:
    """List what nnU-Net's loader draws the centers of patches from: classes or regions, and all that is not ignored."""
    drawn = labels_of.foreground_regions if labels_of.has_regions else labels_of.foreground_labels
    return [*drawn, (-1, *labels_of.all_labels)] if labels_of.has_ignore_label else drawn


def read_labels(folder: Path, case: str) -> np.ndarray:
    """Read the stored label map of a case, shape (z, y, x); outside the nonzero region it is background."""
    _, seg, _, _ = StoredCases(str(folder), [case]).load_case(case)
    labels: np.ndarray = np.maximum(seg[0], 0)
    return labels


def _read_agreement(folder: Path, case: str) -> float | None:
    agreement: float | None = StoredCases(str(folder), [case]).load_case(case)[3].get(AGREEMENT_KEY)
    return agreement


def keep_ledger(
    folder: RoundFolder,
    previous: RoundFolder | None,
    cases: Sequence[str],
    labeled: dict[str, np.ndarray],
    *,
    classes: Classes,
    voxel_ml: float,
    chosen: PseudoLabelFilter,
) -> list[LedgerRow]:
    """Judge the round's pseudo-labels against the labeled cases and the last round, and write the ledger."""
    rows = [
        assess_pseudo_label(
            case,
            read_labels(folder.cases, case),
            None if previous is None else read_labels(previous.cases, case),
            labeled,
            classes=classes,
            voxel_ml=voxel_ml,
            margin=chosen.range_margin,
            agreement=_read_agreement(folder.cases, case),
        )
        for case in cases
    ]
    if chosen.drop_outside_range:
        rows = drop_outside(rows)
    if chosen.min_agreement:
        rows = drop_disagreeing(rows, chosen.min_agreement)
    _write_ledger(folder, [row.as_dict() for row in rows])
    return rows


def _write_ledger(folder: RoundFolder, rows: Sequence[Mapping[str, Any]]) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(rows[0]) if rows else ["case"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder.ledger, table.getvalue())


def _read_ledger(folder: RoundFolder) -> list[dict[str, str]]:
    with folder.ledger.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def used_cases(folder: RoundFolder, labeled: Collection[str] = ()) -> list[str]:
    """Read the cases that the round trains on from its ledger.

    Raises:
        StateError: one of the ``labeled`` is among them: a pseudo-label never stands in for a label.
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
    return used


def volumes_ml(folder: RoundFolder, classes: Iterable[str]) -> dict[str, dict[str, float]]:
    """Read the volume of each class in each case from the ledger, in milliliters."""
    names = list(classes)
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
