"""Define ``pclauto plan``: check, plan and preprocess."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pcl_auto.cli.console import options
from pcl_auto.cli.console.estimates import plan_lines
from pcl_auto.cli.console.interrupt import resumable
from pcl_auto.cli.console.progress import counting
from pcl_auto.cli.console.terminal import Terminal, some_of
from pcl_auto.data.labels import format_values
from pcl_auto.nnunet.environment import choose_device
from pcl_auto.planning.plan import PlanSettings, estimate_plan, memory_to_plan_for
from pcl_auto.workspace.folders import Workspace

if TYPE_CHECKING:
    from pcl_auto.planning.make_plan import PlanOutcome

NETWORK, CASES = "Patch and network", "Cases"


def plan(
    task: options.Task,
    workspace_path: options.Workspace = None,
    configuration: Annotated[
        str, typer.Option(help="2d, 3d_fullres, 3d_lowres or auto.", metavar="NAME", rich_help_panel=NETWORK)
    ] = "auto",
    planner: Annotated[
        str, typer.Option(help="default, resenc-m or resenc-l.", metavar="NAME", rich_help_panel=NETWORK)
    ] = "default",
    gpu_memory_gb: Annotated[
        float | None,
        typer.Option(
            help="GPU memory a training step may take. Default: nnU-Net's, or 4 where there is no GPU.",
            min=1,
            max=options.MAX_GB,
            metavar="GB",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    plans: Annotated[
        str | None,
        typer.Option(
            help="Take these nnU-Net plans as they are: a file, or the name of plans of this data set.",
            metavar="PLANS",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            "--for",
            help="Plan the network of these pretrained weights: a checkpoint, its folder, or hf://OWNER/NAME.",
            metavar="SOURCE",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    pretrained_spacing: Annotated[
        bool,
        typer.Option(
            "--pretrained-spacing",
            help="With --for: resample to the spacing of the pre-training. Default: the data set's own.",
            rich_help_panel=NETWORK,
        ),
    ] = False,
    use_test_images: Annotated[
        bool, typer.Option("--use-test-images", help="imagesTs joins the unlabeled cases.", rich_help_panel=CASES)
    ] = False,
    bias_correction: Annotated[
        bool,
        typer.Option("--bias-correction", help="Even out the shading of MR scans first (N4).", rich_help_panel=CASES),
    ] = False,
    follow_symlinks: options.FollowSymlinks = False,
    skip_bad_unlabeled: Annotated[
        bool,
        typer.Option(
            "--skip-bad-unlabeled",
            help="Leave out unlabeled scans that cannot be used, and list them.",
            rich_help_panel=CASES,
        ),
    ] = False,
    dataset_id: Annotated[
        int | None,
        typer.Option(
            help="nnU-Net's number of the data set.", min=1, max=999, metavar="N", rich_help_panel=options.WHERE
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Plan again even if the plan is up to date.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and plan, write nothing.")] = False,
    json: options.Json = False,
) -> None:
    """Check a data set, plan patch size and network, preprocess the images.

    \b
      pclauto plan Task05_Prostate
      pclauto plan data/Task04_Hippocampus --workspace work --dry-run
      pclauto plan Task05_Prostate --for weights/ResEncL
    """
    from pcl_auto.data.dataset.decathlon import find_task
    from pcl_auto.planning.make_plan import plan_task

    terminal = Terminal()
    workspace = Workspace.find(workspace_path)
    root = find_task(task, workspace.data_folders())
    memory_gb, memory_reason = memory_to_plan_for(gpu_memory_gb, planner)
    settings = PlanSettings(
        configuration=configuration,
        planner=planner,
        memory_gb=memory_gb,
        use_test_images=use_test_images,
        bias_correction=bias_correction,
        plans_file=plans,
        follow_links=follow_symlinks,
        skip_bad_unlabeled=skip_bad_unlabeled,
        pretrained=pretrained,
        pretrained_spacing=pretrained_spacing,
    )
    with (
        resumable(terminal),
        counting(terminal, {"check": "checking files", "preprocess": "preprocessing images"}) as listener,
    ):
        outcome = plan_task(
            root, workspace, settings, dataset_id=dataset_id, force=force, dry_run=dry_run, listener=listener
        )
    terminal.problems(outcome.warnings, "warning")
    facts = _facts(outcome)
    if json:
        terminal.json({**facts, "workspace": str(workspace.preprocessed.parent)})
        return
    _render(terminal, facts, workspace, memory_reason)
    _print_next(terminal, outcome, workspace, dry_run=dry_run)


def _facts(outcome: PlanOutcome) -> dict[str, Any]:
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
        "for": plan.settings.pretrained,
        "memory_gb": plan.settings.memory_gb,
        "bias_correction": plan.settings.bias_correction,
        "configurations": {
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
        },
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


def _planner(facts: dict[str, Any]) -> str:
    if facts["for"] is not None:
        return f"none: the network of {facts['for']}"
    return facts["planner"] if facts["plans_file"] is None else f"none: {facts['plans_file']} as it is"


def _render(terminal: Terminal, facts: dict[str, Any], workspace: Workspace, memory_reason: str) -> None:
    if facts["up_to_date"]:
        terminal.print_line("plan: up to date, nothing to do (--force plans again)")
    hidden = "" if facts["unlabeled"] else "  (and those of the labeled ones that train --labeled leaves out)"
    summary = [
        ("from", facts["source"]),
        ("workspace", workspace.describe()),
        ("channels", ", ".join(facts["channels"])),
        (
            "classes",
            some_of((f"{format_values(value)} {name}" for name, value in facts["labels"].items() if value), ", "),
        ),
        ("labeled", _some(facts["labeled"])),
        ("unlabeled", _some(facts["unlabeled"]) + hidden),
        ("memory", f"{facts['memory_gb']:g} GB ({memory_reason})"),
        ("planner", _planner(facts)),
    ]
    if facts["bias_correction"]:
        summary.append(("shading", "evened out first (N4), in prediction too"))
    terminal.print_facts(summary, title=facts["dataset"])
    terminal.print_result()
    names = list(facts["configurations"])
    rows = [
        (
            f"{'› ' if name == facts['configuration'] else '  '}{name}",
            "×".join(f"{value:.3g}" for value in entry["spacing_mm"]),
            "×".join(map(str, entry["median_shape_voxels"])),
            "×".join(map(str, entry["patch_voxels"])),
            str(entry["batch_size"]),
            str(entry["stages"]),
            "?" if entry["step_memory_gb"] is None else f"{max(entry['step_memory_gb'], 0.1):.1f} GB",
        )
        for name, entry in facts["configurations"].items()
    ]
    columns = ("configuration", "spacing (mm)", "median shape", "patch", "batch", "stages", "step needs")
    less = ("stages", "median shape", "step needs", "batch")
    terminal.print_table(columns, rows, bold_row=names.index(facts["configuration"]), optional=less)
    terminal.print_result()
    terminal.print_result(f"Training takes {facts['configuration']}: {facts['configuration_reason']}.")
    terminal.print_result("A batch holds labeled and unlabeled patches together; axes are slices first.")


def _print_next(terminal: Terminal, outcome: PlanOutcome, workspace: Workspace, *, dry_run: bool) -> None:
    if dry_run:
        for line in plan_lines(estimate_plan(outcome.plan)):
            terminal.print_line(line)
        terminal.print_line("dry run: nothing was written")
        return
    # The default recipe's length is for a GPU.
    recipe = "" if choose_device("auto").type == "cuda" else " --recipe quick"
    if outcome.plan.settings.pretrained is not None:
        # At the width of the weights, whatever the recipe.
        recipe += (
            " --set network.width=1" * bool(recipe) + f" --pretrained {shlex.quote(outcome.plan.settings.pretrained)}"
        )
    labeled = sum(case.label is not None for case in outcome.plan.cases.values())
    # Where there are unlabeled cases all labels are for training; else some are hidden, to try it out.
    few = "" if labeled < len(outcome.plan.cases) else f" --labeled {min(2, labeled)}"
    terminal.print_line(f"next: pclauto train{few}{recipe}{workspace.option}")
