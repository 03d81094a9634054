"""Make optimizers and take their steps, as nnU-Net does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import Tensor, nn

from pcl_auto.recipe.settings import Optimizer

# nnU-Net clips the gradient of its network to this norm.
MAX_GRADIENT_NORM = 12


def make_optimizer(parameters: Iterable[nn.Parameter], settings: Optimizer) -> torch.optim.Optimizer:
    """Make the optimizer that a recipe names; ``sgd`` is nnU-Net's, with its momentum."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, rate, weight_decay=decay, momentum=0.99, nesterov=True)
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(parameters, rate, weight_decay=decay)


def make_lr_scheduler(optimizer: torch.optim.Optimizer, settings: Optimizer, epochs: int) -> PolyLRScheduler:
    """Make nnU-Net's scheduler of the learning rate over ``epochs``, which keeps it constant where a recipe says so."""
    exponent = 0.0 if settings.schedule == "constant" else 0.9
    return _LatePolyLRScheduler(optimizer, settings.learning_rate, epochs, exponent, settings.flat_share)


class _LatePolyLRScheduler(PolyLRScheduler):  # type: ignore[misc]
    """nnU-Net's polynomial decay, all of it behind a share of the steps in which the rate stays what it is."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, rate: float, steps: int, exponent: float, flat_share: float
    ) -> None:
        self._flat_share = flat_share
        super().__init__(optimizer, rate, steps, exponent)

    def step(self, current_step: float | None = None) -> None:
        """Set the rate of ``current_step``, which counts from 0; without it, as torch calls it once, the first rate."""
        if current_step is not None:
            flat = self._flat_share * self.max_steps
            current_step = max(0.0, current_step - flat) / (1 - self._flat_share)
        super().step(current_step)


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
