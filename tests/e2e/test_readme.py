"""What README says works: every command of it runs here."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scanner import write_series
from shell import Shell

from pcl_auto.data.phantom import make_phantom

ROOT = Path(__file__).parents[2]
INDENTED = re.compile(r"^    (pclauto .*)$", re.MULTILINE)
COMMANDS = [shlex.split(line)[1:] for line in INDENTED.findall((ROOT / "README.md").read_text())]
# Trainings of minutes to days are resolved to the last setting, and not started.
NOT_STARTED = {"train", "benchmark"}


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Shell:
    """A folder with README's data sets and scan (phantoms all), planned and trained before."""
    shell = Shell(tmp_path_factory.mktemp("readme"))
    for name in ("Task05_Prostate", "Task04_Hippocampus"):
        made = make_phantom(shell.folder, labeled=9, unlabeled=3, test=1)
        made.rename(shell.folder / name)
    shutil.copytree(ROOT / "benchmarks", shell.folder / "benchmarks")
    scan = next((shell.folder / "Task05_Prostate" / "imagesTs").iterdir())
    (shell.folder / "new_scan.nii.gz").write_bytes(scan.read_bytes())
    for channel, voxels in enumerate(np.asanyarray(nibabel.load(scan).dataobj).transpose(3, 2, 1, 0)):
        write_series(shell.folder / "study" / "anna" / f"_{channel:04d}", voxels)
    (shell.folder / "tiny.toml").write_text((ROOT / "plans" / "demo.toml").read_text())
    return shell


def test_readme_shows_every_verb() -> None:
    assert {command[0] for command in COMMANDS} >= {"plan", "train", "predict", "evaluate", "report", "benchmark"}


def test_readme_commands_run_in_order(user: Shell, model: Path, trained: Path) -> None:
    for command in COMMANDS:
        verb, *rest = command
        if verb in NOT_STARTED:
            rest.append("--dry-run")
        if verb == "plan":
            rest += ["--gpu-memory-gb", "1"]
        if verb == "predict":
            # With the model of the tiny run: README's own would take its training.
            rest = [argument for argument in rest if argument != "--supervised-only"] + ["--model", str(model)]
            if "out/" not in rest:
                rest.append("--overwrite")
        if verb in {"report", "suggest"}:
            rest += ["--model", str(model), "--workspace", str(trained)]
        if verb == "evaluate" and rest[0] == "out/":
            rest.append("--allow-missing")
            (mask,) = (user.folder / "out").glob("*.nii.gz")
            label = next((user.folder / "Task05_Prostate" / "labelsTs").iterdir())
            mask.rename(mask.with_name(label.name))
        user.pclauto(verb, *rest)


def test_demo_goes_the_whole_way(shell: Shell) -> None:
    done = shell.pclauto("demo", "demo-folder")
    assert "nnU-Net alone" in done.stdout
    assert "mean Dice" in done.stdout
    assert (shell.folder / "demo-folder" / "scores.json").is_file()


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)$", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
