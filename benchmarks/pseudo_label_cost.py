"""Compare pseudo-labeling a pool in process with `nnUNetv2_predict` on the same scans with the same model.

    python benchmarks/pseudo_label_cost.py                                        (on the demo's phantom)
    pclauto train --workspace W --labeled 2 --recipe quick
    python benchmarks/pseudo_label_cost.py W nnUNetPlans_L2_s0_quick

Both segment the unlabeled cases of the split, without and with mirroring along the same axes. Ours is what a round
starts with: it reads the case store, in which every scan was preprocessed once, segments in the trainer's process,
writes pseudo-labels as training reads them and judges them. `nnUNetv2_predict` is a process of its own with its own
defaults: it starts, preprocesses the scans, segments, resamples and writes masks. The weights are those that the
split's training has left in the workspace; without them they are untrained, which costs the network as much. In a
small pool nnUNetv2_predict's start is most of its time: take dozens of cases, and read the ratio of a case more.

Memory is that of our process, in halves of the pool: what it holds after the first half and after all, and the peaks
of each half. A pool that is twice as large must not take more.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from prepared import Prepared, machine, parser, precision, prepared, print_line, print_table

from pcl_auto.workspace.files import finite

# Of our time to nnUNetv2_predict's.
TARGET = 0.5
# The content of the script nnUNetv2_predict, which is missing where packages are found by PYTHONPATH alone.
PREDICT = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point; predict_entry_point()"
MIRRORINGS = {"off": [False], "on": [True], "both": [False, True]}


@dataclass(frozen=True)
class Model:
    """The cases, and the model that both sides segment with, as the process of the trainer reports them."""

    cases: list[str]
    trained: bool
    trainer: str
    mirror_axes: list[int]


# In the process of the trainer.
_trainer: Any


def _start(split: Prepared) -> Model:
    """Build the trainer as a round has it and leave its model where nnUNetv2_predict looks for one."""
    from pcl_auto.nnunet.training.joint_trainer import nnUNetTrainerPCL
    from pcl_auto.workspace.processes import output_to
    from pcl_auto.workspace.resources import keep_freed_memory
    from pcl_auto.workspace.run_record import FINAL

    global _trainer  # noqa: PLW0603 (what a process keeps between its calls)
    if split.device == "cpu":
        keep_freed_memory()  # as `pclauto train` does
    with output_to(split.scratch / "ours.txt"):
        _trainer = split.trainer(nnUNetTrainerPCL)
        _trainer.on_train_start()
        if split.trained().is_file():
            _trainer.load_checkpoint(str(split.trained()))
        else:
            # A training learns here along which axes prediction mirrors.
            _trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        _trainer.save_checkpoint(str(_trainer.run_folder / FINAL))
    return Model(
        cases=list(_trainer.split.unlabeled),
        trained=split.trained().is_file(),
        trainer=type(_trainer).__name__,
        mirror_axes=list(_trainer.inference_allowed_mirroring_axes or ()),
    )


def _pseudo_label(split: Prepared, cases: list[str], folder: Path, *, mirroring: bool) -> dict[str, float]:
    """Pseudo-label ``cases`` as a round does; return seconds, and the memory of this process."""
    import torch

    from pcl_auto.nnunet.data.pseudo_label_files import RoundFolder
    from pcl_auto.workspace.processes import output_to
    from pcl_auto.workspace.resources import forget_peak_memory, peak_memory_mb

    recipe = _trainer.recipe
    recipe = replace(recipe, pseudo_labels=replace(recipe.pseudo_labels, mirroring=mirroring))
    _trainer.settings = replace(_trainer.settings, recipe=recipe)
    cuda = torch.cuda if _trainer.device.type == "cuda" else None
    forget_peak_memory()
    if cuda is not None:
        cuda.reset_peak_memory_stats()
    started = perf_counter()
    with output_to(split.scratch / "ours.txt"):
        _trainer.stage.label(_trainer.stage.segmenter(_trainer.network), cases, RoundFolder(folder), 1)
    seconds = perf_counter() - started
    peak = peak_memory_mb()
    # Counted anew, the peak is what is held now.
    forget_peak_memory()
    memory = {"peak_mb": peak, "held_mb": peak_memory_mb()}
    if cuda is not None:
        memory |= {"peak_cuda_mb": cuda.max_memory_allocated() // 2**20}
    return {"seconds": seconds, **memory}


def write_scans(split: Prepared, cases: list[str], folder: Path) -> None:
    """Write the scans of ``cases`` with the names that nnUNetv2_predict wants: one file per case and channel."""
    import nibabel

    from pcl_auto.planning.plan import read_plan

    folder.mkdir()
    plan = read_plan(split.data)
    ending = plan.dataset_json["file_ending"]
    for case in cases:
        image = nibabel.load(plan.cases[case].image)
        channels = [image] if image.ndim == 3 else [image.slicer[..., channel] for channel in range(image.shape[3])]
        for number, channel in enumerate(channels):
            nibabel.save(channel, folder / f"{case}_{number:04d}{ending}")


class StockPredict:
    """`nnUNetv2_predict` with the model that the trainer has left."""

    def __init__(self, split: Prepared, model: Model) -> None:
        self._split, self._model = split, model
        folders = {"nnUNet_raw": split.workspace.raw, "nnUNet_preprocessed": split.workspace.preprocessed}
        self._environment = {**os.environ, **{name: str(folder) for name, folder in folders.items()}}
        self._environment["nnUNet_results"] = str(split.scratch / "results")

    def run(self, cases: list[str], *, mirroring: bool) -> float:
        """Return the seconds of the whole command on ``cases``."""
        split, scans, masks = self._split, self._split.scratch / "scans", self._split.scratch / "masks"
        write_scans(split, cases, scans)
        where = ["-d", split.data.name, "-tr", self._model.trainer, "-p", split.plans_name, "-c", split.configuration]
        how = ["-f", "all", "-device", split.device, *([] if mirroring else ["--disable_tta"])]
        command = [sys.executable, "-c", PREDICT, "-i", str(scans), "-o", str(masks), *where, *how]
        started = perf_counter()
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        seconds = perf_counter() - started
        missing = [case for case in cases if not list(masks.glob(f"{case}.*"))]
        if done.returncode or missing:
            sys.exit(
                f"nnUNetv2_predict failed, without masks of {missing}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
            )
        shutil.rmtree(scans)
        shutil.rmtree(masks)
        return seconds


def measure(split: Prepared, mirrorings: list[bool], repeats: int, most_cases: int | None) -> dict[str, Any]:
    """Time both sides in turns, and measure our memory after half of the pool and all of it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as ours:
        model = ours.submit(_start, split).result()
        model = replace(model, cases=model.cases[:most_cases])
        if not model.cases:
            sys.exit("the split has no unlabeled case")
        stock = StockPredict(split, model)
        half = (len(model.cases) + 1) // 2
        rows, memory = [], []
        for mirroring in mirrorings:
            times: dict[str, list[float]] = {"ours": [], "nnUNetv2_predict": []}
            for number in range(repeats):
                folder = split.scratch / f"round_{mirroring}_{number}"
                parts = [
                    ours.submit(_pseudo_label, split, cases, folder / name, mirroring=mirroring).result()
                    for name, cases in (("first", model.cases[:half]), ("second", model.cases[half:]))
                    if cases
                ]
                memory.append({"mirroring": mirroring, "halves": parts})
                shutil.rmtree(folder)
                times["ours"].append(sum(part["seconds"] for part in parts))
                times["nnUNetv2_predict"].append(stock.run(model.cases, mirroring=mirroring))
                line = ", ".join(f"{side} {found[-1]:.1f} s" for side, found in times.items())
                print_line(f"mirroring {'on' if mirroring else 'off'}, {number + 1}/{repeats}: {line}")
            row = compared(times, stock.run(model.cases[:1], mirroring=mirroring), len(model.cases))
            rows.append({"mirroring": mirroring, **row})
    return {
        "dataset": split.data.name,
        "plans": split.plans_name,
        "configuration": split.configuration,
        "cases": len(model.cases),
        "half": half,
        "weights": "trained" if model.trained else "untrained",
        "mirror_axes": model.mirror_axes,
        "precision": {
            "ours": precision(split.device, stock=False),
            "nnUNetv2_predict": precision(split.device, stock=True),
        },
        "target_ratio": TARGET,
        "times": rows,
        "memory": memory,
        "machine": machine(split.device),
    }


