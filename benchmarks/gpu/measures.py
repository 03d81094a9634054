"""Run one command of pclauto or one measurement of the GPU check, in a process of its own.

python benchmarks/gpu/measures.py '{"measure": "environment", "settings": {"device": "cuda"}, "result": "FILE"}'
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Settings = Mapping[str, Any]
# So that the measurements beside this folder are found, in spawned processes too.
BENCHMARKS = str(Path(__file__).resolve().parents[1])
# What must be there for anything to work: where packages are carried to a machine, some are forgotten.
MODULES = (
    *("PIL", "SimpleITK", "acvl_utils", "batchgenerators", "batchgeneratorsv2", "blosc2", "cc3d"),
    *("dynamic_network_architectures", "filelock", "jinja2", "matplotlib", "nibabel", "nnunetv2", "numpy", "pandas"),
    *("requests", "rich", "scipy", "seaborn", "skimage", "sklearn", "threadpoolctl", "tifffile", "torch", "typer"),
)
# The features that the contrastive loss takes must give the network's own logits, in half precision.
MAX_FEATURE_ERROR = 0.02


def perform(spec: Settings) -> int:
    """Do what ``spec`` says and return the exit code.

    ``pclauto``: the arguments of a command; else ``measure`` names one of :data:`MEASURES`, ``settings`` go to it,
    and ``result`` is the JSON file for what it returns.
    """
    if BENCHMARKS not in sys.path:
        sys.path.insert(0, BENCHMARKS)
    if spec.get("fixed_kernels"):
        fix_kernels()
    if "pclauto" in spec:
        from pcl_auto.cli.main import run

        sys.argv = ["pclauto", *spec["pclauto"]]
        run()
        return 0
    found = MEASURES[spec["measure"]](spec["settings"])
    Path(spec["result"]).write_text(json.dumps(found), encoding="utf-8")
    return 0


def fix_kernels() -> None:
    """Keep cuDNN from choosing its kernels by timing them: two processes may choose differently, and round so."""
    import torch

    # Many set the attribute later; this way none of them reaches the setting behind it.
    setattr(type(torch.backends.cudnn), "benchmark", False)  # noqa: B010 (mypy takes it for a module)
    torch.backends.cudnn.deterministic = True


# --- the machine ----------------------------------------------------------------------------------------------


def environment(settings: Settings) -> dict[str, Any]:
    """Describe device and software, and compute something on the device."""
    import torch

    from pcl_auto import __version__
    from pcl_auto.nnunet.environment import available_cores

    found: dict[str, Any] = {
        "device": settings["device"],
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "nnunetv2": _version("nnunetv2"),
        "pclauto": __version__,
        "missing": [name for name in MODULES if importlib.util.find_spec(name) is None],
        "cores": available_cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "shared_memory_gb": _shared_memory_gb(),
    }
    if settings["device"] == "cuda":
        found |= _gpu()
    compute(settings)
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _gpu() -> dict[str, Any]:
    import torch

    facts = torch.cuda.get_device_properties(0)
    return {
        "gpu": facts.name,
        "gpu_memory_gb": round(facts.total_memory / 2**30, 1),
        "gpus": torch.cuda.device_count(),
        "driver": _nvidia_smi("driver_version") or "unknown",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "compute_capability": f"{facts.major}.{facts.minor}",
        "bf16": torch.cuda.is_bf16_supported(),
    }


def _shared_memory_gb() -> float | None:
    """Tell the size of /dev/shm, through which workers hand over their patches."""
    try:
        return round(shutil.disk_usage("/dev/shm").total / 2**30, 1)
    except OSError:
        return None


def _nvidia_smi(query: str) -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else ""


def compute(settings: Settings) -> dict[str, Any]:
    """Multiply on the device and on the processor, which a fork cannot do if its parent has used the device.

    Raises:
        RuntimeError: the device gives a wrong product.
    """
    import numpy as np
    import torch

    ones = torch.ones(512, 512)
    for product in (ones.to(settings["device"]) @ ones.to(settings["device"]), ones @ ones):
        if float(product.mean()) != len(ones):
            raise RuntimeError("a product of ones is wrong")
    return {"product": float((np.ones((64, 64)) @ np.ones((64, 64))).mean())}


def compiles(settings: Settings) -> dict[str, Any]:
    """Train a small network compiled and not, and compare: the largest difference of gradients, and seconds."""
    import torch
    from torch import nn

    from pcl_auto.nnunet.network import half_precision

    device = torch.device(settings["device"])
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1), nn.InstanceNorm3d(8, affine=True), nn.LeakyReLU(), nn.Conv3d(8, 2, 1)
    ).to(device)
    images = torch.randn(2, 1, 16, 16, 16, device=device)
    gradients: list[torch.Tensor] = []
    seconds = 0.0
    weight: Any = network[0].weight
    forwards: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (network, torch.compile(network))
    for forward in forwards:
        begun = time.monotonic()
        network.zero_grad()
        with half_precision(device):
            loss = forward(images).float().square().mean()
        torch.autograd.backward(loss)
        gradients.append(weight.grad.detach().float().cpu())
        seconds = time.monotonic() - begun
    error = float((gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max())
    return {"error": error, "seconds": seconds}


# --- on a prepared split --------------------------------------------------------------------------------------


@contextmanager
def _prepared(settings: Settings) -> Iterator[Any]:
    """Give the split that the check's default training has prepared; remove its scratch folder at the end."""
    from pcl_auto.workspace.folders import Workspace

    workspace = Workspace.at(Path(settings["workspace"]), "a check's own")
    scratch = Path(settings["scratch"])
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        yield importlib.import_module("prepared").Prepared(
            workspace=workspace,
            data=workspace.dataset(None),
            plans_name=settings["plans"],
            configuration=settings["configuration"],
            device=settings["device"],
            workers=settings["workers"],
            scratch=scratch,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def features(settings: Settings) -> dict[str, Any]:
    """Check that the contrastive loss gets the features of the pass, and that gradients come through."""
    import torch
    from torch._dynamo import OptimizedModule

    from pcl_auto.nnunet.network import half_precision, segmentation_head, unwrapped
    from pcl_auto.nnunet.training.joint_trainer import nnUNetTrainerPCL

    with _prepared(settings) as split:
        trainer = split.trainer(nnUNetTrainerPCL)
        trainer.on_train_start()
        network: Any = unwrapped(trainer.network)
        head = torch.nn.Sequential(*segmentation_head(network, trainer.recipe.contrast.head_convolutions))
        torch.manual_seed(0)
        patch = trainer.configuration_manager.patch_size
        errors, taken = [], torch.empty(0)
        # The second pass is compiled already; a pass without gradients in between must leave nothing.
        for _ in range(2):
            images = torch.randn(trainer.configuration_manager.batch_size, trainer.num_input_channels, *patch)
            outputs = trainer.forward(images.to(trainer.device))
            taken = trainer.joint_step.contrast.features.take()
            with torch.no_grad(), half_precision(trainer.device):
                logits = head(taken).float()
                errors.append(float((logits - outputs[0].float()).abs().max() / logits.abs().max()))
                trainer.forward(images.to(trainer.device))
        network.zero_grad()
        torch.autograd.backward(taken.float().square().mean())
        gradient = next(parameter.grad for parameter in network.encoder.parameters() if parameter.grad is not None)
        norm = float(gradient.norm())
        return {
            "compiled": isinstance(trainer.network, OptimizedModule),
            "error": max(errors),
            "gradient": norm if math.isfinite(norm) else None,
            "width": trainer.joint_step.contrast.features.width,
        }


def step(settings: Settings) -> dict[str, Any]:
    """Time joint, supervised and stock steps in turns, as ``benchmarks/step_cost.py`` does, here in one process."""
    cost = importlib.import_module("step_cost")
    with _prepared(settings) as split:
        steppers = {arm: cost.Stepper(arm, split) for arm in cost.ARMS}
        found: dict[str, list[dict[str, float]]] = {arm: [] for arm in cost.ARMS}
        try:
            for stepper in steppers.values():
                stepper.block(settings["warm_up"])
            for _ in range(settings["blocks"]):
                for arm, stepper in steppers.items():
                    found[arm].append(stepper.block(settings["steps"]))
            patches = steppers[cost.JOINT].trainer.configuration_manager.batch_size
        finally:
            for stepper in steppers.values():
                stepper.finish()
    arms = {
        arm: {key: statistics.median(block[key] for block in blocks) for key in ("step", "drawing")}
        for arm, blocks in found.items()
    }
    ratios = {other: cost.ratio(found[cost.JOINT], found[other]) for other in (cost.SUPERVISED, cost.STOCK)}
    return {"arms": arms, "ratios": ratios, "target": cost.TARGET, "patches": patches}


def loader(settings: Settings) -> dict[str, Any]:
    """Count steps per second with some numbers of workers, and on one batch that is held in memory."""
    from pcl_auto.nnunet.data import patch_streams
    from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised

    with _prepared(settings) as split:
        trainer = split.trainer(nnUNetTrainerPCLSupervised)
        trainer.on_train_start()
        patches, device, seconds = trainer.configuration_manager.batch_size, settings["device"], settings["seconds"]
        rates: list[dict[str, Any]] = []
        batch: dict[str, Any] = {}

        def take_step() -> None:
            nonlocal batch
            batch = patch_streams.next_batch(trainer.dataloader_train)
            trainer.train_step(batch)

        try:
            for workers in settings["numbers"]:
                os.environ["nnUNet_n_proc_DA"] = str(workers)
                trainer._open_streams(patches)
                trainer.on_train_epoch_start()
                # What was drawn ahead says nothing of the pace: nnU-Net's queues, and what each worker holds.
                ahead = 2 * max(6, workers // 2) + workers + 3 if workers else 1
                _rate(take_step, device, seconds / 2, ahead)
                rates.append({"workers": workers, **_rate(take_step, device, seconds)})
            trainer._close_streams()
            held = _rate(lambda: trainer.train_step(batch), device, seconds / 2)
        finally:
            trainer._close_streams()
    return {"patches": patches, "rates": rates, "held": held}


def _rate(action: Callable[[], Any], device: str, seconds: float, most: int = 10**6) -> dict[str, Any]:
    """Count how often ``action`` is done in a second, for so long or so many times, and how busy the GPU is then."""
    import torch

    with _utilization(device) as seen:
        begun, times = time.monotonic(), 0
        while times < most and (times == 0 or time.monotonic() - begun < seconds):
            action()
            times += 1
        if device == "cuda":
            torch.cuda.synchronize()
        passed = time.monotonic() - begun
    return {"steps_per_s": times / passed, "steps": times, "utilization": statistics.mean(seen) if seen else None}


@contextmanager
def _utilization(device: str) -> Iterator[list[int]]:
    """Let nvidia-smi look at the GPU all the while; afterwards the list has what it saw, in percent."""
    seen: list[int] = []
    found = shutil.which("nvidia-smi") if device == "cuda" else None
    if found is None:
        yield seen
        return
    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    with subprocess.Popen([found, "-i", "0", *query], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield seen
        finally:
            process.terminate()
            output, _ = process.communicate()
            seen += [int(line) for line in output.decode(errors="replace").split() if line.isdecimal()]


def pseudo_labels(settings: Settings) -> dict[str, Any]:
    """Pseudo-label cases as a round does, by the parts of ``benchmarks/pseudo_label_cost.py``."""
    cost = importlib.import_module("pseudo_label_cost")
    with _prepared(settings) as split:
        model = cost._start(split)
        cases = model.cases[: settings["cases"]]
        # The first scan chooses kernels.
        cost._pseudo_label(split, cases[:1], split.scratch / "first", mirroring=False)
        found = cost._pseudo_label(split, cases, split.scratch / "round", mirroring=False)
    return {**found, "cases": len(cases), "trained": model.trained}


# --- files ----------------------------------------------------------------------------------------------------


def compare_weights(settings: Settings) -> dict[str, Any]:
    """Compare the network weights of two checkpoints."""
    import torch

    from pcl_auto.nnunet.checkpoint_files import read_checkpoint

    one, other = (read_checkpoint(Path(file))["network_weights"] for file in settings["files"])
    differing = [key for key in one if not torch.equal(one[key], other[key])]
    largest = max((float((one[key] - other[key]).abs().max()) for key in differing), default=0.0)
    return {"tensors": len(one), "differing": len(differing), "largest": largest}


def split_channels(settings: Settings) -> dict[str, Any]:
    """Write scans with the names that nnUNetv2_predict wants: one file per case and channel."""
    import SimpleITK

    folder = Path(settings["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    for file in map(Path, settings["scans"]):
        case = file.name.removesuffix(".gz").removesuffix(".nii")
        image = SimpleITK.ReadImage(str(file))
        channels = image.GetSize()[3] if image.GetDimension() == 4 else 1
        for number in range(channels):
            size = (*image.GetSize()[:3], 0)
            channel = SimpleITK.Extract(image, size, (0, 0, 0, number)) if image.GetDimension() == 4 else image
            SimpleITK.WriteImage(channel, str(folder / f"{case}_{number:04d}.nii.gz"))
    return {"scans": len(settings["scans"])}


def compare_masks(settings: Settings) -> dict[str, Any]:
    """Count the voxels in which our masks and those of stock nnU-Net differ."""
    import SimpleITK

    ours, theirs = (Path(folder) for folder in settings["folders"])
    masks, voxels, differing, foreground = 0, 0, 0, 0
    for file in sorted(ours.glob("*.nii.gz")):
        one, other = (
            SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))) for path in (file, theirs / file.name)
        )
        masks += 1
        voxels += one.size
        differing += int((one != other).sum()) if one.shape == other.shape else one.size
        foreground += int((one > 0).sum())
    return {"masks": masks, "voxels": voxels, "differing": differing, "foreground": foreground}


MEASURES: dict[str, Callable[[Settings], dict[str, Any]]] = {
    measure.__name__: measure
    for measure in (
        environment,
        compute,
        compiles,
        features,
        step,
        loader,
        pseudo_labels,
        compare_weights,
        split_channels,
        compare_masks,
    )
}

if __name__ == "__main__":
    sys.exit(perform(json.loads(sys.argv[1])))
