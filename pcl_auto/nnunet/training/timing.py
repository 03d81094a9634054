"""Time the steps, pseudo-labels and checkpoints of a training on this machine, by making some of each."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch

from pcl_auto.nnunet.data import patch_streams
from pcl_auto.nnunet.data.cases import StoredCases
from pcl_auto.nnunet.data.pseudo_label_files import RoundFolder
from pcl_auto.nnunet.inference.confidence import confidence_in_training, reference_cases
from pcl_auto.nnunet.inference.export import mask_of
from pcl_auto.nnunet.inference.memory_demand import patches_in
from pcl_auto.nnunet.inference.sliding_window import Segmenter, segmenter
from pcl_auto.nnunet.network import full_resolution_only
from pcl_auto.nnunet.training.joint_trainer import nnUNetTrainerPCL
from pcl_auto.nnunet.training.round_guard import CASES_OF_LAST_CHECK
from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised
from pcl_auto.nnunet.training.warped_cases import WarpedCases
from pcl_auto.recipe.time_budget import Costs
from pcl_auto.workspace.resources import peak_memory_mb
from pcl_auto.workspace.run_record import LATEST

WARM_UP_STEPS, MIN_TIMES, MAX_TIMES = 2, 2, 200
MAX_TIMED_CASES = 8


@dataclass(frozen=True)
class Timing:
    """Costs of a training in time, and in MB (2^20 bytes) its memory, a checkpoint, and a round's pseudo-labels.

    ``gpu_memory_mb``: None without a GPU.
    """

    costs: Costs
    memory_mb: int
    gpu_memory_mb: int | None
    checkpoint_mb: float
    round_mb: float


@dataclass(frozen=True)
class _Round:
    segment_s: float = 0.0
    last_check_s: float = 0.0
    streams_s: float = 0.0
    step_s: float = 0.0
    mb: float = 0.0


def measure(trainer: Any, *, seconds: float, beside_s: float, folds: int = 1) -> Timing:
    """Time the parts of what ``trainer``, new and with a folder of its own, is going to do.

    Args:
        trainer: one of ours; it has learned a little afterwards, and is good for nothing else.
        seconds: about how long to look at each kind of step.
        beside_s: what starting Python and nnU-Net takes: the workers of nnU-Net's validation do so too.
        folds: how many such trainings there are.
    """
    with _same_random_numbers():
        try:
            return _measure(trainer, seconds, beside_s, folds)
        finally:
            trainer._close_streams()


def _measure(trainer: Any, seconds: float, beside_s: float, folds: int) -> Timing:
    patches = trainer.configuration_manager.batch_size
    begun = monotonic()
    trainer.on_train_start()
    trainer._open_streams(patches)
    trainer.on_train_epoch_start()
    _repeat(lambda: _step(trainer), 0.0, WARM_UP_STEPS)
    begin_s = monotonic() - begun
    step_s = _repeat(lambda: _step(trainer), seconds)
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        validation_s = _repeat(
            lambda: trainer.validation_step(patch_streams.next_batch(trainer.dataloader_val)), seconds / 4
        )
    latest = trainer.run_folder / LATEST
    _checkpoint_s(trainer, latest)  # the first one has no other to replace
    epoch_s = _checkpoint_s(trainer, latest)
    validated_s = _validation_s(trainer, beside_s, folds) if trainer.has_validation else 0.0
    joint = _Round(step_s=step_s)
    if isinstance(trainer, nnUNetTrainerPCL) and trainer.recipe.schedule.rounds:
        begin_s += _initial_s(trainer)
        joint = _time_round(trainer, seconds)
        if trainer.stage.has_initial:  # the supervised epochs have joint steps too
            step_s = max(joint.step_s, step_s)
    costs = Costs(
        begin_s=begin_s,
        supervised_step_s=step_s,
        # It has as many patches and more to do: where it seems faster, the machine was busy with something else, and
        # the baseline, whose steps are as many, must fit the budget too.
        joint_step_s=max(joint.step_s, step_s),
        validation_step_s=validation_s,
        epoch_s=epoch_s,
        # The way back from a round is one more checkpoint.
        round_s=joint.segment_s + joint.streams_s + epoch_s,
        end_s=folds * (joint.last_check_s + epoch_s + _reference_s(trainer)) + validated_s,
        held_out=trainer.has_validation,
        folds=folds,
    )
    return Timing(costs, peak_memory_mb(), trainer.gpu_memory_mb(), latest.stat().st_size / 2**20, joint.mb)


def _initial_s(trainer: nnUNetTrainerPCL) -> float:
    """Estimate the seconds to make what training begins with, pseudo-labels and warped cases, from one of each."""
    seconds = 0.0
    if trainer.stage.has_initial:
        initial = trainer.stage.initial()
        cases, begun = initial.cases(), monotonic()
        initial.labels_of(cases[0])
        seconds += (monotonic() - begun) * len(cases)
    if trainer.recipe.augmentation.warped_cases:
        warped, begun = WarpedCases(trainer, trainer.split, trainer.stage.labeled), monotonic()
        warped.warp(*warped.pairs[0])
        seconds += (monotonic() - begun) * len(warped.pairs)
    return seconds


def _step(trainer: nnUNetTrainerPCLSupervised) -> None:
    batch = patch_streams.next_batch(trainer.dataloader_train)
    trainer.cases_of_step = list(batch["keys"])
    trainer.train_step(batch)


def _repeat(action: Callable[[], Any], seconds: float, least: int = MIN_TIMES) -> float:
    """Return the mean seconds of ``action``, repeated for about ``seconds``."""
    begun, times = monotonic(), 0
    while times < least or (monotonic() - begun < seconds and times < MAX_TIMES):
        action()
        times += 1
    return (monotonic() - begun) / times


def _checkpoint_s(trainer: Any, file: Path) -> float:
    begun = monotonic()
    trainer.save_checkpoint(str(file))
    return monotonic() - begun


def _time_round(trainer: nnUNetTrainerPCL, seconds: float) -> _Round:
    """Pseudo-label some cases and train on them."""
    store = trainer.data.store(trainer.settings.store)
    tiles = {case: _tiles(trainer, store, case) for case in trainer.split.unlabeled}
    timed = _spread(sorted(tiles, key=lambda case: (tiles[case], case)))
    folder, done, spent = RoundFolder(trainer.run_folder / "timed"), [], 0.0
    trainer._close_streams()
    segment = _showing_all(trainer.stage.segmenter(trainer.network))
    trainer.stage.label(segment, timed[:1], RoundFolder(trainer.run_folder / "warm"), 1)
    for case in timed:
        begun = monotonic()
        trainer.stage.label(_showing_all(trainer.stage.segmenter(trainer.network)), [case], folder, 1)
        spent += monotonic() - begun
        done.append(case)
        if spent > seconds:
            break
    tile_s = spent / sum(tiles[case] for case in done)
    checked = sorted(tiles)[:CASES_OF_LAST_CHECK] if trainer.recipe.collapse_guard.enabled else []

    begun = monotonic()
    trainer.open_joint_streams(folder, done)
    streams_s = monotonic() - begun
    trainer.current_epoch = trainer.recipe.schedule.supervised_epochs  # from here on the teacher follows
    trainer.on_train_epoch_start()
    _repeat(lambda: _step(trainer), 0.0, WARM_UP_STEPS)
    size = sum(file.stat().st_size for file in folder.cases.iterdir() if not file.is_symlink())
    return _Round(
        segment_s=tile_s * sum(tiles.values()),
        last_check_s=tile_s * sum(tiles[case] for case in checked),
        streams_s=streams_s,
        step_s=_repeat(lambda: _step(trainer), seconds),
        mb=size / 2**20 * sum(tiles.values()) / sum(tiles[case] for case in done),
    )


def _showing_all(segment: Segmenter) -> Segmenter:
    """Return ``segment`` with every class in a slab of its own: what a new network finds, often nothing, costs less."""

    def segmented(image: torch.Tensor) -> torch.Tensor:
        logits = segment(image).clone()  # of what inference mode has made nothing may be changed
        certain = logits.abs().max() + 1
        for number, slab in enumerate(logits.tensor_split(len(logits), dim=-1)):
            slab[number] = certain
        return logits

    return segmented


def _spread(cases: Sequence[str]) -> list[str]:
    """Choose some of ``cases``, sorted by size: one from the middle first, so that it may be the only one."""
    places = np.linspace(0, len(cases) - 1, min(MAX_TIMED_CASES, len(cases))).round().astype(int)
    chosen = [cases[place] for place in dict.fromkeys(places.tolist())]
    middle = cases[len(cases) // 2]
    return [middle, *(case for case in chosen if case != middle)]


def _tiles(trainer: Any, folder: Path, case: str) -> int:
    """Count the patches in which nnU-Net's prediction sees a stored case."""
    image, _, _, _ = StoredCases(str(folder), [case]).load_case(case)
    return patches_in(image.shape[1:], trainer.configuration_manager.patch_size)


