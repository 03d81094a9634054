"""What a joint step costs against a step of stock nnU-Net with as many patches.

    pclauto train --labeled 2 --recipe quick --prepare-only --workspace W
    python benchmarks/step_cost.py W nnUNetPlans_L2_s0_quick

Steps of three trainers take turns on batches drawn before: stock nnUNetTrainer (float32 on a CPU), our supervised
baseline (the same step in our precision) and the joint trainer with the recipe of the plans. Prints medians in
seconds, their ratios, and each trainer's own peak of memory, measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

STOCK, SUPERVISED, JOINT = "stock", "supervised", "joint"
TARGET = 1.10


def build(kind: str, workspace: Path, plans_name: str, device: str) -> Any:
    """A trainer on the plans of a prepared split, initialised, with no files of its own."""
    from pcl_auto.nnunet.environment import prepare_environment
    from pcl_auto.run.workspace import Workspace

    place = Workspace.find(workspace, os.environ)
    place.activate()
    prepare_environment(workers=0)
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from pcl_auto.nnunet.joint_trainer import nnUNetTrainerPCL
    from pcl_auto.nnunet.trainer import nnUNetTrainerPCLSupervised

    class Stock(nnUNetTrainer):  # type: ignore[misc]
        """nnU-Net itself; its name alone is another, so that its folder is."""

    data = place.dataset(None)
    plans = json.loads(data.plans_file(plans_name).read_text())
    configuration = next(iter(plans["configurations"]))
    trainer = {STOCK: Stock, SUPERVISED: nnUNetTrainerPCLSupervised, JOINT: nnUNetTrainerPCL}[kind](
        {**plans, "continue_training": False},
        configuration,
        "all",
        json.loads((data.path / "dataset.json").read_text()),
        torch.device(device),
    )
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.network.train()
    return trainer


def batches(patches: int, trainer: Any) -> dict[str, Any]:
    """A batch of so many patches of noise with every class, in the format of nnU-Net's loaders."""
    import torch

    size = trainer.configuration_manager.patch_size
    channels = trainer.num_input_channels
    classes = 1 + len(trainer.label_manager.foreground_labels)
    target = torch.randint(classes, (patches, 1, *size)).to(torch.int16)
    scales = [[1.0] * len(size)] if not trainer.enable_deep_supervision else trainer._get_deep_supervision_scales()
    shrunk = [
        torch.nn.functional.interpolate(target.float(), [round(s * f) for s, f in zip(size, scale, strict=True)])
        for scale in scales
    ]
    return {"data": torch.randn(patches, channels, *size), "target": [entry.to(torch.int16) for entry in shrunk]}


def stepper(kind: str, trainer: Any) -> Any:
    """A function that makes one step with all the patches of the plans."""
    import torch

    patches = trainer.configuration_manager.batch_size
    if kind != JOINT:
        batch = batches(patches, trainer)
        step = lambda: trainer.train_step(batch)  # noqa: E731
    else:
        unlabeled = trainer.recipe.batch.unlabeled(patches)
        batch = batches(patches - unlabeled, trainer)
        other = batches(unlabeled, trainer)

        def endless() -> Any:
            while True:
                # Copies: mixing changes patches in place.
                yield {"data": other["data"].clone(), "target": [scale.clone() for scale in other["target"]]}

        trainer.dataloader_unlabeled = endless()
        step = lambda: trainer.train_step(  # noqa: E731
            {"data": batch["data"].clone(), "target": [scale.clone() for scale in batch["target"]]}
        )

    def timed() -> float:
        started = time.perf_counter()
        step()
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return timed


def peak_mb(kind: str, arguments: argparse.Namespace) -> float:
    """The peak of memory of five steps in a process of its own, beyond what importing and building took."""
    command = [sys.executable, __file__, str(arguments.workspace), arguments.plans, "--device", arguments.device]
    done = subprocess.run([*command, "--memory-of", kind], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["peak_mb"])


def measure_memory(kind: str, trainer: Any) -> float:
    """The peak of five steps in this process."""
    import torch

    step = stepper(kind, trainer)
    for _ in range(5):
        step()
    if trainer.device.type == "cuda":
        return float(torch.cuda.max_memory_allocated() / 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("plans")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--memory-of", choices=(STOCK, SUPERVISED, JOINT))
    arguments = parser.parse_args()
    kinds = (arguments.memory_of,) if arguments.memory_of else (STOCK, SUPERVISED, JOINT)
    # nnU-Net prints its plans.
    with redirect_stdout(sys.stderr):
        trainers = {kind: build(kind, arguments.workspace, arguments.plans, arguments.device) for kind in kinds}
    if arguments.memory_of:
        print(json.dumps({"peak_mb": measure_memory(arguments.memory_of, trainers[arguments.memory_of])}))
        return
    steps = {kind: stepper(kind, trainer) for kind, trainer in trainers.items()}
    for step in steps.values():
        step(), step()
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(arguments.steps):
        for kind, step in steps.items():
            seconds[kind].append(step())
    median = {kind: statistics.median(values) for kind, values in seconds.items()}
    memory = {kind: peak_mb(kind, arguments) for kind in kinds}
    print(
        json.dumps(
            {
                "median_s": {kind: round(value, 3) for kind, value in median.items()},
                "joint_to_stock": round(median[JOINT] / median[STOCK], 3),
                "joint_to_supervised": round(median[JOINT] / median[SUPERVISED], 3),
                "target": TARGET,
                "peak_mb": {kind: round(value) for kind, value in memory.items()},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
