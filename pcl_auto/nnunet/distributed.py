"""Several processes, one training: each has a device and its share of every step, and all learn the same.

``torchrun`` starts them and tells each its rank. Rank 0 writes; the others wait for it and read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.parallel import DistributedDataParallel

from pcl_auto.errors import Problem, UsageError
from pcl_auto.method.sampling import VoxelSample
from pcl_auto.workspace.processes import started_rank, started_ranks

Case = TypeVar("Case")


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Be one of the processes that ``torchrun`` has started; alone, nothing happens."""
    if started_ranks() == 1:
        yield
        return
    _require_one_machine(device)
    if device.type == "cuda":
        torch.cuda.set_device(started_rank())
    # One may preprocess, or segment larger scans than the others, for hours.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=7))
    yield
    # Not after an error: the others do not come, and would be waited for.
    dist.destroy_process_group()


def _require_one_machine(device: torch.device) -> None:
    here = int(os.environ.get("LOCAL_WORLD_SIZE", started_ranks()))
    if here != started_ranks():
        fix = "start all processes on one machine"
        raise UsageError(
            Problem(
                "device.several-machines",
                "processes on several machines",
                "torchrun",
                fix,
                "one machine",
                f"{here} here",
            )
        )
    if device.type == "cuda" and here > torch.cuda.device_count():
        fix = f"take --gpus {torch.cuda.device_count()}"
        raise UsageError(
            Problem(
                "device.too-few-gpus", f"{here} GPUs asked for", "--gpus", fix, f"{torch.cuda.device_count()} or fewer"
            )
        )


def ranks() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def wait() -> None:
    """Go on when all have come here."""
    if ranks() > 1:
        dist.barrier()


@contextmanager
def rank_zero_first() -> Iterator[bool]:
    """Wait for all, yield whether this is rank 0, and let the others go on when it has left the block."""
    wait()
    yield rank() == 0
    wait()


def share(cases: Sequence[Case]) -> list[Case]:
    """Return the part of ``cases`` that is this process's to do."""
    return list(cases[rank() :: ranks()])


def share_of_patches(labeled: int, unlabeled: int) -> tuple[int, int]:
    """Return how many labeled and unlabeled patches of a step are this process's.

    Raises:
        UsageError: they cannot be divided; numbers of processes that can are named.
    """
    number = ranks()
    if labeled % number or unlabeled % number:
        possible = [n for n in range(1, labeled + 1) if labeled % n == 0 and unlabeled % n == 0]
        raise UsageError(
            Problem(
                code="device.patches-not-shared",
                what=f"{labeled} labeled and {unlabeled} unlabeled patches of a step cannot be shared by {number}",
                where="--gpus",
                expected=" or ".join(map(str, possible)),
                fix="take as many GPUs, or other numbers of patches in the recipe (batch.patches)",
            )
        )
    return labeled // number, unlabeled // number


def wrap_ddp(module: nn.Module, device: torch.device) -> nn.Module:
    """Wrap ``module`` so that its gradients are the mean over all processes after a backward pass."""
    if ranks() == 1:
        return module
    return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)


def gather_rows(rows: Tensor) -> Tensor:
    """Gather the ``rows`` (N, F) of all processes, one after the other; gradients find their way back.

    Every process goes on with all rows and computes the same loss: the gradients that come back are as many times too
    large as there are processes, and their mean (:func:`wrap_ddp`) is right.
    """
    if ranks() == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(ranks())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    most = max(int(count) for count in counts)
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    # Numbers without a gradient have no way back to find.
    parts = all_gather(padded) if rows.is_floating_point() else _gather_numbers(padded)  # type: ignore[no-untyped-call]
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def gather_through(module: nn.Module, rows: Tensor, *, over_all_rows: bool) -> Tensor:
    """Gather what ``module``, from :func:`wrap_ddp`, makes of the ``rows`` (N, F) of all processes.

    ``over_all_rows``: it normalizes over the rows, so that every process has to see all of them.
    """
    if over_all_rows:
        return module(gather_rows(rows))  # type: ignore[no-any-return]
    return gather_rows(module(rows))


def _gather_numbers(padded: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(padded) for _ in range(ranks())]
    dist.all_gather(parts, padded)
    return parts


def gather_sample(sample: VoxelSample, patches: int) -> VoxelSample:
    """Gather the drawn voxels of all processes, whose ``patches`` images each are counted on."""
    if ranks() == 1:
        return sample
    image = gather_rows(sample.image + rank() * patches)
    return VoxelSample(image, gather_rows(sample.cls), gather_rows(sample.voxel), gather_rows(sample.rank))
