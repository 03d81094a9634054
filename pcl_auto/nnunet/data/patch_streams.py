"""Stream patches of stored cases to a training."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import Tensor, split_with_sizes

from pcl_auto.errors import Problem, ResourceError
from pcl_auto.nnunet.data.cases import StoredCases, reading

# How often a training that waits for its workers looks whether they live.
SECONDS_BETWEEN_LOOKS = 1.0


# How a worker ends that cannot hand a batch over (sysexits.h: an error of input or output).
CANNOT_SHARE = 74
_QUEUES: Any = Queue
_say_so = _QUEUES._on_queue_feeder_error


def _end_worker(error: Exception, batch: Any) -> None:
    """End a worker whose batch cannot be handed over, as where /dev/shm is full: the batch is lost.

    Python says so and goes on; a training that waits for the batch would wait forever.
    """
    _say_so(error, batch)
    if multiprocessing.parent_process() is not None:
        sys.stderr.flush()
        os._exit(CANNOT_SHARE)


# Workers inherit it: nnU-Net and batchgenerators start them, and make their queues.
_QUEUES._on_queue_feeder_error = staticmethod(_end_worker)


def loader_of(stream: Any) -> nnUNetDataLoader:
    """Return the loader that a stream of either kind draws from."""
    return stream.generator if hasattr(stream, "generator") else stream.data_loader


def same_augmentation(
    stream: Any,
    folder: Path,
    cases: Sequence[str],
    patches: int,
    oversample_foreground: float,
    label_manager: Any,
    *,
    pin_memory: bool,
) -> Any:
    """Open a stream of ``patches`` from ``cases`` in ``folder``, cut and augmented as those of ``stream``."""
    model = loader_of(stream)
    # A loader turns 2D patches into slices of depth one and would do it again.
    first = 1 if model.patch_size_was_2d else 0
    loader = nnUNetDataLoader(
        StoredCases(str(folder), list(cases)),
        patches,
        model.patch_size[first:],
        model.final_patch_size[first:],
        label_manager,
        oversample_foreground_percent=oversample_foreground,
        probabilistic_oversampling=True,
        transforms=model.transforms,
    )
    workers = get_allowed_n_proc_DA()
    if workers == 0:
        return SingleThreadedAugmenter(loader, None)
    stream = NonDetMultiThreadedAugmenter(
        data_loader=loader,
        transform=None,
        num_processes=workers,
        num_cached=max(6, workers // 2),
        seeds=None,
        pin_memory=pin_memory,
        wait_time=0.002,
    )
    next_batch(stream)
    return stream


def next_batch(stream: Any) -> dict[str, Any]:
    """Return the next batch of a stream of either kind.

    batchgenerators asks through a lock that it shares with its workers, and waits forever if one dies with it.

    Raises:
        ResourceError: a worker process is gone.
        StateError: a stored case is missing or damaged.
    """
    if not isinstance(stream, NonDetMultiThreadedAugmenter):
        with reading(lambda: loader_of(stream)._data):
            return next(stream)
    if not stream.initialized:
        stream._start()
    while True:
        with contextlib.suppress(queue.Empty):
            return stream.results_loop_queue.get(timeout=SECONDS_BETWEEN_LOOKS)  # type: ignore[no-any-return]
        gone = [worker for worker in stream._processes if not worker.is_alive()]
        if gone:
            found = ", ".join(f"process {worker.pid} ended with exit code {worker.exitcode}" for worker in gone)
            _abandon(stream)
            loader_of(stream)._data.refuse_damaged()  # perhaps what ended the worker
            raise _worker_gone(found)


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """While nnU-Net starts workers and waits for their first batches.

    Raises:
        ResourceError: a worker process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if "no longer alive" not in str(error):
            raise
        raise _worker_gone(str(error)) from error


def _worker_gone(found: str) -> ResourceError:
    return ResourceError(
        Problem(
            code="run.worker-gone",
            what="a worker that augments data is gone",
            where="training",
            found=found,
            fix="look for its traceback in log.txt of the run, where it left one; set --workers 0 to do without them "
            "(exit code -9 is often too little memory, -7 and 74 a small /dev/shm); the training goes on from its last "
            "checkpoint",
        )
    )


def _abandon(stream: NonDetMultiThreadedAugmenter) -> None:
    """Be rid of a stream whose worker died, perhaps with a lock: what is left is killed, nothing is asked of it."""
    for worker in stream._processes:
        worker.kill()
        worker.join()
    stream._processes, stream.initialized = [], False


def close(stream: Any) -> None:
    """End the worker processes of ``stream``, if it has any."""
    if isinstance(stream, NonDetMultiThreadedAugmenter):
        # It reports on stdout.
        with open(os.devnull, "w", encoding="utf-8") as void, contextlib.redirect_stdout(void):  # noqa: PTH123
            stream._finish()


def scales(value: Tensor | list[Tensor]) -> list[Tensor]:
    """Return outputs or targets as a list from full resolution down; without deep supervision there is one."""
    return value if isinstance(value, list) else [value]


def split_patches(batches: list[Tensor], first: int) -> tuple[list[Tensor], list[Tensor]]:
    """Split the ``first`` patches of a batch from the others, at every scale."""
    parts = [split_with_sizes(batch, [first, len(batch) - first]) for batch in batches]
    return [part[0] for part in parts], [part[1] for part in parts]
