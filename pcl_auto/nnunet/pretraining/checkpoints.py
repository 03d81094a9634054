"""Save and resume a pre-training, and write what it ends with in the formats of nnssl and nnU-Net."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from pcl_auto.errors import StateError
from pcl_auto.nnunet.checkpoint_files import OWN_KEY, UNTRAINED, plain, read_checkpoint, write_checkpoint
from pcl_auto.nnunet.pretrained.find import ADAPTATION_PLAN
from pcl_auto.nnunet.pretraining.network import without_last_layers
from pcl_auto.workspace.files import write_json
from pcl_auto.workspace.run_record import FINAL, LATEST, PREVIOUS


def save(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the state of a pre-training; the one before stays for when this is damaged."""
    write_checkpoint(folder / LATEST, dict(content), previous=folder / PREVIOUS)


def read_latest(folder: Path, device: torch.device) -> tuple[dict[str, Any] | None, StateError | None]:
    """Read the state that a pre-training was stopped with; where it is damaged, the one before.

    Returns:
        the state, None where it has not begun; and why the one before was taken, or None.

    Raises:
        StateError: the checkpoint cannot be read, and there is none before it.
    """
    latest, previous = folder / LATEST, folder / PREVIOUS
    if not latest.is_file() and not previous.is_file():
        return None, None
    try:
        return read_checkpoint(latest, device), None
    except StateError as error:
        if not previous.is_file():
            raise
        content = read_checkpoint(previous, device)
        # So that it stays the one before when the next is written.
        previous.replace(latest)
        return content, error


def write_finished(
    folder: Path,
    network: nn.Module,
    adaptation_plan: Mapping[str, Any],
    init_args: Mapping[str, Any],
    untrained: Iterable[int],
) -> None:
    """Write the weights, with and beside what they are; equal pre-trainings leave equal bytes.

    Args:
        folder: of the pre-training.
        network: nnU-Net's; its last layers are left out.
        adaptation_plan: see :func:`pcl_auto.nnunet.pretraining.adaptation_plan.make_adaptation_plan`.
        init_args: plans, configuration and data set, as nnU-Net's checkpoints have them.
        untrained: stages of the decoder that have not learned; stock nnU-Net asks for their weights too.
    """
    described = plain(dict(adaptation_plan))
    write_json(folder / ADAPTATION_PLAN, described)
    write_checkpoint(
        folder / FINAL,
        {
            "network_weights": {
                name: value.detach().cpu() for name, value in without_last_layers(network.state_dict()).items()
            },
            "nnssl_adaptation_plan": described,
            "trainer_name": nnUNetTrainer.__name__,
            "init_args": plain(dict(init_args)),
            OWN_KEY: {UNTRAINED: list(untrained)},
        },
    )
    for name in (PREVIOUS, LATEST):
        (folder / name).unlink(missing_ok=True)
