"""The rows of the check: what each does, within which time, and when it has passed."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervise import TimedOutError, orphans_after

if TYPE_CHECKING:
    from check import Bench

JOINT, BASELINE = "nnUNetTrainerPCL", "nnUNetTrainerPCLSupervised"
# Of measured to forecast GPU memory: nnU-Net estimates, and cuDNN takes what is free while it looks for kernels.
MEMORY_BAND = (0.25, 1.5)
# Of the rate on a batch held in memory: with less the loader is the limit.
LOADER_KEEPS_UP = 0.9
# Of a compiled network's gradients to those of the same network, in half precision.
MAX_COMPILE_ERROR = 0.02
SECONDS_FOR_WORKERS_TO_GO = 15.0


class NotRunError(Exception):
    """A row has found that it cannot be done here; the message is the reason."""


class ChildFailedError(Exception):
    """A process of a row has not ended well."""


@dataclass(frozen=True)
class Found:
    """Collect a row's figures for the table, the reasons for which it fails, and its numbers for the JSON file."""

    figures: str
    problems: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    ``limit_s``: after so long it is killed. ``least_s``: with less time left it is not begun. ``needs``: rows that must
    have passed. ``gpu``: whether it says nothing without one.
    """

    name: str
    work: Callable[[Bench], Found]
    limit_s: float
    least_s: float
    needs: tuple[str, ...] = ("plan",)
    gpu: bool = False


@dataclass(frozen=True)
class Schedule:
    """The length of a training: epochs of ``steps``, supervised ones and then rounds."""

    steps: int
    supervised: int
    rounds: int
    per_round: int


@dataclass(frozen=True)
class Sizes:
    """Set how much the rows do, on a GPU or in the tiny form."""

    tiny: bool
    schedules: Mapping[str, Schedule]
    scans: int
    pseudo_labels: int
    step_blocks: int
    step_steps: int
    step_warm_up: int
    loader_s: float
    phantom_unlabeled: int = 2

    def least(self, row: Row) -> float:
        """The time that must be left for ``row``; in the tiny form nobody knows."""
        return 1.0 if self.tiny else row.least_s


FULL = Sizes(
    tiny=False,
    schedules={
        "check_default": Schedule(25, 8, 2, 3),
        "check_compiled": Schedule(25, 4, 1, 4),
        "check_paper": Schedule(25, 4, 1, 4),
        "check_resume": Schedule(25, 4, 1, 2),
        "check_deterministic": Schedule(5, 1, 1, 1),
    },
    scans=12,
    pseudo_labels=40,
    step_blocks=5,
    step_steps=25,
    step_warm_up=25,
    loader_s=6.0,
)
TINY = Sizes(
    tiny=True,
    schedules={
        "check_default": Schedule(3, 2, 1, 1),
        "check_compiled": Schedule(2, 1, 1, 1),
        "check_paper": Schedule(1, 1, 1, 1),
        "check_resume": Schedule(2, 2, 1, 1),
        "check_deterministic": Schedule(1, 1, 1, 1),
    },
    scans=2,
    pseudo_labels=2,
    step_blocks=1,
    step_steps=1,
    step_warm_up=1,
    loader_s=1.0,
    phantom_unlabeled=2,
)
# What a network of seconds on a CPU is: the phantom's patches are small, and this makes it learn at once.
_TINY_RECIPE = """
[optimizer]
name = "adamw"
learning_rate = 2e-3
weight_decay = 1e-2
[batch]
patches = 2
[network]
width = 0.25
"""


# --- the machine and the plan ---------------------------------------------------------------------------------


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


# --- training -------------------------------------------------------------------------------------------------


def recipe_text(base: str, schedule: Schedule, *, tiny: bool) -> str:
    """The recipe ``base`` in the length of a check; rounds are joint even where pseudo-labels are poor."""
    return (
        f'extends = "{base}"\n'
        "[schedule]\n"
        f"steps_per_epoch = {schedule.steps}\n"
        f"supervised_epochs = {schedule.supervised}\n"
        f"rounds = {schedule.rounds}\n"
        f"epochs_per_round = {schedule.per_round}\n"
        "[judgement]\n"
        "degenerate_margin = 0.0\n"
    ) + (_TINY_RECIPE if tiny else "")


def _recipe(bench: Bench, name: str) -> Path:
    file = bench.work / f"{name}.toml"
    base = "paper" if name == "check_paper" else "default"
    file.write_text(recipe_text(base, bench.sizes.schedules[name], tiny=bench.sizes.tiny), encoding="utf-8")
    return file


def _train(bench: Bench, name: str, *options: str, compiled: bool = False) -> float:
    """Train with the recipe ``name`` on two labels; the seconds that the command took."""
    return bench.pclauto(*_training(bench, name, *options), compiled=compiled)


def _training(bench: Bench, name: str, *options: str) -> list[object]:
    return ["train", "--labeled", "2", "--recipe", _recipe(bench, name), "--device", bench.device, *options]


def _run_folder(bench: Bench, name: str, trainer: str = JOINT) -> Path:
    (found,) = (bench.workspace / "nnUNet_results").glob(f"*/{trainer}__*_{name}__*/fold_all")
    return found


def read_events(file: Path) -> list[dict[str, Any]]:
    """Read what a run has on record; half a line at the end is none."""
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line]


def training_figures(events: Iterable[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """Sum up a training of epochs of ``steps``: milliseconds of its kinds of steps, losses, pseudo-labels.

    Milliseconds are medians over the epochs of a kind without the first one of each stage, which chooses kernels; they
    hold a step's share of the epoch's glance at validation patches.
    """
    kinds: dict[str, dict[str, list[float]]] = {"supervised": {}, "joint": {}}
    losses: list[float | None] = []
    supervised: list[float] = []
    contrast: list[float | None] = []
    seconds = cases = 0.0
    for event in events:
        if event["event"] == "pseudo_labels":
            seconds, cases = seconds + event["seconds"], cases + event["cases"]
        if event["event"] != "epoch":
            continue
        losses += event["losses"].values()
        joint = "contrast" in event["losses"]
        kinds["joint" if joint else "supervised"].setdefault(event["stage"], []).append(event["seconds"])
        contrast += [event["losses"]["contrast"]] if joint else []
        if event["stage"] == "supervised" and event["losses"]["loss"] is not None:
            supervised.append(event["losses"]["loss"])
    ms = {
        kind: 1000 * statistics.median(warm) / steps
        for kind, stages in kinds.items()
        if (warm := [value for stage in stages.values() for value in (stage[1:] or stage)])
    }
    return {
        "ms_per_step": ms,
        "finite": bool(losses) and all(loss is not None and math.isfinite(loss) for loss in losses),
        "supervised_loss": [supervised[0], supervised[-1]] if supervised else [],
        "supervised_epochs": len(supervised),
        "falling": len(supervised) < 2 or supervised[-1] < supervised[0],
        "contrast": contrast[-1] if contrast else None,
        "pseudo_label_s": seconds / cases if cases else None,
    }


def training_problems(figures: Mapping[str, Any], *, joint: bool) -> list[str]:
    """List what speaks against a training."""
    problems = []
    if not figures["finite"]:
        problems.append("a loss is not finite")
    if not figures["falling"]:
        first, last = figures["supervised_loss"]
        problems.append(f"the supervised loss does not fall: {first:.3f}, then {last:.3f}")
    if joint and "joint" not in figures["ms_per_step"]:
        problems.append("no joint step was made")
    return problems


def _training_found(bench: Bench, name: str, seconds: float, trainer: str = JOINT, *, compiled: bool = False) -> Found:
    run = _run_folder(bench, name, trainer)
    joint = trainer == JOINT
    found = training_figures(read_events(run / "events.jsonl"), bench.sizes.schedules[name].steps)
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    measured = record["measured"]
    problems = training_problems(found, joint=joint)
    if compiled and not any("Using torch.compile" in log.read_text() for log in run.glob("training_log_*.txt")):
        problems.append("the network was not compiled")
    parts = [f"{kind} {ms:.1f} ms a step" for kind, ms in found["ms_per_step"].items()]
    if found["supervised_epochs"] > 1:
        parts.append("loss {:.3f} → {:.3f}".format(*found["supervised_loss"]))
    if found["contrast"] is not None:
        parts.append(f"contrast {found['contrast']:.3f}")
    if measured["gpu_memory_mb"] is not None:
        parts.append(f"{measured['gpu_memory_mb']} MB of the GPU")
    parts.append(f"{measured['memory_mb']} MB of the process")
    details = {**found, "measured": measured, "forecast": record["forecast"], "command_s": seconds}
    return Found(", ".join(parts), tuple(problems), details)


def train_default(bench: Bench) -> Found:
    """Train with the default recipe, not compiled."""
    return _training_found(bench, "check_default", _train(bench, "check_default"))


def train_supervised(bench: Bench) -> Found:
    """Train the baseline, not compiled."""
    seconds = _train(bench, "check_default", "--supervised-only")
    return _training_found(bench, "check_default", seconds, BASELINE)


def train_paper(bench: Bench) -> Found:
    """Train with the published recipe: a second view of every patch, which is made again for its gradients."""
    return _training_found(bench, "check_paper", _train(bench, "check_paper"))


def train_default_compiled(bench: Bench) -> Found:
    """Train with the default recipe and torch.compile, as nnU-Net does on a GPU unless told otherwise."""
    seconds = _train(bench, "check_compiled", compiled=True)
    return _training_found(bench, "check_compiled", seconds, compiled=True)


def train_supervised_compiled(bench: Bench) -> Found:
    """Train the baseline with torch.compile."""
    seconds = _train(bench, "check_compiled", "--supervised-only", compiled=True)
    return _training_found(bench, "check_compiled", seconds, BASELINE, compiled=True)


def resume(bench: Bench) -> Found:
    """Kill a training after its first checkpoint, repeat the command, and look at what stays behind."""
    name = "check_resume"
    options = ["--restart", *(["--workers", "1"] if bench.device == "cpu" else [])]
    spec = {"pclauto": bench.arguments(*_training(bench, name, *options))}
    begun = time.time()
    child = bench.start(spec)
    pattern = f"nnUNet_results/*/{JOINT}__*_{name}__*/fold_all/checkpoint_latest.pth"
    # One from before is that of an earlier check, which --restart is about to remove.
    while not (checkpoints := [file for file in bench.workspace.glob(pattern) if _written(file) >= begun]):
        if (code := child.poll()) is not None:
            raise ChildFailedError(f"the training ended with exit code {code} before its first checkpoint")
        if not bench.deadline.left():
            child.kill()
            raise TimedOutError
        time.sleep(0.02)
    # The training alone: what becomes of its workers is part of the question.
    os.kill(child.pid, signal.SIGKILL)
    while child.poll() is None:
        time.sleep(0.02)
    run = checkpoints[0].parent
    left = orphans_after(min(SECONDS_FOR_WORKERS_TO_GO, bench.deadline.left()))
    bench.pclauto(*_training(bench, name, *options[1:]))
    problems, epochs = resume_problems(read_events(run / "events.jsonl"), bench.sizes.schedules[name])
    if left:
        problems.append(f"{left} processes of the killed training went on without it")
    stale = [
        str(path.relative_to(bench.workspace))
        for pattern in ("checkpoint_latest.pth", "checkpoint_previous.pth", ".tmp")
        for path in bench.workspace.rglob(pattern)
    ]
    if stale:
        problems.append(f"left behind: {', '.join(stale[:3])}")
    figures = f"killed after epoch {epochs[0]}, gone on to epoch {epochs[1]}" if epochs else ""
    return Found(figures, tuple(problems), {"orphans": left, "stale": stale, "epochs": epochs})


def _written(file: Path) -> float:
    """Return when a file was last written, in seconds since the epoch; 0 if it is gone."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def resume_problems(
    events: Sequence[Mapping[str, Any]], schedule: Schedule
) -> tuple[list[str], tuple[int, int] | tuple[()]]:
    """List what speaks against a run that was killed and repeated; the epochs that it went on from and came to."""
    problems = []
    resumed = [event["epoch"] for event in events if event["event"] == "resumed"]
    ends = [event["epochs"] for event in events if event["event"] == "trained"]
    epochs = [event["epoch"] for event in events if event["event"] == "epoch"]
    whole = schedule.supervised + schedule.rounds * schedule.per_round
    if len(resumed) != 1 or resumed[0] < 1:
        problems.append(f"not resumed once, after an epoch: {resumed}")
    if ends != [whole]:
        problems.append(f"trained {ends} epochs, not {whole}")
    if sorted(set(epochs)) != list(range(1, whole + 1)):
        problems.append(f"epochs on record are {sorted(set(epochs))}")
    return problems, (resumed[0], whole) if resumed else ()