def compared(times: dict[str, list[float]], one_case_s: float, cases: int) -> dict[str, Any]:
    """Return the medians of both sides and their ratio, of the whole pool and of a case more.

    A case more costs nnUNetv2_predict what the pool takes beyond the first of it: its start counts once.
    """
    ours, stock = (statistics.median(found) for found in times.values())
    more = (stock - one_case_s) / (cases - 1) if cases > 1 else math.nan
    return {
        "ours_s": ours,
        "nnUNetv2_predict_s": stock,
        "ratio": statistics.median(mine / theirs for mine, theirs in zip(*times.values(), strict=True)),
        "nnUNetv2_predict_one_case_s": one_case_s,
        "ratio_of_a_case_more": ours / cases / more if more > 0 else math.nan,
        "all_s": times,
    }


def render(results: dict[str, Any]) -> None:
    """Print the results as tables."""
    formats = results["precision"]
    print(f"{results['dataset']}, {results['plans']}, {results['machine']['device']}; {results['weights']} weights")
    print(f"{results['cases']} cases; ours in {formats['ours']}, nnUNetv2_predict in {formats['nnUNetv2_predict']}")
    print_table(
        ["mirroring", "ours s", "nnUNetv2_predict s", "ratio", "its first case s", "ratio of a case more"],
        [
            [
                f"along axes {results['mirror_axes']}" if row["mirroring"] else "off",
                f"{row['ours_s']:.1f}",
                f"{row['nnUNetv2_predict_s']:.1f}",
                f"{row['ratio']:.3f}",
                f"{row['nnUNetv2_predict_one_case_s']:.1f}",
                f"{row['ratio_of_a_case_more']:.3f}",
            ]
            for row in results["times"]
        ],
    )
    print(f"target: at most {TARGET:.2f} of its time; its first case holds its start")
    measured = list(results["memory"][0]["halves"][0])[1:]
    rows = []
    for number, entry in enumerate(results["memory"]):
        for part, cases in zip(entry["halves"], (results["half"], results["cases"]), strict=False):
            what = f"pass {number + 1}, mirroring {'on' if entry['mirroring'] else 'off'}, {cases} cases"
            rows.append([what, *(str(part[key]) for key in measured)])
    print_table(["memory after", *(key.replace("_", " ").replace("mb", "MB") for key in measured)], rows)


def main() -> None:
    options_of = parser(__doc__ or "")
    options_of.add_argument("--mirroring", choices=MIRRORINGS, default="both")
    options_of.add_argument("--repeats", type=int, default=1, help="of both sides, in turns")
    options_of.add_argument("--cases", type=int, help="take so many unlabeled cases; default: all")
    options = options_of.parse_args()
    with prepared(options) as split:
        results = measure(split, MIRRORINGS[options.mirroring], options.repeats, options.cases)
    if options.json:
        print(json.dumps(finite(results), indent=1))
    else:
        render(results)


if __name__ == "__main__":
    main()
