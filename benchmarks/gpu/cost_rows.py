"""Measure what training and pseudo-labels cost: memory, milliseconds per step, and how many workers keep up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bench import Bench, Found, NotRunError
from measures import MAX_FEATURE_ERROR
from training_rows import BASELINE, run_folder

# Of measured to forecast GPU memory: nnU-Net estimates, and cuDNN takes what is free while it looks for kernels.
MEMORY_BAND = (0.25, 1.5)
# Of the rate on a batch held in memory: with less the loader is the limit.
LOADER_KEEPS_UP = 0.9


def memory(bench: Bench) -> Found:
    """Compare the GPU memory that was forecast with what was measured, of every training of the check."""
    ratios: dict[str, float] = {}
    parts = []
    for file in sorted(bench.workspace.glob("nnUNet_results/*/*/fold_all/run.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        expected = (record.get("forecast") or {}).get("gpu_memory_mb")
        measured = (record.get("measured") or {}).get("gpu_memory_mb")
        if expected and measured:
            trainer, plans, _ = file.parents[1].name.split("__")
            name = ("baseline " if trainer == BASELINE else "") + plans.split("_check_")[-1]
            ratios[name] = measured / expected
            parts.append(f"{name} {measured}/{expected} MB = {ratios[name]:.2f}")
    if not ratios:
        raise NotRunError("no training has left both figures")
    low, high = MEMORY_BAND
    problems = [f"{name} is {ratio:.2f}" for name, ratio in ratios.items() if not low <= ratio <= high]
    return Found(f"measured/forecast: {', '.join(parts)}; within {low:g} to {high:g}", tuple(problems), ratios)


def _of_split(bench: Bench, workers: int) -> dict[str, Any]:
    """Describe the default training's split to a measurement."""
    run = run_folder(bench, "check_default")
    _, plans, configuration = run.parent.name.split("__")
    return {
        "workspace": str(bench.workspace),
        "plans": plans,
        "configuration": configuration,
        "scratch": str(bench.work / "scratch"),
        "workers": workers,
    }


def _workers(bench: Bench) -> int:
    """Choose the workers for each of the three trainers that step in turns."""
    return 0 if bench.device == "cpu" else max(1, bench.machine["cores"] // 4)


def step(bench: Bench) -> Found:
    """Compare joint steps with those of our baseline and of stock nnU-Net at equal patches."""
    sizes = bench.sizes
    settings = {"blocks": sizes.step_blocks, "steps": sizes.step_steps, "warm_up": sizes.step_warm_up}
    found = bench.measure("step", {**_of_split(bench, _workers(bench)), **settings})
    ratio = found["ratios"]["stock"]
    problems = []
    if ratio["without_drawing"] > found["target"] and not sizes.tiny:
        problems.append(f"a joint step takes {ratio['without_drawing']:.2f} of a stock step")
    arms = ", ".join(f"{arm} {1000 * entry['step']:.1f}" for arm, entry in found["arms"].items())
    figures = (
        f"{arms} ms of {found['patches']} patches; joint/stock {ratio['step']:.2f}, without drawing "
        f"{ratio['without_drawing']:.2f}, target {found['target']:.2f}; joint/supervised "
        f"{found['ratios']['supervised']['step']:.2f}"
    )
    return Found(figures, tuple(problems), found)


def features(bench: Bench) -> Found:
    """See that the contrastive loss gets the network's own features, from a compiled network too."""
    problems, parts, details = [], [], {}
    for compiled in (False, True) if bench.device == "cuda" else (False,):
        name = "compiled" if compiled else "not compiled"
        found = bench.measure("features", _of_split(bench, 0), compiled=compiled)
        details[name] = found
        if found["compiled"] != compiled:
            problems.append(f"{name}: the network is {'' if found['compiled'] else 'not '}compiled")
        if not found["error"] <= MAX_FEATURE_ERROR:
            problems.append(f"{name}: logits of the features differ by {found['error']:.3f}")
        if not found["gradient"]:
            problems.append(f"{name}: no gradient comes through")
        parts.append(f"{name}: logits to {found['error']:.1g}, gradients come through")
    return Found("; ".join(parts), tuple(problems), details)


def pseudo_labels(bench: Bench) -> Found:
    """Measure what the pseudo-labels of a round take."""
    settings = {**_of_split(bench, _workers(bench)), "cases": bench.sizes.pseudo_labels}
    found = bench.measure("pseudo_labels", settings)
    each = found["seconds"] / found["cases"]
    figures = f"{each:.3f} s a scan, {found['cases']} scans; peak {found['peak_mb']} MB of the process"
    if "peak_cuda_mb" in found:
        figures += f", {found['peak_cuda_mb']} MB of the GPU"
    return Found(figures, () if found["trained"] else ("the network is untrained",), {**found, "seconds_each": each})


def loader(bench: Bench) -> Found:
    """Find out whether augmentation is the limit of training, and with how many workers it no longer is."""
    cores = bench.machine["cores"]
    numbers = [1] if bench.device == "cpu" else [number for number in (2, 4, 8, 12) if number <= cores] or [1]
    settings = {**_of_split(bench, numbers[0]), "numbers": numbers, "seconds": bench.sizes.loader_s}
    found = bench.measure("loader", settings)
    return Found(loader_figures(found), details=found)


def loader_figures(found: Mapping[str, Any]) -> str:
    """Say how fast training was with each number of workers, and what limits it."""

    def rate(entry: Mapping[str, Any]) -> str:
        busy = "" if entry["utilization"] is None else f" (GPU {entry['utilization']:.0f} %)"
        return f"{entry['steps_per_s']:.1f}{busy}"

    held = found["held"]
    enough = [
        entry["workers"] for entry in found["rates"] if entry["steps_per_s"] >= LOADER_KEEPS_UP * held["steps_per_s"]
    ]
    limit = f"{min(enough)} workers keep up" if enough else "augmentation is the limit with any of these"
    rates = ", ".join(f"{entry['workers']} workers {rate(entry)}" for entry in found["rates"])
    return f"steps a second: {rates}, one batch held in memory {rate(held)}; {limit}"
