"""Save and resume the state of a training, in checkpoints that stock nnU-Net reads.

The network stays nnU-Net's own and the checkpoint says so; what stock nnU-Net knows nothing of lies under one key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from pcl_auto import __version__
from pcl_auto.errors import Problem, StateError
from pcl_auto.nnunet.checkpoint_files import FORMAT, OWN_KEY, plain, read_checkpoint, write_checkpoint
from pcl_auto.nnunet.network import unwrapped
from pcl_auto.nnunet.training.run_settings import start_settings
from pcl_auto.workspace.run_record import FINAL, LATEST, PREVIOUS

# Of nnU-Net's training curves those that are no curves: the time of day at which an epoch began and ended.
_TIMES = ("epoch_start_timestamps", "epoch_end_timestamps")


def save(trainer: nnUNetTrainer, path: Path, epochs_done: int) -> None:
    """Write the state of ``trainer`` whole, in nnU-Net's format and under the name of nnU-Net's own trainer.

    The checkpoint of a finished training holds no times, so that equal trainings leave equal files: how long its epochs
    took stands in ``events.jsonl``.
    """
    scaler, curves, own = trainer.grad_scaler, plain(trainer.logger.get_checkpoint()), trainer.own_state()
    if path.name == FINAL:
        curves = {name: [0.0] * len(curve) if name in _TIMES else curve for name, curve in curves.items()}
        own = {**own, "seconds": 0.0}
    write_checkpoint(
        path,
        {
            "network_weights": unwrapped(trainer.network).state_dict(),
            "optimizer_state": trainer.optimizer.state_dict(),
            "grad_scaler_state": None if scaler is None else scaler.state_dict(),
            "logging": curves,
            "_best_ema": plain(trainer._best_ema),
            "current_epoch": epochs_done,
            "init_args": plain({**trainer.my_init_kwargs, "device": str(trainer.device)}),
            # The network is nnU-Net's: its own predictor needs no other class, and none of ours to be installed.
            "trainer_name": nnUNetTrainer.__name__,
            "inference_allowed_mirroring_axes": trainer.inference_allowed_mirroring_axes,
            OWN_KEY: {
                "format": FORMAT,
                "trainer": type(trainer).__name__,
                "version": __version__,
                "settings": trainer.settings.as_dict(),
                **own,
            },
        },
        previous=path.with_name(PREVIOUS) if path.name == LATEST else None,
    )


def checkpoint_to_resume(run: Path) -> Path | None:
    """Return the checkpoint that the run in folder ``run`` was stopped with; None where it has not begun.

    It may be named and gone: :func:`resume` takes the one before it.
    """
    return run / LATEST if any((run / name).is_file() for name in (LATEST, PREVIOUS)) else None


def resume(trainer: nnUNetTrainer, file: Path) -> StateError | None:
    """Give ``trainer`` the state of a checkpoint; where the latest one is damaged, that of the one before.

    Returns:
        why the one before was taken, or None.

    Raises:
        StateError: the checkpoint cannot be read, and there is none before it.
    """
    damage = None
    try:
        content = load_training_state(trainer, file)
    except StateError as error:
        previous = file.with_name(PREVIOUS)
        if file.name != LATEST or not previous.is_file():
            raise
        damage, content = error, load_training_state(trainer, previous)
    if OWN_KEY in content:
        trainer.load_own_state(content[OWN_KEY])
    return damage


def load_supervised_start(trainer: nnUNetTrainer, file: Path) -> None:
    """Give ``trainer`` the supervised start that another recipe's run on the same split made.

    Raises:
        StateError: it was made with other settings.
    """
    own = read_checkpoint(file, trainer.device)[OWN_KEY]
    before, now = start_settings(own["settings"]), start_settings(trainer.settings.as_dict())
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differing:
        what = "the supervised start was made with another " + ", ".join(differing)
        fix = "share a start only between recipes that agree in these"
        raise StateError(Problem("run.start-of-other-settings", what, str(file), fix))
    load_training_state(trainer, file)
    trainer.load_supervised_state(own)


def load_training_state(trainer: nnUNetTrainer, file: Path) -> dict[str, Any]:
    """Give ``trainer`` what of a checkpoint is nnU-Net's, and return all of the checkpoint."""
    if not trainer.was_initialized:
        trainer.initialize()
    content = read_checkpoint(file, trainer.device)
    unwrapped(trainer.network).load_state_dict(content["network_weights"])
    trainer.optimizer.load_state_dict(content["optimizer_state"])
    if trainer.grad_scaler is not None and content["grad_scaler_state"] is not None:
        trainer.grad_scaler.load_state_dict(content["grad_scaler_state"])
    trainer.logger.load_checkpoint(content["logging"])
    trainer._best_ema = content["_best_ema"]
    trainer.current_epoch = content["current_epoch"]
    trainer.inference_allowed_mirroring_axes = content["inference_allowed_mirroring_axes"]
    return content
