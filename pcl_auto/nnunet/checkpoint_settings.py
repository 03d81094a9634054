"""Read the settings that nnU-Net's checkpoints carry beside their weights; refuse what could not be honored."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nnunetv2
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerBN import nnUNetTrainerBN
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from pcl_auto.errors import Problem, StateError

# Those whose networks are U-Nets of the plans; other trainers of nnU-Net that build a network build transformers.
_BUILDERS = (nnUNetTrainer.build_network_architecture, nnUNetTrainerBN.build_network_architecture)
_OURS = re.compile(r"nnUNetTrainer|nnUNetTrainerPCL\w*", re.ASCII)
_CLASS = re.compile(r"[A-Za-z_]\w{0,200}", re.ASCII)


@dataclass(frozen=True)
class CheckpointSettings:
    """Settings of a model's folds, which all have the same.

    ``configuration``: of the plans. ``trainer``: builds the network. ``mirror_axes``: of the patch, along which an
    image may be mirrored.
    """

    configuration: str
    trainer: Any
    mirror_axes: tuple[int, ...] | None


def checkpoint_settings(folds: Mapping[Path, Mapping[str, Any]], plans: PlansManager) -> CheckpointSettings:
    """Return the settings of a model's folds.

    Args:
        folds: the content of each checkpoint, by its file.
        plans: nnU-Net's plans, beside them.

    Raises:
        StateError: a setting is none, another in another fold, or asks for a network that is not built here.
    """
    found = [_settings(file, content, plans) for file, content in folds.items()]
    for file, other in zip(folds, found, strict=True):
        if other != found[0]:
            raise StateError(
                Problem(
                    code="checkpoint.folds-differ",
                    what="folds of one model have other settings",
                    where=str(file),
                    expected=_told(found[0]),
                    found=_told(other),
                    fix="take the fold out of the model's folder, or name one fold with --model",
                )
            )
    name, trainer_name, axes = found[0]
    return CheckpointSettings(name, _trainer(trainer_name, next(iter(folds))), axes)


_Settings = tuple[str, str, "tuple[int, ...] | None"]


def _told(settings: _Settings) -> str:
    configuration, trainer, axes = settings
    return f"{configuration} of {trainer}, mirrored along {axes or 'no axis'}"


def _settings(file: Path, content: Mapping[str, Any], plans: PlansManager) -> _Settings:
    arguments = content.get("init_args")
    name = arguments.get("configuration") if isinstance(arguments, Mapping) else None
    if not isinstance(name, str) or name not in plans.available_configurations:
        raise StateError(other_configuration(file, plans, name))
    trainer = content.get("trainer_name")
    if not isinstance(trainer, str):
        raise StateError(_unknown_trainer(file, trainer))
    # Checkpoints of the first versions of nnU-Net 2 lack it, which mirrors nothing then.
    axes = content.get("inference_allowed_mirroring_axes")
    if axes is not None and not _are_axes(axes, len(plans.get_configuration(name).patch_size)):
        raise StateError(
            Problem(
                code="checkpoint.mirroring",
                what="a checkpoint that asks for mirroring along no axes that there are",
                where=str(file),
                expected="axes of the patch, each once, or none",
                found=str(axes)[:100],
                fix="restore the checkpoint from its source",
            )
        )
    return name, trainer, None if axes is None else tuple(axes)


def other_configuration(file: Path, plans: PlansManager, name: Any) -> Problem:
    """Say that a checkpoint is of a configuration that its plans do not have."""
    return Problem(
        code="checkpoint.other-configuration",
        what="checkpoint of another configuration",
        where=str(file),
        expected=" | ".join(plans.available_configurations),
        found=str(name),
        fix="restore the plans.json that belongs to it",
    )


def _are_axes(axes: Any, of_patch: int) -> bool:
    fits = isinstance(axes, (list, tuple)) and all(type(axis) is int and 0 <= axis < of_patch for axis in axes)
    return fits and len(set(axes)) == len(axes)


def _trainer(name: str, file: Path) -> Any:
    """Return the trainer of that name, of nnU-Net's own ones, whose network is built as it builds it.

    Raises:
        StateError: there is none, as of a trainer that somebody wrote, or its network is no U-Net.
    """
    if _OURS.fullmatch(name):
        return nnUNetTrainer
    folder = str(Path(nnunetv2.__path__[0]) / "training" / "nnUNetTrainer")
    found: Any = None
    if _CLASS.fullmatch(name):
        found = recursive_find_python_class(folder, name, "nnunetv2.training.nnUNetTrainer")
    if not (inspect.isclass(found) and issubclass(found, nnUNetTrainer)):
        raise StateError(_unknown_trainer(file, name))
    trainer: Any = found
    if trainer.build_network_architecture not in _BUILDERS:
        raise StateError(
            Problem(
                code="model.own-network",
                what="a model whose trainer builds another network than the plans describe",
                where=str(file),
                expected="a U-Net",
                found=name,
                fix="segment with nnUNetv2_predict",
            )
        )
    return trainer


def _unknown_trainer(file: Path, name: Any) -> Problem:
    return Problem(
        code="model.unknown-trainer",
        what="a model of a trainer that nnU-Net does not have, which may build another network",
        where=str(file),
        expected="a trainer of nnU-Net or of pclauto",
        found=str(name)[:100],
        fix="segment with nnUNetv2_predict where that trainer is installed; or, if its network is that of the plans, "
        "write nnUNetTrainer as trainer_name into the checkpoint, as nnU-Net's documentation says",
    )


def refuse_other_weights(folds: Sequence[Mapping[str, Any]], files: Sequence[Path], network: Any) -> None:
    """Make sure that the weights of every fold are those of ``network``, and numbers.

    Raises:
        StateError: a fold has weights of other names, shapes or kinds, or some that are not finite.
    """
    expected = {name: _kind(value) for name, value in network.state_dict().items()}
    for file, fold in zip(files, folds, strict=True):
        weights = fold["network_weights"]
        found = {name: _kind(value) for name, value in weights.items()} if isinstance(weights, Mapping) else {}
        if found != expected:
            differing = sorted(str(name) for name in {*found, *expected} if found.get(name) != expected.get(name))
            name = differing[0]
            raise StateError(
                Problem(
                    code="checkpoint.other-network",
                    what="the weights do not fit the plans",
                    where=str(file),
                    expected=f"{name} {expected.get(name, 'is not there')}",
                    found=f"{found.get(name, 'nothing')}, and {len(differing) - 1} more that differ",
                    fix="name a model whose network is nnU-Net's own",
                )
            )
        if broken := [name for name, value in weights.items() if not torch.isfinite(value).all()]:
            what, fix = "weights that are no numbers", "restore the checkpoint from its source, or train again"
            listed = f"{broken[0]}, and {len(broken) - 1} more"
            raise StateError(Problem("checkpoint.not-finite", what, str(file), fix, "finite weights", listed))


def _kind(value: Any) -> str:
    """Return shape and kind of a weight, for which any precision does."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    kind = "" if value.is_floating_point() else f" {value.dtype}".replace("torch.", "")
    layout = "" if value.layout == torch.strided else f" {value.layout}".replace("torch.", "")
    return f"{tuple(value.shape)}{kind}{layout}"
