"""Prepare a split to measure on and describe the machine, for all benchmarks of this folder."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pcl_auto import __version__
from pcl_auto.nnunet.environment import available_cores, prepare_environment
from pcl_auto.workspace.events import silent
from pcl_auto.workspace.files import read_json
from pcl_auto.workspace.folders import DatasetFolder, Workspace

DEMO_MEMORY_GB = 1.0


@dataclass(frozen=True)
class Prepared:
    """A split that `pclauto train --prepare-only` prepared, and the scratch folder that a benchmark writes to."""

    workspace: Workspace
    data: DatasetFolder
    plans_name: str
    configuration: str
    device: str
    workers: int | None
    scratch: Path

    def trainer(self, kind: Any) -> Any:
        """Make a trainer of class ``kind`` on the split; its files go to the scratch folder."""
        import torch

        replace(self.workspace, results=self.scratch / "results").activate()
        prepare_environment(workers=self.workers)
        # As in a training: the fastest kernels are looked for.
        torch.backends.cudnn.benchmark = True
        plans = {**read_json(self.data.plans_file(self.plans_name)), "continue_training": False}
        dataset_json = read_json(self.data.path / "dataset.json")
        return kind(plans, self.configuration, "all", dataset_json, torch.device(self.device))

    def trained(self) -> Path:
        """Return the file that the joint training of the split leaves its weights in; it may not be there."""
        model = f"nnUNetTrainerPCL__{self.plans_name}__{self.configuration}"
        return self.workspace.results / self.data.name / model / "fold_all" / "checkpoint_final.pth"


def parser(description: str) -> argparse.ArgumentParser:
    """Make a parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("workspace", nargs="?", type=Path, help="a pclauto workspace; default: the demo's phantom")
    made.add_argument("plans", nargs="?", help="a split's plans, as nnUNetPlans_L2_s0_quick; default: the only ones")
    made.add_argument("--dataset", help="default: the one planned last")
    made.add_argument("--configuration", help="default: the first of the plans")
    made.add_argument("--device", help="cpu or cuda; default: cuda if it is there")
    made.add_argument("--workers", type=int, help="processes that augment data; default: as `pclauto train` has it")
    made.add_argument("--json", action="store_true", help="print everything as JSON")
    return made


@contextmanager
def prepared(options: argparse.Namespace) -> Iterator[Prepared]:
    """Give the split that the options name, else that of a temporary phantom."""
    import torch

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="pclauto-cost-") as folder:
        scratch = Path(folder)
        if options.workspace is None:
            workspace = _make_demo(scratch, device)
        else:
            workspace = Workspace.find(options.workspace, os.environ)
        data = workspace.dataset(options.dataset)
        plans_name = options.plans or _only_plans(data)
        if not data.plans_file(plans_name).is_file():
            sys.exit(f"no plans {plans_name} in {data.path}; make them with `pclauto train --prepare-only`")
        configurations = list(read_json(data.plans_file(plans_name))["configurations"])
        configuration = options.configuration or configurations[0]
        if configuration not in configurations:
            sys.exit(f"{plans_name} has no configuration {configuration}, but {' and '.join(configurations)}")
        workers = 0 if options.workers is None and device == "cpu" else options.workers
        yield Prepared(workspace, data, plans_name, configuration, device, workers, scratch)


def _only_plans(data: DatasetFolder) -> str:
    found = sorted(file.stem for file in data.path.glob("nnUNetPlans_*.json"))
    if len(found) != 1:
        there = ", ".join(found) or "none: make some with `pclauto train --prepare-only`"
        sys.exit(f"name the plans of a split of {data.name}; there are {there}")
    return found[0]


def _make_demo(folder: Path, device: str) -> Workspace:
    from pcl_auto.data.phantom import make_phantom
    from pcl_auto.planning.make_plan import plan_task
    from pcl_auto.planning.plan import PlanSettings
    from pcl_auto.training.request import TrainRequest
    from pcl_auto.training.train import train

    print_line("no workspace named: preparing the demo's phantom")
    workspace = Workspace.at(folder / "work", "a benchmark's own")
    task = make_phantom(folder)
    plan_task(task, workspace, PlanSettings(memory_gb=DEMO_MEMORY_GB), listener=silent)
    request = TrainRequest(recipe="demo", device=device, prepare_only=True)
    train(request, workspace, silent)
    return workspace


def print_line(text: str) -> None:
    """Print a line of progress; results alone go to stdout."""
    print(text, file=sys.stderr, flush=True)


def precision(device: str, *, stock: bool) -> str:
    """Return the number format of convolutions: ours, or stock nnU-Net's, which has autocast on CUDA alone."""
    import torch

    from pcl_auto.nnunet.network import half_precision

    if stock and device != "cuda":
        return "float32"
    layer = torch.nn.Conv2d(1, 1, 1).to(device)
    with torch.no_grad(), half_precision(torch.device(device)):
        return str(layer(torch.zeros(1, 1, 2, 2, device=device)).dtype).removeprefix("torch.")


def machine(device: str) -> dict[str, Any]:
    """Describe the machine that the figures were measured on."""
    import torch

    processor, cpuinfo = platform.processor(), Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "processor": processor,
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "nnunetv2")},
        # A checkout in PYTHONPATH has no metadata.
        "pclauto": __version__,
    }


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print rows under their columns; all but the first column are numbers."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for first, *others in (columns, *rows):
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]).rstrip())
