"""Refuse to go on where memory does not suffice or numbers are not finite, and say what helps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from pcl_auto.errors import NumericalError, Problem, ResourceError

# What torch and its libraries say where they have no exception of its own for it.
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|_ALLOC_FAILED")
LESS_MEMORY_TO_TRAIN = (
    "repeat the command, it goes on from the last checkpoint, when no other program takes the memory; else set fewer "
    "batch.patches in the recipe, plan with a smaller --gpu-memory-gb, or train with --device cpu"
)


@contextmanager
def memory_errors(where: Callable[[], str], fix: str) -> Iterator[None]:
    """Turn every kind of "out of memory" into one error that says ``where`` it happened.

    Raises:
        ResourceError: the memory of the GPU, or of the machine, does not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).strip()
        on_gpu = isinstance(error, torch.cuda.OutOfMemoryError)
        if not on_gpu and not isinstance(error, MemoryError) and not _NO_MEMORY.search(text):
            raise
        raise ResourceError(
            Problem(
                code="memory.too-small",
                what="the memory does not suffice",
                where=where(),
                found=text.splitlines()[0] if text else type(error).__name__,
                fix=fix,
            )
        ) from error


def require_numbers(
    losses: Mapping[str, Any], where: str, cases: Sequence[str], rate: str = "optimizer.learning_rate"
) -> None:
    """Refuse a step on patches of ``cases`` whose losses are not finite.

    Args:
        losses: by name.
        where: in the training.
        cases: of the step.
        rate: the setting of the learning rate.

    Raises:
        NumericalError: one of them is not.
    """
    if all(np.isfinite(value).all() for value in losses.values()):
        return
    raise NumericalError(
        Problem(
            code="number.loss-not-finite",
            what="the loss is no longer a number",
            where=f"{where}, on patches of {', '.join(dict.fromkeys(cases))}",
            found=", ".join(f"{name} {float(value):g}" for name, value in losses.items()),
            fix="repeat the command: it goes on from the last checkpoint; if it happens again, look at these cases, or "
            f"lower {rate} in the recipe",
        )
    )
