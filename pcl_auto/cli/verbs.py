"""List the verbs of ``pclauto`` for its help; the module of a verb is imported when the verb is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Verb:
    """A verb on the page of ``pclauto --help``."""

    panel: str
    # The first line of its docstring, which takes an import to read.
    summary: str


_PANELS: dict[str, dict[str, str]] = {
    "Data": {
        "init": "Make a data set of a folder of images and one of masks.",
        "download": "Download a task of the Medical Segmentation Decathlon.",
        "check": "Look a data set over before any GPU time.",
        "repair": "Write NIfTI files anew that programs read differently.",
        "plan": "Check a data set, plan patch size and network, preprocess the images.",
    },
    "Train": {
        "pretrain": "Let the network learn from all images of a data set, without any label.",
        "train": "Train on a few labels and all images; repeat the command to resume.",
        "predict": "Segment scans.",
        "evaluate": "Score masks: Dice and HD95 per class and case.",
        "recipes": "List the recipes, or show every setting of one.",
    },
    "Annotate": {
        "suggest": "Choose the unlabeled cases to label next.",
        "review": "Export the worst pseudo-labels, to be corrected in ITK-SNAP or 3D Slicer.",
        "continue": "Go on training with the masks that were corrected.",
    },
    "Study": {
        "benchmark": "Find out whether a recipe beats nnU-Net alone.",
        "sweep": "Find out what more labels bring.",
    },
    "Runs": {
        "status": "Show how far the runs are, from another shell.",
        "report": "Write the report of a run: one HTML file.",
    },
    "Installation": {
        "env": "Show versions, devices, memory, and what stock nnU-Net needs.",
        "demo": "Make a small data set and go the whole way in minutes.",
    },
}
VERBS = {name: Verb(panel, summary) for panel, verbs in _PANELS.items() for name, summary in verbs.items()}


def load_verb(name: str) -> Callable[..., Any]:
    """Import the function of a verb; its parameters are the options, its docstring is the help page.

    Raises:
        KeyError: no such verb.
    """
    if name not in VERBS:
        raise KeyError(name)
    # A keyword of Python can name no function.
    python_name = f"{name}_" if name == "continue" else name
    module = import_module(f"pcl_auto.cli.commands.{python_name}")
    function: Callable[..., Any] = getattr(module, python_name)
    return function
