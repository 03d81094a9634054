"""Do the whole way on data made here (``pclauto demo``): ours against the baseline on the same two labels."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from pcl_auto.data.phantom import PHANTOM_NAME, make_phantom
from pcl_auto.errors import Problem, UsageError
from pcl_auto.evaluation.scores import evaluate_on_record
from pcl_auto.inference.predict import predict
from pcl_auto.planning.make_plan import plan_task
from pcl_auto.planning.plan import PlanSettings
from pcl_auto.report.page import write_report
from pcl_auto.training.request import TrainRequest
from pcl_auto.training.train import train
from pcl_auto.workspace.events import Listener
from pcl_auto.workspace.files import write_json
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.output import refuse_input_folder, sole_writer_in

# The phantom is small: a plan for this memory keeps its patches small too. Slices, since a CPU trains them in a minute.
MEMORY_GB, CONFIGURATION = 1.0, "2d"
RECIPE = "demo"
NAMES = WORK, PREDICTIONS, SCORES, REPORT = "work", "predictions", "scores.json", "report.html"


@dataclass(frozen=True)
class DemoResult:
    """The results of the demo: its folder, the report of our run, the scores of each arm, and the time it took."""

    folder: Path
    report: Path
    scores: dict[str, dict[str, Any]]
    seconds: float


def run_demo(
    folder: Path, *, seed: int, device: str, print_line: Callable[[str], None], listener: Listener
) -> DemoResult:
    """Make a phantom task under ``folder``, plan, train both arms, predict and evaluate.

    Every stage does what the command of that name does; a demo that was interrupted goes on.

    Raises:
        UsageError: the folder is one that others read, or holds something else under the names that the demo uses.
        LockedError: another demo runs there.
    """
    refuse_input_folder(folder, "the argument FOLDER")
    taken = [folder / name for name in NAMES if os.path.lexists(folder / name)]
    if taken and not (folder / PHANTOM_NAME).is_dir():
        what, fix = "something else has a name that the demo uses", "name another folder"
        raise UsageError([Problem("output.not-ours", what, str(path), fix) for path in taken])
    with sole_writer_in(folder):
        return _run(folder, seed=seed, device=device, print_line=print_line, listener=listener)


def _run(folder: Path, *, seed: int, device: str, print_line: Callable[[str], None], listener: Listener) -> DemoResult:
    started = monotonic()
    workspace = Workspace.at(folder / WORK, f"--workspace {folder / WORK}")
    task = folder / PHANTOM_NAME
    make_phantom(folder, seed=seed)
    print_line(f"phantom   {task}")
    print_line("plan      2 labeled and 12 unlabeled volumes, 2 channels, 3 classes")
    settings = PlanSettings(memory_gb=MEMORY_GB, configuration=CONFIGURATION)
    plan = plan_task(task, workspace, settings, listener=listener).plan
    classes = plan.dataset_json["labels"]

    def score(arm: str, *, supervised_only: bool) -> tuple[Path, dict[str, Any]]:
        print_line(f"train     {arm}")
        request = TrainRequest(recipe=RECIPE, seed=seed, device=device, supervised_only=supervised_only)
        run = train(request, workspace, listener)
        masks = folder / PREDICTIONS / ("baseline" if supervised_only else "pclauto")
        predict([task / "imagesTs"], masks, run.model, device=device, overwrite=True, listener=listener)
        return run.folder, evaluate_on_record(masks, task / "labelsTs", classes=classes)[0].as_dict()

    _, alone = score("nnU-Net alone", supervised_only=True)
    run_folder, joint = score("pclauto", supervised_only=False)
    scores = {"nnU-Net alone": alone, "pclauto": joint}
    write_json(folder / SCORES, scores)
    report = write_report(run_folder, workspace, folder / REPORT)
    return DemoResult(folder, report, scores, monotonic() - started)
