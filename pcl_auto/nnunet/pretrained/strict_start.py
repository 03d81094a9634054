"""Begin the rounds with a model that segments the same classes already: everything of it is taken, and has to fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from pcl_auto.data.labels import meaning
from pcl_auto.errors import Problem, StateError
from pcl_auto.nnunet.checkpoint_files import read_checkpoint
from pcl_auto.nnunet.checkpoint_settings import checkpoint_settings, refuse_other_weights
from pcl_auto.nnunet.network import unwrapped
from pcl_auto.nnunet.trusted_plans import READERS_TO_RAS, require_trusted
from pcl_auto.workspace.files import read_json

# What has to be alike, or the weights mean something else.
_ALIKE = ("architecture", "spacing", "normalization_schemes", "use_mask_for_norm")


def refuse_other_model(
    checkpoint: Path, plans: dict[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> None:
    """Make sure that the model of ``checkpoint`` segments the same classes of the same images with the same network.

    Raises:
        StateError: everything that differs, with the way to make it alike; or the model cannot be read.
    """
    folder = checkpoint.parent.parent
    theirs, their_json = read_json(folder / "plans.json"), read_json(folder / "dataset.json")
    require_trusted(theirs, their_json, folder)
    manager = PlansManager(theirs)
    name = checkpoint_settings({checkpoint: read_checkpoint(checkpoint)}, manager).configuration
    ours, other = plans["configurations"][configuration], manager.get_configuration(name).configuration
    pairs = {
        **{key: (ours[key], other[key]) for key in _ALIKE},
        "transpose_forward": (plans["transpose_forward"], theirs["transpose_forward"]),
        "orientation of scans": tuple(
            "to RAS" if reader in READERS_TO_RAS else "as stored"
            for reader in (plans["image_reader_writer"], theirs["image_reader_writer"])
        ),
        **{key: (value, meaning(their_json)[key]) for key, value in meaning(dataset_json).items()},
    }
    problems = [
        Problem(
            code="model.start-differs",
            what=f"the model to start from has other {key}",
            where=str(checkpoint),
            expected=_short(here),
            found=_short(there),
            fix=f"plan with `pclauto plan --plans {folder / 'plans.json'}`, and take a recipe that keeps the "
            "planned network (default does)",
        )
        for key, (here, there) in pairs.items()
        if here != there
    ]
    if problems:
        raise StateError(problems)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 200 else text[:200] + " …"


def load_weights(trainer: Any, checkpoint: Path) -> None:
    """Give the network of ``trainer`` the weights of ``checkpoint``.

    Raises:
        StateError: they are those of another network.
    """
    if not trainer.was_initialized:
        trainer.initialize()
    network, content = unwrapped(trainer.network), read_checkpoint(checkpoint, trainer.device)
    refuse_other_weights([content], [checkpoint], network)
    network.load_state_dict(content["network_weights"])
