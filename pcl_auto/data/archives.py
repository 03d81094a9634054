"""The ten archives of the Medical Segmentation Decathlon: what they hold, and how to tell that they came whole."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from pcl_auto.errors import Problem, UsageError

BASE_URL = "https://msd-for-monai.s3-us-west-2.amazonaws.com"
LICENCE = "CC BY-SA 4.0"


@dataclass(frozen=True)
class Archive:
    """A task's archive ``NAME.tar``: its check sum, and for orientation its size, modality and numbers of images."""

    name: str
    md5: str
    gigabytes: float
    modality: str
    training: int
    test: int


# The check sums are those that MONAI publishes for the same files; sizes are rounded.
ARCHIVES = (
    Archive("Task01_BrainTumour", "240a19d752f0d9e9101544901065d872", 7.6, "MR (FLAIR, T1, T1 Gd, T2)", 484, 266),
    Archive("Task02_Heart", "06ee59366e1e5124267b774dbd654057", 0.46, "MR", 20, 10),
    Archive("Task03_Liver", "a90ec6c4aa7f6a3d087205e23d4e6397", 29, "CT", 131, 70),
    Archive("Task04_Hippocampus", "9d24dba78a72977dbd1d2e110310f31b", 0.03, "MR", 260, 130),
    Archive("Task05_Prostate", "35138f08b1efaef89d7424d2bcc928db", 0.24, "MR (T2, ADC)", 32, 16),
    Archive("Task06_Lung", "8afd997733c7fc0432f71255ba4e52dc", 9.2, "CT", 63, 32),
    Archive("Task07_Pancreas", "4f7080cfca169fa8066d17ce6eb061e4", 12, "CT", 281, 139),
    Archive("Task08_HepaticVessel", "641d79e80ec66453921d997fbf12a29c", 9.4, "CT", 303, 140),
    Archive("Task09_Spleen", "410d4a301da4e5b2f6f86ec3ddba524e", 1.6, "CT", 41, 20),
    Archive("Task10_Colon", "bad7a188931dc2f6acf72b08eb6202d0", 6.2, "CT", 126, 64),
)


def find_archive(name: str) -> Archive:
    """The archive that ``name`` means: "Task05_Prostate", "prostate", "Task05" or "5", in upper or lower case.

    Raises:
        UsageError: the decathlon has no such task.
    """
    forms = {form: archive for archive in ARCHIVES for form in _forms(archive)}
    found = forms.get(name.lower())
    if found is not None:
        return found
    near = difflib.get_close_matches(name.lower(), forms, n=1)
    similar = f"similar: {forms[near[0]].name}" if near else "nothing like it"
    fix = "take one of those that `pclauto download --list` shows"
    raise UsageError(
        Problem(
            "archive.unknown-task",
            f"no task {name!r}",
            "the Medical Segmentation Decathlon",
            fix,
            "one of its ten",
            similar,
        )
    )


def _forms(archive: Archive) -> tuple[str, ...]:
    full = archive.name.lower()
    task, title = full.split("_")
    number = task.removeprefix("task")
    return full, title, task, number, number.lstrip("0"), f"task{number.lstrip('0')}"