def deterministic(bench: Bench) -> Found:
    """Train twice with one seed and compare the weights."""
    name = "check_deterministic"
    _train(bench, name, "--deterministic", "--seed", "0")
    final = _run_folder(bench, f"{name}_deterministic") / "checkpoint_final.pth"
    first = bench.work / "first.pth"
    shutil.copyfile(final, first)
    _train(bench, name, "--deterministic", "--seed", "0", "--restart")
    found = bench.measure("compare_weights", {"files": [str(first), str(final)]})
    first.unlink()
    problems = []
    if found["differing"]:
        problems.append(f"{found['differing']} of {found['tensors']} tensors differ, by up to {found['largest']:.2g}")
    return Found(f"{found['tensors']} tensors compared", tuple(problems), found)


# --- prediction -----------------------------------------------------------------------------------------------

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
    model = _run_folder(bench, "check_default").parent
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


# --- costs ----------------------------------------------------------------------------------------------------


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
    run = _run_folder(bench, "check_default")
    _, plans, configuration = run.parent.name.split("__")
    return {
        "workspace": str(bench.workspace),
        "plans": plans,
        "configuration": configuration,
        "scratch": str(bench.work / "scratch"),
        "workers": workers,
    }


def _workers(bench: Bench) -> int:
    """Workers for each of the three trainers that step in turns."""
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
    from measures import MAX_FEATURE_ERROR

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
