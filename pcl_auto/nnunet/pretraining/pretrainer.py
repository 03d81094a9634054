"""Pre-train a network from its first weights to the end, stage by stage and epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import nn

from pcl_auto.nnunet.environment import available_cores
from pcl_auto.nnunet.errors import memory_errors, require_numbers
from pcl_auto.nnunet.pretraining import checkpoints
from pcl_auto.nnunet.pretraining.adaptation_plan import make_adaptation_plan
from pcl_auto.nnunet.pretraining.learning_rate import rate_at, set_rate
from pcl_auto.nnunet.pretraining.network import build_network
from pcl_auto.nnunet.pretraining.objectives import Objective, Stage, make_objective, stages_of, trained_decoder_stages
from pcl_auto.nnunet.pretraining.patches import iter_steps
from pcl_auto.nnunet.pretraining.stored_images import StoredImages
from pcl_auto.nnunet.training.optimizers import backward_and_step
from pcl_auto.nnunet.trusted_plans import require_trusted
from pcl_auto.recipe.settings import Pretraining
from pcl_auto.workspace.events import EventLog
from pcl_auto.workspace.resources import peak_memory_mb
from pcl_auto.workspace.run_record import FINAL

# Threads that read patches while a GPU computes; on a CPU they would take from the network what they save it.
_MAX_THREADS = 4
_LESS_MEMORY = (
    "repeat the command, it goes on from the last checkpoint, when no other program takes the memory; else set fewer "
    "pretraining.patches with --set, or pre-train with --device cpu"
)


@dataclass(frozen=True)
class PretrainingTask:
    """A pre-training: on what, with what, and where it is written.

    ``plans``: nnU-Net's, of one configuration with the recipe's network and batch. ``store``: the folder of the stored
    images. ``cases``: whose images are learned from. ``folder``: gets checkpoints and events.
    """

    plans: dict[str, Any]
    configuration: str
    dataset_json: dict[str, Any]
    store: Path
    cases: tuple[str, ...]
    settings: Pretraining
    seed: int
    folder: Path

    @property
    def chosen(self) -> dict[str, Any]:
        """The configuration."""
        chosen: dict[str, Any] = self.plans["configurations"][self.configuration]
        return chosen


@dataclass
class _Learner:
    """A stage with its optimizer."""

    stage: Stage
    objective: Objective
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    steps_per_epoch: int
    losses: list[float] = field(default_factory=list)

    def state(self, network: nn.Module, epochs_done: int, seconds: float) -> dict[str, Any]:
        """Return what the stage goes on from."""
        return {
            "network_weights": network.state_dict(),
            "stage": self.stage.name,
            "head": self.objective.head.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": None if self.scaler is None else self.scaler.state_dict(),
            "current_epoch": epochs_done,
            "seconds": seconds,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state` of this stage; the network has its weights already."""
        self.objective.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer_state"])
        if self.scaler is not None and state["grad_scaler_state"] is not None:
            self.scaler.load_state_dict(state["grad_scaler_state"])


