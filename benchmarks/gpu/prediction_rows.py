"""Predict with pclauto and with stock nnU-Net, and compare the masks."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path
from typing import Any

from bench import Bench, Found, NotRunError
from training_rows import run_folder

_STOCK = """\
import os, sys
sys.modules["pcl_auto"] = None
if os.environ.get("FIXED_KERNELS"):
    import torch
    type(torch.backends.cudnn).benchmark = False
    torch.backends.cudnn.deterministic = True
if __name__ == "__main__":
    from nnunetv2.inference import predict_from_raw_data as stock
    scans, masks, model, device, sequential = sys.argv[1:]
    if sequential == "sequential":
        import torch
        predictor = stock.nnUNetPredictor(device=torch.device(device), use_mirroring=False, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(model, ("all",))
        os.makedirs(masks)
        predictor.predict_from_files_sequential(scans, masks)
    else:
        sys.argv = ["predict", "-i", scans, "-o", masks, "-m", model, "-f", "all", "-device", device]
        stock.predict_entry_point_modelfolder()
"""


def predict(bench: Bench) -> Found:
    """Segment scans with ours and with stock nnU-Net, which knows nothing of us, and compare the masks."""
    scans = _scans(bench)
    model = run_folder(bench, "check_default").parent
    channels = bench.work / "channels"
    bench.measure("split_channels", {"scans": [str(scan) for scan in scans], "folder": str(channels)})
    stock = bench.work / "stock.py"
    stock.write_text(_STOCK, encoding="utf-8")

    def segment(name: str, *, fixed: bool) -> tuple[dict[str, Any], dict[str, float], list[float]]:
        ours, theirs = bench.work / f"ours_{name}", bench.work / f"theirs_{name}"
        for folder in (ours, theirs):
            shutil.rmtree(folder, ignore_errors=True)
        command = ["predict", *scans, "-o", ours, "--model", model, "--device", bench.device, "--no-quality"]
        if bench.sizes.tiny:
            ours_s = bench.pclauto(*command, "--no-mirroring")
        elif fixed:
            ours_s = bench.pclauto(*command, fixed_kernels=True)
        else:  # as a user starts it: its time can be compared
            ours_s = bench.command(sys.executable, "-m", "pcl_auto", *bench.arguments(*command))
        how = "sequential" if bench.sizes.tiny else "in parallel"
        variables = {"FIXED_KERNELS": "1"} if fixed else {}
        theirs_s = bench.command(sys.executable, stock, channels, theirs, model, bench.device, how, **variables)
        found = bench.measure("compare_masks", {"folders": [str(ours), str(theirs)]})
        return found, {"ours": ours_s, "stock": theirs_s}, [_seconds_per_mask(folder) for folder in (ours, theirs)]

    found, seconds, each = segment("as_they_are", fixed=False)
    problems = [] if found["masks"] == len(scans) else [f"{found['masks']} masks of {len(scans)} scans"]
    differing, figures = found["differing"], ""
    if differing and bench.device == "cuda":
        figures = f"{differing} of {found['voxels']} voxels differ where cuDNN times its kernels, with fixed ones "
        again, _, _ = segment("fixed", fixed=True)
        differing = again["differing"]
        figures += f"{differing}; "
    if differing:
        problems.append(f"{differing} of {found['voxels']} voxels differ")
    figures += (
        f"{found['masks']} masks, {found['foreground']} voxels in them; ours {seconds['ours']:.1f} s, "
        f"stock {seconds['stock']:.1f} s; a scan more {each[0]:.2f} s and {each[1]:.2f} s"
    )
    return Found(figures, tuple(problems), {**found, "command_s": seconds, "seconds_per_scan": each})


def _scans(bench: Bench) -> list[Path]:
    folder = next((bench.task / name for name in ("imagesTs", "imagesTr") if (bench.task / name).is_dir()), bench.task)
    found = sorted(file for file in folder.glob("*.nii*") if not file.name.startswith("."))
    if not found:
        raise NotRunError(f"no scans in {folder.name}")
    return found[: bench.sizes.scans]


def _seconds_per_mask(folder: Path) -> float:
    """Estimate the seconds per mask from the times of the first and the last file, which leaves out the start."""
    times = [file.stat().st_mtime for file in folder.glob("*.nii.gz")]
    return (max(times) - min(times)) / (len(times) - 1) if len(times) > 1 else math.nan
