"""Options and arguments that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# More is a slip of the finger, or does not fit what counts it.
MAX_CASES, MAX_EPOCHS, MAX_PROCESSES, MAX_SEED, MAX_GB = 1_000_000, 1_000_000, 1024, 2**32 - 1, 1_000_000
MAX_DRAWS = 1000
# Panels of help pages that several verbs have.
RECIPE_AND_LENGTH, WHERE, ADVANCED = "Recipe and length", "Where", "Advanced"
WHAT_TO_COMPARE, TEST_CASES = "What to compare", "Test cases"


def complete_recipe() -> list[str]:
    """Return the recipes that a shell completes; files are completed by the shell itself."""
    return ["default", "paper", "quick"]


def split_names(text: str) -> tuple[str, ...]:
    """Return the names in ``a,b,c``."""
    return tuple(filter(None, (name.strip() for name in text.split(","))))


# Where, and on what.
Workspace = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        "-w",
        help="Folder of plans and models. Default: your exported nnUNet_* folders, else ./pclauto_work.",
        file_okay=False,
        metavar="FOLDER",
        rich_help_panel=WHERE,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout; messages stay on stderr.")]
Device = Annotated[
    str, typer.Option("--device", help="auto, cuda, mps or cpu.", metavar="DEVICE", rich_help_panel=WHERE)
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes that augment data, 0 for none. Default: one per core.",
        min=0,
        max=MAX_PROCESSES,
        metavar="N",
        rich_help_panel=WHERE,
    ),
]
Gpus = Annotated[
    int,
    typer.Option(
        help="Train on so many GPUs of this machine; each takes its share of every step.",
        min=1,
        max=MAX_PROCESSES,
        metavar="N",
        rich_help_panel=WHERE,
    ),
]

# A data set in its folder.
Task = Annotated[
    str,
    typer.Argument(
        help="A decathlon or nnUNet_raw folder, or its name or number here, in $PCLAUTO_DATA or nnUNet_raw.",
        metavar="TASK",
    ),
]
FollowSymlinks = Annotated[
    bool, typer.Option("--follow-symlinks", help="Accept links that lead out of the data set's folder.")
]

# A training.
Recipe = Annotated[
    str,
    typer.Option(
        help="default, paper, quick, or a TOML file.",
        autocompletion=complete_recipe,
        metavar="RECIPE",
        rich_help_panel=RECIPE_AND_LENGTH,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a setting of the recipe, contrast.weight=0.2; repeat it for more. `pclauto recipes default` "
        "shows all of them.",
        metavar="TABLE.KEY=VALUE",
        rich_help_panel=RECIPE_AND_LENGTH,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        help="Train so many epochs; the recipe's parts keep their shares.",
        min=1,
        max=MAX_EPOCHS,
        metavar="N",
        rich_help_panel=RECIPE_AND_LENGTH,
    ),
]
Configuration = Annotated[
    str | None,
    typer.Option(help="A planned configuration. Default: the plan's.", metavar="NAME", rich_help_panel=ADVANCED),
]
Restart = Annotated[
    bool, typer.Option("--restart", help="Throw away an earlier run of these settings.", rich_help_panel=ADVANCED)
]
Tensorboard = Annotated[
    bool,
    typer.Option(
        "--tensorboard",
        help="Write the curves for TensorBoard too, into the run's folder.",
        rich_help_panel=ADVANCED,
    ),
]
Pretrained = Annotated[
    str,
    typer.Option(
        help="Begin with pretrained weights: a checkpoint or folder of nnssl, nnU-Net or pclauto, hf://OWNER/NAME, or "
        "auto, those of `pclauto pretrain`.",
        metavar="SOURCE",
        rich_help_panel=RECIPE_AND_LENGTH,
    ),
]
TimeSteps = Annotated[
    bool, typer.Option("--time-steps", help="With --dry-run: make a few steps on this machine, to tell the time.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be trained, write nothing.")]

# A model.
Model = Annotated[
    str | None,
    typer.Option(
        help="A model folder, or its name in the workspace. Default: of the data set trained last, the last one "
        "trained with unlabeled cases.",
        metavar="MODEL",
    ),
]
Baseline = Annotated[bool, typer.Option("--supervised-only", help="Take the baseline that was trained last.")]

# A study: benchmark and sweep.
Planned = Annotated[
    str | None,
    typer.Argument(help="A planned data set, or a decathlon folder. Default: the one planned last.", metavar="DATASET"),
]
Draws = Annotated[
    int,
    typer.Option(
        help="Draws of labeled cases, each with a training of its own: 0, 1, …, the same in every arm. Fewer than five "
        "allow no verdict.",
        min=1,
        max=MAX_DRAWS,
        metavar="N",
        rich_help_panel=WHAT_TO_COMPARE,
    ),
]
EveryClass = Annotated[
    bool,
    typer.Option(
        "--every-class/--any-cases",
        help="Draw labeled cases that together show every class, or any.",
        rich_help_panel=WHAT_TO_COMPARE,
    ),
]
Test = Annotated[
    Path | None,
    typer.Option(
        help="Folder of test labels. Default: labelsTs of the task.",
        file_okay=False,
        metavar="FOLDER",
        rich_help_panel=TEST_CASES,
    ),
]
TestImages = Annotated[
    Path | None,
    typer.Option(
        help="Folder of test scans. Default: imagesTs of the task.",
        file_okay=False,
        metavar="FOLDER",
        rich_help_panel=TEST_CASES,
    ),
]
TestCases = Annotated[
    int,
    typer.Option(
        help="Test on so many labeled cases instead, and keep them out of every training.",
        min=0,
        max=MAX_CASES,
        metavar="N",
        rich_help_panel=TEST_CASES,
    ),
]
BaseRecipe = Annotated[
    str,
    typer.Option(
        help="Recipe of optimizer, batch, network and steps, the same for every training.",
        autocompletion=complete_recipe,
        metavar="RECIPE",
        rich_help_panel=RECIPE_AND_LENGTH,
    ),
]
StudySettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a setting in the base recipe and in every recipe alike, contrast.weight=0.2; repeat it for more. "
        "Baselines take steps, batch, network and optimizer of the base recipe.",
        metavar="TABLE.KEY=VALUE",
        rich_help_panel=RECIPE_AND_LENGTH,
    ),
]
StudyEpochs = Annotated[
    int | None,
    typer.Option(
        help="Train so many epochs; the base recipe's parts keep their shares.",
        min=1,
        max=MAX_EPOCHS,
        metavar="N",
        rich_help_panel=RECIPE_AND_LENGTH,
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        help="Where the results go. Default: benchmarks/DATASET in the workspace.",
        file_okay=False,
        metavar="FOLDER",
        rich_help_panel=WHERE,
    ),
]
ListRuns = Annotated[bool, typer.Option("--dry-run", help="List the runs of a planned data set, do none.")]