def _reference_s(trainer: Any) -> float:
    """Estimate the seconds for the confidences of unlabeled cases that a training leaves with its model, from one."""
    folder = trainer.data.store(trainer.settings.store)
    tiles = {case: _tiles(trainer, folder, case) for case in reference_cases(trainer)}
    if not tiles:
        return 0.0
    middle = _spread(sorted(tiles, key=lambda case: (tiles[case], case)))[0]
    begun = monotonic()
    confidence_in_training(trainer, middle)
    return (monotonic() - begun) * sum(tiles.values()) / tiles[middle]


def _validation_s(trainer: Any, beside_s: float, folds: int) -> float:
    """Estimate the seconds of nnU-Net's validation: held-out cases are segmented with mirroring, on their own grids."""
    labeled, held_out = trainer.do_split()
    view = trainer.validation_view if trainer.chooses_best else trainer.labeled_view
    cases = sorted({*labeled, *held_out}) if folds > 1 else held_out
    data, _, _, properties = StoredCases(str(view), held_out).load_case(held_out[0])
    begun = monotonic()
    with full_resolution_only(trainer):
        logits = segmenter(trainer, trainer.network, mirroring=True)(torch.from_numpy(data[:])).cpu()
    mask_of(logits, trainer.plans_manager, trainer.configuration_manager, trainer.label_manager, properties)
    seconds = monotonic() - begun
    all_tiles = sum(_tiles(trainer, view, case) for case in cases)
    return folds * beside_s + seconds * all_tiles / _tiles(trainer, view, held_out[0])


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Draw random numbers inside without changing those that are drawn afterwards."""
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (nnU-Net's loaders draw from it)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
