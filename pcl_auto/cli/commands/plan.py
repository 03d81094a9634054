"""``pclauto plan``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from pcl_auto.cli.console.options import JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from pcl_auto.cli.console.terminal import Terminal
    from pcl_auto.planning.make_plan import PlanOutcome
    from pcl_auto.planning.plan import Plan
    from pcl_auto.workspace.folders import Workspace


def plan(
    task: Annotated[
        str,
        typer.Argument(
            help="A decathlon or nnUNet_raw folder, or its name or number here, in $PCLAUTO_DATA or nnUNet_raw."
        ),
    ],
    workspace: WorkspaceOption = None,
    configuration: Annotated[str, typer.Option(help="2d, 3d_fullres, 3d_lowres or auto.")] = "auto",
    planner: Annotated[str, typer.Option(help="default, resenc-m or resenc-l.")] = "default",
    gpu_memory_gb: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            help="GPU memory a training step may take. Default: nnU-Net's, or 4 where there is no GPU.", min=1
        ),
    ] = None,
    plans: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Take these nnU-Net plans as they are: a file, or the name of plans of this data set."),
    ] = None,
    use_test_images: Annotated[
        bool, typer.Option("--use-test-images", help="imagesTs joins the unlabeled cases.")
    ] = False,
    bias_correction: Annotated[
        bool, typer.Option("--bias-correction", help="Even out the shading of MR scans first (N4).")
    ] = False,
    follow_symlinks: Annotated[
        bool, typer.Option("--follow-symlinks", help="Accept links that lead out of the data set's folder.")
    ] = False,
    skip_bad_unlabeled: Annotated[
        bool,
        typer.Option("--skip-bad-unlabeled", help="Leave out unlabeled scans that cannot be used, and list them."),
    ] = False,
    dataset_id: Annotated[Optional[int], typer.Option(help="nnU-Net's number of the data set.", min=1, max=999)] = None,  # noqa: UP045
    force: Annotated[bool, typer.Option("--force", help="Plan again even if the plan is up to date.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and plan, write nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Check a data set, plan patch size and network, preprocess the images.

    \b
      pclauto plan Task05_Prostate
      pclauto plan data/Task04_Hippocampus --workspace work --dry-run
    """
    from pcl_auto.cli.console.interrupt import resumable
    from pcl_auto.cli.console.progress import counting
    from pcl_auto.cli.console.terminal import Terminal
    from pcl_auto.planning.make_plan import plan_task
    from pcl_auto.planning.plan import PlanSettings, memory_to_plan_for
    from pcl_auto.workspace.folders import Workspace

    terminal = Terminal()
    place = Workspace.find(workspace, os.environ)
    root = find(task, workspace)
    memory_gb, memory_reason = memory_to_plan_for(gpu_memory_gb, planner)
    with (
        resumable(terminal),
        counting(terminal, {"check": "checking files", "preprocess": "preprocessing images"}) as listener,
    ):
        outcome = plan_task(
            root,
            place,
            PlanSettings(
                configuration=configuration,
                planner=planner,
                memory_gb=memory_gb,
                use_test_images=use_test_images,
                bias_correction=bias_correction,
                plans_file=plans,
                follow_links=follow_symlinks,
                skip_bad_unlabeled=skip_bad_unlabeled,
            ),
            dataset_id=dataset_id,
            force=force,
            dry_run=dry_run,
            listener=listener,
        )
    terminal.problems(outcome.warnings, "warning")
    if json:
        terminal.json({**_as_json(outcome), "workspace": str(place.preprocessed.parent)})
    else:
        _render(terminal, outcome, memory_reason, place, dry_run=dry_run)


def find(task: str, workspace: Path | None) -> Path:
    """Return the folder of the data set that the user means: a path, or a name in one of the usual places."""
    from pcl_auto.data.dataset.decathlon import find_task
    from pcl_auto.workspace.folders import Workspace

    return find_task(task, Workspace.find(workspace, os.environ).data_folders(os.environ))


def _configurations(plan: Plan) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "patch_voxels": [int(size) for size in chosen["patch_size"]],
            "spacing_mm": [round(float(value), 4) for value in chosen["spacing"]],
            "median_shape_voxels": [round(float(size)) for size in chosen["median_image_size_in_voxels"]],
            "batch_size": chosen["batch_size"],
            "stages": chosen["architecture"]["arch_kwargs"]["n_stages"],
            "normalization": chosen["normalization_schemes"],
            "step_memory_gb": plan.content["step_memory_gb"][name],
        }
        for name, chosen in plan.nnunet["configurations"].items()
    }


