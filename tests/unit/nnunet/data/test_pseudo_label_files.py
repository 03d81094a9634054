"""Pseudo-labels of a round on disk: made, judged, and read back by training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import write_pickle
from kept_times import flip_bit
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from refusal import refused

from pcl_auto.errors import StateError
from pcl_auto.method.pseudo_labels import filter_rows
from pcl_auto.nnunet.data import pseudo_label_files
from pcl_auto.nnunet.data.store import save_label
from pcl_auto.nnunet.data.store_records import case_files
from pcl_auto.nnunet.training.pseudo_label_stage import predict_round
from pcl_auto.recipe.settings import PseudoLabelFilter

CLASSES = {"core": 1}
LABELS = LabelManager({"background": 0, **CLASSES}, None)
SHAPE = (4, 6, 8)


def store(folder: Path, *sizes: int) -> list[str]:
    """A case store whose images are 1 in so many voxels of a row, plus one far from it."""
    folder.mkdir()
    cases = [f"case{number}" for number in range(len(sizes))]
    for case, size in zip(cases, sizes, strict=True):
        image = np.zeros((1, *SHAPE), dtype=np.float32)
        image[0, 0].ravel()[:size] = 1
        image[0, 3, 5, 7] = 1
        region = np.zeros((1, *SHAPE), dtype=np.int16)
        region[0, 2] = -1
        blosc2.asarray(image, urlpath=str(case_files(folder, case)[0]))
        save_label(folder, case, region, {}, SHAPE)
        write_pickle({}, str(case_files(folder, case)[2]))
    return cases


def make_round(
    run: Path,
    number: int,
    cases: list[str],
    one_piece: list[int],
    chosen: PseudoLabelFilter,
) -> tuple[pseudo_label_files.RoundFolder, list[Any]]:
    folder = pseudo_label_files.round_folder(run, number)
    predict_round(
        lambda image: torch.stack([0.5 - image[0], image[0] - 0.5]),
        cases,
        run / "store",
        folder,
        patch_voxels=SHAPE,
        labels_of=LABELS,
        one_piece=one_piece,
        check=(lambda case, image: float(image.mean() * (case != "case0"))) if chosen.min_agreement else None,
        progress=lambda _done, _total: None,
    )
    previous = pseudo_label_files.round_folder(run, number - 1) if number > 1 else None
    rows = pseudo_label_files.keep_ledger(
        folder,
        previous,
        cases,
        {"core": np.array([8.0])},
        classes=CLASSES,
        voxel_ml=1.0,
        margin=chosen.range_margin,
        choose=lambda rows: filter_rows(rows, chosen),
    )
    return folder, rows


def test_a_round_uses_what_lies_in_the_labeled_range(tmp_path: Path) -> None:
    cases = store(tmp_path / "store", 7, 1, 30, 12)
    folder, rows = make_round(tmp_path, 1, cases, [], PseudoLabelFilter(drop_outside_range=True))
    assert pseudo_label_files.used_cases(folder) == ["case0", "case3"]
    facts = pseudo_label_files.summary(rows, ["core"])
    assert (facts["cases"], facts["used"], facts["outside_labeled_range"], facts["kept_best"]) == (4, 2, 2, False)
    assert rows[0].components == {"core": 2}
    _, rows = make_round(tmp_path, 2, cases, [], PseudoLabelFilter())
    assert pseudo_label_files.used_cases(pseudo_label_files.round_folder(tmp_path, 2)) == cases
    assert pseudo_label_files.summary(rows, ["core"])["dice_to_last_round"] == 1.0


def test_one_component_stays_of_a_class_in_one_piece(tmp_path: Path) -> None:
    cases = store(tmp_path / "store", 7)
    folder, rows = make_round(tmp_path, 1, cases, [1], PseudoLabelFilter())
    assert rows[0].components == {"core": 1}
    assert rows[0].volumes_ml == {"core": 7.0}
    labels = pseudo_label_files.read_labels(folder.cases, "case0")
    assert np.flatnonzero(labels).tolist() == list(range(7))


def test_where_all_are_outside_the_nearest_is_used(tmp_path: Path) -> None:
    cases = store(tmp_path / "store", 1, 2, 30)
    folder, rows = make_round(tmp_path, 1, cases, [], PseudoLabelFilter(drop_outside_range=True))
    assert pseudo_label_files.used_cases(folder) == ["case1"]
    assert pseudo_label_files.summary(rows, ["core"])["kept_best"] is True


def test_agreement_is_on_record_and_decides(tmp_path: Path) -> None:
    cases = store(tmp_path / "store", 7, 30)
    folder, rows = make_round(tmp_path, 1, cases, [], PseudoLabelFilter(min_agreement=0.1))
    assert [row.agreement for row in rows] == pytest.approx([0.0, 31 / 192])
    assert pseudo_label_files.used_cases(folder) == ["case1"]
    assert pseudo_label_files._read_ledger(folder)[1]["agreement"] == "0.1615"


@pytest.mark.parametrize("which", [1, 2], ids=["label", "properties"])
@pytest.mark.parametrize("damage", [flip_bit, Path.unlink])
def test_f71_a_round_whose_files_are_damaged_is_not_learned_from(
    tmp_path: Path, which: int, damage: Callable[[Path], None]
) -> None:
    cases = store(tmp_path / "store", 7, 12)
    folder, _ = make_round(tmp_path, 1, cases, [], PseudoLabelFilter())
    assert pseudo_label_files.used_cases(folder) == cases
    damage(case_files(folder.cases, "case1")[which])
    with refused(StateError, "run.pseudo-label-damaged") as refusal:
        pseudo_label_files.used_cases(folder)
    assert refusal.problem.found == "case1"
    folder.checksums.unlink()  # of version 0.2
    assert pseudo_label_files.used_cases(folder) == cases


def test_f71_a_pseudo_label_stands_beside_its_own_image(tmp_path: Path) -> None:
    cases = store(tmp_path / "store", 7, 12)
    folder, _ = make_round(tmp_path, 1, cases, [], PseudoLabelFilter())
    link = case_files(folder.cases, "case1")[0]
    link.unlink()
    link.symlink_to(case_files(tmp_path / "store", "case0")[0])
    with refused(StateError, "run.pseudo-label-damaged"):
        pseudo_label_files.used_cases(folder)


def test_f71_blocks_that_cannot_be_unpacked(tmp_path: Path) -> None:
    (case,) = store(tmp_path / "store", 7)
    file = case_files(tmp_path / "store", case)[1]
    file.unlink()
    noise = np.random.default_rng(0).integers(0, 9, (1, *SHAPE)).astype(np.int16)
    save_label(tmp_path / "store", case, noise, {}, SHAPE)
    whole, refused_bytes = file.read_bytes(), []
    for byte in range(len(whole)):
        file.write_bytes(whole[:byte] + bytes([whole[byte] ^ 255]) + whole[byte + 1 :])
        # blosc2 does not see all damage; what it sees is never another exception.
        with suppress(StateError):
            pseudo_label_files.read_labels(tmp_path / "store", case)
            continue
        refused_bytes.append(byte)
    assert len(refused_bytes) > 100
    file.write_bytes(whole[:-40])
    with refused(StateError, "plan.stored-case-unreadable"):
        pseudo_label_files.read_labels(tmp_path / "store", case)
