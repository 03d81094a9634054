"""Compare a joint step with a step of stock nnU-Net with as many patches.

    python benchmarks/step_cost.py                                   (on the demo's phantom)
    pclauto train --workspace W --labeled 2 --recipe quick --prepare-only
    python benchmarks/step_cost.py W nnUNetPlans_L2_s0_quick

Three trainers, each in a process of its own, take turns in blocks of steps on the same plans:

    joint        ours in a round, L labeled and U unlabeled patches, with everything that the recipe switches on
    supervised   our baseline, L + U labeled patches: the same precision, so joint / supervised is the method's cost
    stock        nnUNetTrainer as it comes, L + U labeled patches: on a CPU ours keeps freed memory for the next step

A step is what training repeats: draw and augment the patches, then train on them. The unlabeled stream draws the
labeled cases once more, under their labels: as in a round with perfect pseudo-labels, where the contrastive loss has
every class to work on. Seconds are medians over blocks, ratios medians of what each block gave. Memory is the peak of
building the trainer and of all its steps: on CUDA what torch has allocated, on a CPU what the process has grown by.

Processes that augment data (--workers, on CUDA the default) fill an arm's stream while the others step. Where drawing
is to count, take blocks much longer than what they hold ready, as --steps 50.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

from prepared import Prepared, machine, parser, precision, prepared, print_line, print_table

from pcl_auto.workspace.files import finite

JOINT, SUPERVISED, STOCK = "joint", "supervised", "stock"
ARMS = (JOINT, SUPERVISED, STOCK)
# Of a joint step to a stock step with as many patches.
TARGET = 1.10
# The first steps compile, look for kernels and fetch memory.
WARM_UP_STEPS = 3


class TimedStream:
    """A stream of patches that counts the seconds spent waiting for it."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.seconds = stream, 0.0

    def __next__(self) -> Any:
        started = perf_counter()
        batch = next(self.stream)
        self.seconds += perf_counter() - started
        return batch


