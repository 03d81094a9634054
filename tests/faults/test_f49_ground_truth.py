"""F49: no pseudo-label ever stands in for a label."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from refusal import refused
from tiny_store import SHAPE, make_store

from pcl_auto.errors import StateError
from pcl_auto.nnunet.data import pseudo_label_files
from pcl_auto.nnunet.data.store_records import case_files
from pcl_auto.nnunet.training.joint_trainer import nnUNetTrainerPCL
from pcl_auto.nnunet.training.pseudo_label_stage import PseudoLabelStage, predict_round


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def make_round(run: Path, store: Path, cases: list[str]) -> pseudo_label_files.RoundFolder:
    folder = pseudo_label_files.round_folder(run, 1)
    predict_round(
        lambda image: torch.stack([0.5 - image[0], image[0] - 0.5]), cases, store, folder, patch_voxels=SHAPE,
        labels_of=LabelManager({"background": 0, "core": 1}, None), one_piece=[], check=None,
        progress=lambda _done, _total: None,
    )  # fmt: skip
    pseudo_label_files.keep_ledger(
        folder,
        None,
        cases,
        {"core": np.array([8.0])},
        classes={"core": 1},
        voxel_ml=1.0,
        margin=2.0,
        choose=lambda rows: rows,
    )
    return folder


@pytest.mark.parametrize("group", ["labeled", "validation"])
def test_f49_a_round_with_a_labeled_case_is_not_trained_on(tmp_path: Path, group: str) -> None:
    view = tmp_path / "labeled"
    make_store(view, "a")
    before = digests(view)
    folder = make_round(tmp_path / "run", make_store(tmp_path / "store", "a", "b"), ["a", "b"])
    stage: Any = PseudoLabelStage.__new__(PseudoLabelStage)
    stage._split = SimpleNamespace(**{"labeled": (), "validation": (), group: ("a",)})
    trainer: Any = SimpleNamespace(
        epoch=5,
        stage=stage,
        guard=SimpleNamespace(rounds={1: SimpleNamespace(first_epoch=2)}, labels_of=lambda _number: folder),
        _open_streams=lambda _patches: pytest.fail("training began"),
    )
    with refused(StateError, "run.pseudo-label-beside-label") as refusal:
        nnUNetTrainerPCL.learn_jointly(trainer, 1, 6)
    assert refusal.problem.found == "a"
    assert digests(view) == before


def test_f49_writing_a_pseudo_label_over_a_link_to_a_label_leaves_the_label(tmp_path: Path) -> None:
    view, store = make_store(tmp_path / "labeled", "a"), make_store(tmp_path / "store", "a")
    before = digests(view)
    folder = pseudo_label_files.round_folder(tmp_path / "run", 1)
    folder.cases.mkdir(parents=True)
    # Half a case, so that it is made again; whoever linked it would have its target written to.
    case_files(folder.cases, "a")[1].symlink_to(case_files(view, "a")[1])
    make_round(tmp_path / "run", store, ["a"])
    assert digests(view) == before
    assert not case_files(folder.cases, "a")[1].is_symlink()
