"""Hidden labels stay closed; an interrupted run ends as an uninterrupted one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import torch
from shell import Shell

from pcl_auto.data.phantom import make_phantom

# What holds times, machine facts or what the checks found in label files; nothing of it is learned from.
NOT_LEARNED_FROM = {"checks.json", "log.txt", "pclauto.json", "gt_segmentations", ".prepare.holder", ".prepare.lock"}


def learned_from(workspace: Path) -> dict[str, bytes]:
    """Every file under the preprocessed folder that training can read."""
    root = workspace / "nnUNet_preprocessed"
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not NOT_LEARNED_FROM & set(path.parts)
    }


def weights(workspace: Path) -> dict[str, bytes]:
    (final,) = (workspace / "nnUNet_results").rglob("checkpoint_final.pth")
    content = torch.load(final, weights_only=True)
    tensors = {**content["network_weights"], **{f"head.{k}": v for k, v in content["pclauto"]["head"].items()}}
    return {name: value.numpy().tobytes() for name, value in tensors.items()}


def ledgers(workspace: Path) -> list[str]:
    return [path.read_text() for path in sorted((workspace / "nnUNet_results").rglob("ledger.csv"))]


def plan_and_train(shell: Shell, task: Path, workspace: Path) -> None:
    shell.pclauto("plan", task, "--workspace", workspace, "--gpu-memory-gb", "1")
    shell.pclauto(*train_command(shell, workspace))


def train_command(shell: Shell, workspace: Path) -> list[str]:
    """A short training with whatever draws numbers or happens once in a run."""
    recipe = shell.folder / "drawing.toml"
    recipe.write_text(
        'extends = "tiny.toml"\n[contrast]\nrestart_head = true\nintensity_views = true\n[judgement]\nagreement = 0.5\n'
    )
    return [
        "train", "--workspace", str(workspace), "--labeled", "2", "--seed", "3", "--recipe", str(recipe),
        "--device", "cpu", "--deterministic",
    ]  # fmt: skip


def scramble(label: Path, seed: int) -> None:
    """Permute the voxels of a label: valid values, another organ."""
    image = nibabel.load(label)
    voxels = np.asanyarray(image.dataobj)
    shuffled = np.random.default_rng(seed).permutation(voxels.ravel()).reshape(voxels.shape)
    nibabel.save(nibabel.Nifti1Image(shuffled, image.affine, image.header), label)


def test_scrambled_hidden_labels_change_no_byte(shell: Shell, tmp_path: Path) -> None:
    task = make_phantom(tmp_path, seed=2, labeled=5, unlabeled=1, test=1)
    plan_and_train(shell, task, tmp_path / "before")
    split = json.loads(next((tmp_path / "before").rglob("splits/L2_s3.json")).read_text())
    assert len(split["hidden"]) == 3
    for index, case in enumerate(split["hidden"]):
        scramble(task / "labelsTr" / f"{case}.nii.gz", index)

    plan_and_train(shell, task, tmp_path / "after")

    before, after = learned_from(tmp_path / "before"), learned_from(tmp_path / "after")
    assert any(name.endswith("_seg.b2nd") for name in before)
    assert before == after
    assert weights(tmp_path / "before") == weights(tmp_path / "after")
    assert ledgers(tmp_path / "before") == ledgers(tmp_path / "after")

    # Once planned, nothing looks at a hidden label again: not even its being there.
    for case in split["hidden"]:
        (task / "labelsTr" / f"{case}.nii.gz").write_bytes(gzip.compress(b"no label"))
    shell.pclauto(*train_command(shell, tmp_path / "after"), "--restart")
    assert weights(tmp_path / "before") == weights(tmp_path / "after")

    # And the measure can fail: another labelled case changes the weights.
    other = tmp_path / "other"
    shell.pclauto("plan", make_phantom(tmp_path / "again", seed=2, labeled=5, unlabeled=1, test=1),
                  "--workspace", other, "--gpu-memory-gb", "1")  # fmt: skip
    shell.pclauto(*[argument if argument != "3" else "4" for argument in train_command(shell, other)])
    assert weights(tmp_path / "before") != weights(other)


def test_another_setting_is_refused_with_the_difference(shell: Shell, task: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text((shell.folder / "tiny.toml").read_text())
    shell.pclauto("plan", task, "--workspace", tmp_path / "work", "--gpu-memory-gb", "1")
    command = ["train", "--workspace", tmp_path / "work", "--recipe", recipe, "--device", "cpu", "--supervised-only"]
    shell.pclauto(*command)
    recipe.write_text(recipe.read_text().replace("learning_rate = 2e-3", "learning_rate = 1e-3"))
    refused = shell.pclauto(*command, code=4)
    assert "recipe.optimizer.learning_rate" in refused.stderr
    assert "0.002" in refused.stderr
    assert "0.001" in refused.stderr
    assert "--restart" in refused.stderr
