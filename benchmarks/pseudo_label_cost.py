"""What pseudo-labelling a pool costs in process, against `nnUNetv2_predict` on the same scans.

    pclauto train --labeled 2 --recipe quick --workspace W
    python benchmarks/pseudo_label_cost.py W nnUNetPlans_L2_s0_quick

Both segment every unlabelled case of the split with the model that the run has left, without mirroring, on the same
device. Ours reads the case store and writes pseudo-labels as training reads them; nnU-Net reads and preprocesses the
scans and writes masks, with its own defaults for processes. Prints seconds, their ratio, and our memory after half of
the pool and after all of it. For tasks of one channel: their scans are what `nnUNetv2_predict` reads.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from step_cost import JOINT, build

TARGET = 0.5


def segment(trainer: Any, cases: list[str], folder: Path) -> float:
    """Seconds of pseudo-labelling ``cases`` into ``folder``."""
    from pcl_auto.nnunet import pseudo_labels

    started = time.perf_counter()
    pseudo_labels.predict_round(
        trainer._segmenter(trainer.network),
        cases,
        trainer.store,
        pseudo_labels.RoundFolder(folder),
        patch_voxels=tuple(trainer.configuration_manager.patch_size),
        classes=list(trainer.labeled.classes.values()),
        one_piece=[],
        check=None,
        progress=lambda _done, _total: None,
    )
    return time.perf_counter() - started


def predict(model: Path, images: dict[str, Path], device: str, folder: Path) -> float:
    """Seconds of `nnUNetv2_predict_from_modelfolder` on ``images``."""
    scans = folder / "scans"
    scans.mkdir()
    for case, image in images.items():
        (scans / f"{case}_0000.nii.gz").symlink_to(image)
    command = Path(sys.executable).with_name("nnUNetv2_predict_from_modelfolder")
    started = time.perf_counter()
    subprocess.run(
        [command, "-i", scans, "-o", folder / "masks", "-m", model, "-f", "all", "-device", device, "--disable_tta"],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def resident_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("plans")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with redirect_stdout(sys.stderr):
        trainer = build(JOINT, arguments.workspace, arguments.plans, arguments.device)

    from pcl_auto.planning.plan import read_plan

    plan = read_plan(trainer.data)
    if len(plan.dataset_json["channel_names"]) != 1:
        sys.exit("this comparison takes a task of one channel")
    model = Path(trainer.output_folder_base)
    trainer.load_checkpoint(str(model / "fold_all" / "checkpoint_final.pth"))
    cases = sorted(trainer.split.unlabeled)
    half = len(cases) // 2
    with tempfile.TemporaryDirectory() as place:
        first = segment(trainer, cases[:half], Path(place) / "ours")
        after_half = resident_mb()
        ours = first + segment(trainer, cases[half:], Path(place) / "ours")
        stock = predict(model, {case: plan.cases[case].image for case in cases}, arguments.device, Path(place))
    print(
        json.dumps(
            {
                "cases": len(cases),
                "ours_s": round(ours, 1),
                "nnUNetv2_predict_s": round(stock, 1),
                "ratio": round(ours / stock, 3),
                "target": TARGET,
                "peak_mb_after_half": after_half,
                "peak_mb_after_all": resident_mb(),
                "cores": len(os.sched_getaffinity(0)),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
