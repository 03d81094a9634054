"""The trainings of the golden path, and what is compared of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK
import torch
from shared import TINY_RECIPE, copy_of, model_of, shell_in
from shell import Shell

# Whatever draws numbers, or happens once in a run, is switched on; what a few steps make of volumes is no collapse.
RECIPE = TINY_RECIPE.replace("[contrast]", "[contrast]\nrestart_head = true\nintensity_views = true").replace(
    "[collapse_guard]",
    "[pseudo_label_filter]\nmin_agreement = 0.05\nrange_margin = 1000.0\n[collapse_guard]",
)
TRAIN = ("train", "--labeled", "2", "--seed", "3", "--recipe", "tiny.toml", "--device", "cpu", "--deterministic")
# What holds times, machine facts or what the checks found in label files; nothing of it is learned from.
NOT_LEARNED_FROM = {"checks.json", "log.txt", "pclauto.json", "gt_segmentations", ".prepare.holder", ".prepare.lock"}
# Stock prediction with our package out of reach.
STOCK = """
import sys
sys.modules["pcl_auto"] = None
from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder
predict_entry_point_modelfolder()
"""


def user(folder: Path, task: Path, recipe: str = RECIPE) -> Shell:
    """A shell in a folder with the recipe, and a copy of the task whose files are as old as the original's."""
    shell = shell_in(folder)
    (folder / "tiny.toml").write_text(recipe)
    copy_of(task, folder / task.name)
    return shell


def scramble(label: Path, seed: int) -> None:
    """Permute the voxels of a label: valid values, another organ."""
    image = nibabel.load(label)
    voxels = np.asanyarray(image.dataobj)
    shuffled = np.random.default_rng(seed).permutation(voxels.ravel()).reshape(voxels.shape)
    nibabel.save(nibabel.Nifti1Image(shuffled, image.affine, image.header), label)


def fold(folder: Path) -> Path:
    return model_of(folder / "pclauto_work") / "fold_all"


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (fold(folder) / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


def learned_from(folder: Path) -> dict[str, bytes]:
    """Every file under the preprocessed folder that training can read; where the data set lies is left out."""
    root = folder / "pclauto_work" / "nnUNet_preprocessed"
    return {
        str(path.relative_to(root)): path.read_bytes().replace(str(folder).encode(), b"")
        for path in sorted(root.rglob("*"))
        if path.is_file() and not NOT_LEARNED_FROM & set(path.parts)
    }


def weights(folder: Path) -> dict[str, bytes]:
    file = fold(folder) / "checkpoint_final.pth"
    content = torch.load(file, weights_only=True)
    tensors = {**content["network_weights"], **{f"head.{k}": v for k, v in content["pclauto"]["head"].items()}}
    return {**{name: value.numpy().tobytes() for name, value in tensors.items()}, file.name: file.read_bytes()}


def ledgers(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(fold(folder).rglob("ledger.csv"))]


def read_mask(file: Path) -> np.ndarray:
    mask: np.ndarray = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))
    return mask


def stock_mask(shell: Shell, model: Path, scan: Path, folder: Path) -> np.ndarray:
    """The mask that stock nnU-Net makes of a 4D ``scan`` with ``model``, as if our package were not installed."""
    channels, name = folder / "channels", scan.name
    channels.mkdir()
    whole = SimpleITK.ReadImage(str(scan))
    for index in range(whole.GetSize()[3]):
        channel = SimpleITK.Extract(whole, (*whole.GetSize()[:3], 0), (0, 0, 0, index))
        SimpleITK.WriteImage(channel, str(channels / name.replace(".nii.gz", f"_{index:04d}.nii.gz")))
    stock = shell.python(
        "-c", STOCK, "-i", channels, "-o", folder / "stock", "-m", model, "-f", "all",
        "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_progress_bar", spawns=False,
    )  # fmt: skip
    assert stock.returncode == 0, stock.stderr
    return read_mask(folder / "stock" / name)