class Pretrainer:
    """Pre-train one network on one device."""

    def __init__(self, task: PretrainingTask, device: torch.device, events: EventLog) -> None:
        """Open the images and draw the first weights; nothing is learned yet.

        Raises:
            StateError: stored images that are missing or damaged, or a network without a decoder of stages.
        """
        require_trusted(task.plans, task.dataset_json, task.plans.get("dataset_name", ""))
        self.task, self.device, self.events = task, device, events
        self.images = StoredImages(task.store, task.cases)
        self.network = build_network(task.chosen, self.images.channels, task.seed).to(device)
        self.epoch, self.seconds = 0, 0.0
        self._state: dict[str, Any] | None = None

    def run(self) -> None:
        """Pre-train from where an earlier try stopped, and write the result.

        Raises:
            StateError: a checkpoint or a stored image is damaged.
            ResourceError: memory or disk do not suffice.
            NumericalError: the loss is no longer a number.
        """
        if (self.task.folder / FINAL).is_file():
            return
        self._begin()
        with memory_errors(lambda: f"epoch {self.epoch + 1}", _LESS_MEMORY):
            for stage in stages_of(self.task.settings):
                if self.epoch < stage.end:
                    self._learn(self._prepare(stage))
        channels = self.images.channels
        described = make_adaptation_plan(
            self.network, self.task.configuration, self.task.chosen, channels, self.task.settings.method
        )
        init_args = {
            "plans": self.task.plans,
            "configuration": self.task.configuration,
            "dataset_json": self.task.dataset_json,
        }
        decoder: Any = self.network.decoder
        learned = trained_decoder_stages(self.task.settings, len(decoder.stages))
        untrained = range(learned, len(decoder.stages))
        checkpoints.write_finished(self.task.folder, self.network, described, init_args, untrained)
        self.events.emit("trained", epochs=self.epoch, seconds=round(self.seconds, 1), memory_mb=self._memory_mb())

    def _begin(self) -> None:
        """Take up the state of an earlier try, if there is one."""
        self._state, damage = checkpoints.read_latest(self.task.folder, self.device)
        if self._state is None:
            self.events.emit("started", epochs=self.task.settings.epochs)
            return
        self.network.load_state_dict(self._state["network_weights"])
        self.epoch, self.seconds = self._state["current_epoch"], self._state["seconds"]
        if damage is not None:
            self.events.emit("checkpoint_damaged", problem=damage.problems[0].as_dict(), epoch=self.epoch)
        self.events.emit("resumed", epoch=self.epoch)

    def _prepare(self, stage: Stage) -> _Learner:
        """Make the head and the optimizer of a stage, or take up those of an earlier try."""
        settings = self.task.settings
        torch.manual_seed(self._seed(stage.start))
        objective = make_objective(stage.name, self.network, self.images, self.task.chosen, settings, self.device)
        optimizer = torch.optim.AdamW(
            objective.trained.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        scaler = torch.amp.GradScaler("cuda") if self.device.type == "cuda" else None
        learner = _Learner(stage, objective, optimizer, scaler, settings.steps_per_epoch)
        if self._state is not None and self._state["stage"] == stage.name:
            learner.load(self._state)
        self._state = None
        return learner

    def _learn(self, learner: _Learner) -> None:
        """Train the epochs of a stage that are left, with a checkpoint after each."""
        self.network.train()
        while self.epoch < learner.stage.end:
            began = monotonic()
            learner.losses.clear()
            self._train_epoch(learner)
            seconds = monotonic() - began
            self.seconds += seconds
            self.epoch += 1
            self.events.emit(
                "epoch",
                epoch=self.epoch,
                epochs=self.task.settings.epochs,
                stage=learner.stage.name,
                losses={"loss": float(np.mean(learner.losses))},
                learning_rate=float(learner.optimizer.param_groups[0]["lr"]),
                seconds=round(seconds, 2),
            )
            checkpoints.save(self.task.folder, learner.state(self.network, self.epoch, self.seconds))
            self.events.notify("checkpoint", epochs=self.epoch, file=self.task.folder)

    def _train_epoch(self, learner: _Learner) -> None:
        steps, stage, settings = learner.steps_per_epoch, learner.stage, self.task.settings
        # The numbers of a step are its own, whatever was drawn before: an interruption changes none.
        seeds = [(self.task.seed, self.epoch, step) for step in range(steps)]
        threads = min(_MAX_THREADS, available_cores()) if self.device.type == "cuda" else 0
        for step, patches in enumerate(iter_steps(learner.objective.source, seeds, threads)):
            torch.manual_seed(self._seed(self.epoch, step))
            generator = torch.Generator().manual_seed(self._seed(self.epoch, step, 1))
            done = (self.epoch - stage.start) * steps + step
            rate = rate_at(done, (stage.end - stage.start) * steps, settings.learning_rate, settings.warmup_share)
            set_rate(learner.optimizer, rate)
            learner.optimizer.zero_grad(set_to_none=True)
            loss = learner.objective.loss(patches, generator)
            backward_and_step(loss, [(learner.optimizer, learner.objective.trained)], learner.scaler)
            value = float(loss.detach())
            where = f"epoch {self.epoch + 1} ({stage.name}), step {step + 1}"
            # At once: no checkpoint is written behind it.
            require_numbers({"loss": value}, where, patches.cases, "pretraining.learning_rate")
            learner.losses.append(value)
            self.events.notify("step", epoch=self.epoch, step=step + 1)

    def _seed(self, *place: int) -> int:
        """Return a number of its own for a place in the pre-training."""
        return int(np.random.SeedSequence([self.task.seed, *place]).generate_state(1)[0])

    def _memory_mb(self) -> int:
        """Return the most memory that was held: of the GPU, or on a CPU of the process."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_reserved(self.device) / 2**20)
        return peak_memory_mb()
