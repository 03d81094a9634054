"""Make optimizers and take their steps, as nnU-Net does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import Tensor, nn

from pcl_auto.recipe.settings import Optimizer, Pretrained

# nnU-Net clips the gradient of its network to this norm.
MAX_GRADIENT_NORM = 12
# In a group of parameters: its share of the learning rate.
FACTOR = "factor"


def make_optimizer(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], settings: Optimizer
) -> torch.optim.Optimizer:
    """Make the optimizer that a recipe names; ``sgd`` is nnU-Net's, with its momentum."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, rate, weight_decay=decay, momentum=0.99, nesterov=True)
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(parameters, rate, weight_decay=decay)


def pretrained_groups(network: nn.Module, settings: Pretrained) -> list[dict[str, Any]]:
    """Divide the parameters of a ``network`` with pretrained weights into those of its encoder and all others.

    Each group says by ``factor`` how much of the recipe's learning rate it gets.
    """
    of_encoder = {id(parameter) for parameter in network.encoder.parameters()}  # type: ignore[union-attr]
    parts: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for parameter in network.parameters():
        parts[id(parameter) not in of_encoder].append(parameter)
    others = settings.rate_factor if settings.rate_of == "network" else 1.0
    return [{"params": parts[0], FACTOR: settings.rate_factor}, {"params": parts[1], FACTOR: others}]


def make_lr_scheduler(
    optimizer: torch.optim.Optimizer, settings: Optimizer, epochs: int, *, warmup_share: float = 0.0
) -> PolyLRScheduler:
    """Make nnU-Net's scheduler of the learning rate over ``epochs``, which keeps it constant where a recipe says so.

    ``warmup_share``: of the epochs, in which the rate of pretrained weights grows to its full size.
    """
    exponent = 0.0 if settings.schedule == "constant" else 0.9
    return _Scheduler(optimizer, settings.learning_rate, epochs, exponent, settings.flat_share, warmup_share)


class _Scheduler(PolyLRScheduler):  # type: ignore[misc]
    """nnU-Net's polynomial decay, behind epochs in which the rate grows, and a share of the rest in which it stays."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        rate: float,
        epochs: int,
        exponent: float,
        flat_share: float,
        warmup_share: float,
    ) -> None:
        self._flat_share = flat_share
        # One epoch is left to decay in.
        self._warmup = min(round(warmup_share * epochs), epochs - 1)
        super().__init__(optimizer, rate, epochs, exponent)

    def step(self, current_step: float | None = None) -> None:
        """Set the rate of ``current_step``, which counts from 0; without it, as torch calls it once, the first rate."""
        epoch = 0.0 if current_step is None else current_step
        if epoch < self._warmup:
            share = (epoch + 1) / (self._warmup + 1)
        else:
            left = self.max_steps - self._warmup
            flat = self._flat_share * left
            share = (1 - max(0.0, epoch - self._warmup - flat) / (1 - self._flat_share) / left) ** self.exponent
        for group in self.optimizer.param_groups:
            group["lr"] = self.initial_lr * share * group.get(FACTOR, 1.0)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def backward_and_step(
    loss: Tensor,
    trained: Sequence[tuple[torch.optim.Optimizer, nn.Module]],
    scaler: torch.amp.GradScaler | None,
) -> None:
    """Take one step with every optimizer and the module that it trains, with the gradient clipped."""
    add_gradients(loss, scaler)
    for optimizer, module in trained:
        if scaler is not None:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(module.parameters(), MAX_GRADIENT_NORM)
    for optimizer, _ in trained:
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
    if scaler is not None:
        scaler.update()


def add_gradients(loss: Tensor, scaler: torch.amp.GradScaler | None) -> None:
    """Add the gradients of ``loss`` to those that a step will be taken with, and let go of its activations."""
    torch.autograd.backward(loss if scaler is None else scaler.scale(loss))