class Stepper:
    """A trainer of one arm, ready to step."""

    def __init__(self, arm: str, split: Prepared) -> None:
        import torch

        from pcl_auto.workspace.resources import forget_peak_memory, keep_freed_memory, peak_memory_mb

        classes = trainer_classes()
        if arm != STOCK and split.device == "cpu":
            keep_freed_memory()  # as `pclauto train` does
        forget_peak_memory()
        self._held_mb = peak_memory_mb()
        self.trainer = split.trainer(classes[arm])
        self.streams = self._open_stock() if arm == STOCK else self._open_ours(joint=arm == JOINT)
        self.trainer.on_train_epoch_start()
        self._cuda = torch.cuda if split.device == "cuda" else None

    def _open_stock(self) -> list[TimedStream]:
        trainer = self.trainer
        trainer.initialize()
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
        trainer.dataloader_train, trainer.dataloader_val = map(TimedStream, trainer.get_dataloaders())
        return [trainer.dataloader_train, trainer.dataloader_val]

    def _open_ours(self, *, joint: bool) -> list[TimedStream]:
        from pcl_auto.nnunet.data import patch_streams

        trainer = self.trainer
        trainer.on_train_start()
        patches = trainer.configuration_manager.batch_size
        unlabeled = trainer.recipe.batch.unlabeled(patches) if joint else 0
        trainer._open_streams(patches - unlabeled)
        opened = []
        if joint:
            trainer.dataloader_unlabeled = TimedStream(
                patch_streams.same_augmentation(
                    trainer.dataloader_train,
                    Path(trainer.preprocessed_dataset_folder),
                    trainer.split.labeled,
                    unlabeled,
                    trainer.oversample_foreground_percent,
                    trainer.label_manager,
                    pin_memory=trainer.device.type == "cuda",
                )
            )
            opened.append(trainer.dataloader_unlabeled)
        trainer.dataloader_train = TimedStream(trainer.dataloader_train)
        trainer.dataloader_val = TimedStream(trainer.dataloader_val)
        return [*opened, trainer.dataloader_train, trainer.dataloader_val]

    def block(self, steps: int) -> dict[str, float]:
        """Return the mean seconds of ``steps`` steps, and how many of them went into drawing patches."""
        for stream in self.streams:
            stream.seconds = 0.0
        started = perf_counter()
        for _ in range(steps):
            self.trainer.train_step(next(self.trainer.dataloader_train))
        if self._cuda is not None:
            self._cuda.synchronize()
        seconds = perf_counter() - started
        return {"step": seconds / steps, "drawing": sum(stream.seconds for stream in self.streams) / steps}

    def finish(self) -> dict[str, int]:
        """End the streams and return the peaks of memory."""
        from pcl_auto.nnunet.data import patch_streams
        from pcl_auto.workspace.resources import peak_memory_mb

        facts = {"memory_mb": peak_memory_mb() - self._held_mb}
        if self._cuda is not None:
            allocated, reserved = self._cuda.max_memory_allocated(), self._cuda.max_memory_reserved()
            facts = {"memory_mb": allocated // 2**20, "reserved_mb": reserved // 2**20}
        for stream in self.streams:
            patch_streams.close(stream.stream)
        return facts


def trainer_classes() -> dict[str, Any]:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from pcl_auto.nnunet.training.joint_trainer import nnUNetTrainerPCL
    from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised

    return {JOINT: nnUNetTrainerPCL, SUPERVISED: nnUNetTrainerPCLSupervised, STOCK: nnUNetTrainer}


# In each arm's process.
_stepper: Stepper


def _start(arm: str, split: Prepared) -> dict[str, Any]:
    from pcl_auto.workspace.processes import output_to

    global _stepper  # noqa: PLW0603 (what a process keeps between its calls)
    with output_to(split.scratch / f"{arm}.txt"):
        _stepper = Stepper(arm, split)
    configuration = _stepper.trainer.configuration_manager
    return {
        "patches": configuration.batch_size,
        "unlabeled": _stepper.trainer.recipe.batch.unlabeled(configuration.batch_size) if arm == JOINT else 0,
        "patch": list(configuration.patch_size),
        "feature_maps": configuration.network_arch_init_kwargs["features_per_stage"],
        "precision": precision(split.device, stock=arm == STOCK),
    }


def _block(steps: int) -> dict[str, float]:
    return _stepper.block(steps)


def _finish() -> dict[str, int]:
    return _stepper.finish()


def measure(split: Prepared, blocks: int, steps: int) -> dict[str, Any]:
    """Measure the three arms, and the ratios of the joint one to the others."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        arms = {arm: stack.enter_context(ProcessPoolExecutor(1, context)) for arm in ARMS}
        print_line("building three trainers")
        facts = {arm: process.submit(_start, arm, split).result() for arm, process in arms.items()}
        for process in arms.values():
            process.submit(_block, WARM_UP_STEPS).result()
        found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
        for number in range(blocks):
            for arm, process in arms.items():
                found[arm].append(process.submit(_block, steps).result())
            last = ", ".join(f"{arm} {times[-1]['step']:.3f} s" for arm, times in found.items())
            print_line(f"block {number + 1}/{blocks}: {last}")
        for arm, process in arms.items():
            facts[arm] |= process.submit(_finish).result()
    for arm, times in found.items():
        facts[arm]["step_s"] = statistics.median(time["step"] for time in times)
        facts[arm]["drawing_s"] = statistics.median(time["drawing"] for time in times)
        facts[arm]["blocks_s"] = [time["step"] for time in times]
    return {
        "dataset": split.data.name,
        "plans": split.plans_name,
        "configuration": split.configuration,
        "steps_per_block": steps,
        "target_joint_to_stock": TARGET,
        **{f"joint_to_{other}": ratio(found[JOINT], found[other]) for other in (SUPERVISED, STOCK)},
        "arms": facts,
        "machine": machine(split.device),
    }


def ratio(joint: list[dict[str, float]], other: list[dict[str, float]]) -> dict[str, float]:
    """Return the median over blocks of joint / other, of whole steps and of steps without the drawing."""
    pairs = list(zip(joint, other, strict=True))
    return {
        "step": statistics.median(a["step"] / b["step"] for a, b in pairs),
        "without_drawing": statistics.median((a["step"] - a["drawing"]) / (b["step"] - b["drawing"]) for a, b in pairs),
    }


def render(results: dict[str, Any]) -> None:
    """Print the results as a table."""
    arms = results["arms"]
    joint, size = arms[JOINT], " × ".join(map(str, arms[JOINT]["patch"]))
    print(f"{results['dataset']}, {results['plans']}, {results['machine']['device']}; patches of {size}")
    print(f"joint: {joint['patches'] - joint['unlabeled']} labeled + {joint['unlabeled']} unlabeled patches")
    rows = []
    for arm in ARMS:
        facts, to_it = arms[arm], results.get(f"joint_to_{arm}")
        ratios = ["", ""] if to_it is None else [f"{to_it['step']:.3f}", f"{to_it['without_drawing']:.3f}"]
        times = [f"{facts['step_s']:.3f}", f"{facts['drawing_s']:.3f}"]
        rows.append([arm, facts["precision"], *times, str(facts["memory_mb"]), *ratios])
    print_table(["arm", "precision", "step s", "drawing s", "MB", "joint / it", "without drawing"], rows)
    print(f"target: a joint step takes at most {TARGET:.2f} of a stock step")


def main() -> None:
    options_of = parser(__doc__ or "")
    options_of.add_argument("--blocks", type=int, default=9, help="of every arm, in turns")
    options_of.add_argument("--steps", type=int, default=5, help="of a block")
    options = options_of.parse_args()
    with prepared(options) as split:
        results = measure(split, options.blocks, options.steps)
    if options.json:
        print(json.dumps(finite(results), indent=1))
    else:
        render(results)


if __name__ == "__main__":
    main()