def _as_json(outcome: PlanOutcome) -> dict[str, Any]:
    plan = outcome.plan
    labeled = [case.id for case in plan.cases.values() if case.label is not None]
    return {
        "dataset": outcome.data.name,
        "source": str(plan.root),
        "up_to_date": outcome.up_to_date,
        "configuration": plan.configuration,
        "configuration_reason": plan.content["configuration_reason"],
        "planner": plan.settings.planner,
        "plans_file": plan.settings.plans_file,
        "memory_gb": plan.settings.memory_gb,
        "bias_correction": plan.settings.bias_correction,
        "configurations": _configurations(plan),
        "channels": list(plan.dataset_json["channel_names"].values()),
        "labels": plan.dataset_json["labels"],
        "labeled": labeled,
        "unlabeled": [case for case in plan.cases if case not in set(labeled)],
        "test_images": plan.content["test_images"],
        "warnings": [problem.as_dict() for problem in outcome.warnings],
        "problems": [],
    }


def _some(names: list[str], limit: int = 3) -> str:
    shown = ", ".join(names[:limit])
    return f"{len(names)}" + (f"  ({shown}{', …' if len(names) > limit else ''})" if names else "")


def _render(terminal: Terminal, outcome: PlanOutcome, memory_reason: str, place: Workspace, *, dry_run: bool) -> None:
    from rich.table import Table

    from pcl_auto.cli.console.terminal import cell
    from pcl_auto.data.labels import format_values

    facts = _as_json(outcome)
    if outcome.up_to_date:
        terminal.print_line("plan: up to date, nothing to do (--force plans again)")
    summary = Table(title=cell(facts["dataset"]), title_justify="left", title_style="bold", box=None, show_header=False)
    summary.add_column(style="dim")
    summary.add_column()
    rows = {
        "from": facts["source"],
        "channels": ", ".join(facts["channels"]),
        "classes": ", ".join(f"{format_values(value)} {name}" for name, value in facts["labels"].items() if value),
        "labeled": _some(facts["labeled"]),
        "unlabeled": _some(facts["unlabeled"])
        + ("" if facts["unlabeled"] else "  (and those of the labeled ones that train --labeled leaves out)"),
        "memory": f"{facts['memory_gb']:g} GB ({memory_reason})",
        "planner": facts["planner"] if facts["plans_file"] is None else f"none: {facts['plans_file']} as it is",
        **({"shading": "evened out first (N4), in prediction too"} if facts["bias_correction"] else {}),
    }
    for name, value in rows.items():
        summary.add_row(name, cell(value))
    terminal.out.print(summary)
    terminal.out.print()

    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("configuration", "spacing (mm)", "median shape", "patch", "batch", "stages", "step needs"):
        table.add_column(column)
    for name, entry in facts["configurations"].items():
        chosen = name == facts["configuration"]
        table.add_row(
            f"{'› ' if chosen else '  '}{name}",
            "×".join(f"{value:.3g}" for value in entry["spacing_mm"]),
            "×".join(map(str, entry["median_shape_voxels"])),
            "×".join(map(str, entry["patch_voxels"])),
            str(entry["batch_size"]),
            str(entry["stages"]),
            "?" if entry["step_memory_gb"] is None else f"{max(entry['step_memory_gb'], 0.1):.1f} GB",
            style="bold" if chosen else "",
        )
    terminal.out.print(table)
    terminal.out.print(
        f"\nTraining takes [bold]{facts['configuration']}[/]: {facts['configuration_reason']}.", soft_wrap=True
    )
    terminal.out.print("A batch holds labeled and unlabeled patches together; axes are slices first.")
    if dry_run:
        from pcl_auto.cli.console.estimates import plan_lines
        from pcl_auto.inference.dry_run import estimate_plan

        for line in plan_lines(estimate_plan(outcome.plan)):
            terminal.print_line(line)
        terminal.print_line("dry run: nothing was written")
    else:
        from pcl_auto.nnunet.environment import choose_device

        # The default recipe's length is for a GPU.
        recipe = "" if choose_device("auto").type == "cuda" else " --recipe quick"
        terminal.print_line(f"next: pclauto train --labeled {min(2, len(facts['labeled']))}{recipe}{place.option}")
