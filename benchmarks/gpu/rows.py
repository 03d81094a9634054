"""List the rows of the check in the order of the table; describe the machine and the plan."""

from __future__ import annotations

import json
from typing import Any

from bench import Bench, Found, Row
from cost_rows import features, loader, memory, pseudo_labels, step
from prediction_rows import predict
from training_rows import (
    deterministic,
    resume,
    train_default,
    train_default_compiled,
    train_paper,
    train_supervised,
    train_supervised_compiled,
)

# Of a compiled network's gradients to those of the same network, in half precision.
MAX_COMPILE_ERROR = 0.02


def environment(bench: Bench) -> Found:
    """Name what the check runs on."""
    found = bench.measure("environment", {})
    bench.machine = found
    problems = [f"no package for {', '.join(found['missing'])}"] if found["missing"] else []
    parts = []
    if "gpu" in found:
        parts = [
            f"{found['gpu']}, {found['gpu_memory_gb']} GB, driver {found['driver']}",
            f"CUDA {found['cuda']}, cuDNN {found['cudnn']}, compute capability {found['compute_capability']}",
            f"bf16 {'yes' if found['bf16'] else 'no'}",
        ]
    parts += [
        f"torch {found['torch']}, nnunetv2 {found['nnunetv2']}, Python {found['python']}",
        f"{found['cores']} cores, {found['memory_gb']:g} GB",
    ]
    if found["shared_memory_gb"] is not None:
        parts.append(f"/dev/shm {found['shared_memory_gb']:g} GB")
    return Found("; ".join(parts), tuple(problems), found)


def compiles(bench: Bench) -> Found:
    """See whether torch.compile works on this machine."""
    found = bench.measure("compiles", {})
    problems = []
    if not found["error"] <= MAX_COMPILE_ERROR:
        problems.append(f"gradients differ by {found['error']:.3f} of the largest")
    return Found(f"works, the first pass in {found['seconds']:.0f} s", tuple(problems), found)


def plan(bench: Bench) -> Found:
    """Plan and preprocess the task."""
    memory = ["--gpu-memory-gb", "1"] if bench.sizes.tiny else []
    seconds = bench.pclauto("plan", bench.task, *memory)
    content = _read_plan(bench)
    name = content["configuration"]
    chosen = content["nnunet_plans"]["configurations"][name]
    patch = "×".join(str(int(size)) for size in chosen["patch_size"])
    stages = chosen["architecture"]["arch_kwargs"]["n_stages"]
    figures = f"{name}, patch {patch}, batch {chosen['batch_size']}, {stages} stages, {len(content['cases'])} cases"
    details = {
        "configuration": name,
        "patch": [int(size) for size in chosen["patch_size"]],
        "batch": chosen["batch_size"],
        "stages": stages,
        "cases": len(content["cases"]),
        "seconds": seconds,
    }
    return Found(f"{figures}; {seconds:.1f} s", details=details)


def _read_plan(bench: Bench) -> dict[str, Any]:
    (file,) = (bench.workspace / "nnUNet_preprocessed").glob("Dataset*/pclauto/plan.json")
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


ROWS = (
    Row("environment", environment, 90, 5, needs=()),
    Row("torch.compile", compiles, 90, 15, needs=("environment",), gpu=True),
    Row("plan", plan, 120, 20, needs=("environment",)),
    Row("train default", train_default, 120, 40),
    Row("train supervised", train_supervised, 90, 30),
    Row("predict", predict, 150, 45, needs=("train default",)),
    Row("kill and resume", resume, 120, 40),
    Row("step", step, 120, 35, needs=("train default",)),
    Row("pseudo-labels", pseudo_labels, 60, 20, needs=("train default",)),
    Row("train default compiled", train_default_compiled, 240, 70, needs=("plan", "torch.compile"), gpu=True),
    Row("deterministic", deterministic, 120, 45),
    Row("features", features, 120, 35, needs=("train default",)),
    Row("train paper", train_paper, 120, 35),
    Row("memory", memory, 10, 1, needs=("train default",), gpu=True),
    Row("loader", loader, 120, 50, needs=("train default",)),
    Row("train supervised compiled", train_supervised_compiled, 150, 50, needs=("plan", "torch.compile"), gpu=True),
)
