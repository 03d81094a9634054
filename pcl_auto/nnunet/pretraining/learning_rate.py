"""Change the learning rate of a stage from step to step: it grows from 0, then decays to 0 as nnU-Net's."""

from __future__ import annotations

import torch

# nnU-Net's.
_EXPONENT = 0.9


def rate_at(step: int, steps: int, highest: float, warmup_share: float) -> float:
    """Return the learning rate of a step: linear growth to the highest rate, then polynomial decay.

    Args:
        step: number of the step, from 0.
        steps: of the whole stage.
        highest: rate of the first step after the growth.
        warmup_share: share of the steps in which it grows.
    """
    warmup = int(steps * warmup_share)
    if step < warmup:
        return float(highest * (step + 1) / (warmup + 1))
    return float(highest * (1 - (step - warmup) / (steps - warmup)) ** _EXPONENT)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter of an optimizer the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
