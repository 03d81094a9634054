"""Write lists of runs for a study of one toy data set."""

from __future__ import annotations

DATASET = """
[datasets.toy]
task = "{task}"
configuration = "3d_fullres"
gpu_memory_gb = 1
base = "{base}"
development = 2
"""
BLOCK = """
[[blocks]]
name = "first"
datasets = ["toy"]
arms = ["nnunet", "{arm}"]
labels = {labels}
draws = {draws}
"""


def toy_dataset(task: str = "Task05_Toy", base: str = "quick") -> str:
    """Return the table of the data set."""
    return DATASET.format(task=task, base=base)


def toy_block(labels: str = "[2, 1]", draws: int = 2, arm: str = "default") -> str:
    """Return a block of runs of nnU-Net alone and of another arm."""
    return BLOCK.format(labels=labels, draws=draws, arm=arm)
