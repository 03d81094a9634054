"""What README says works: every command of it runs here."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scanner import write_series
from shell import Shell

from pcl_auto.cli.main import app
from pcl_auto.data.phantom import make_phantom

ROOT = Path(__file__).parents[2]
INDENTED = re.compile(r"^    (pclauto .*)$", re.MULTILINE)
COMMANDS = [shlex.split(line)[1:] for line in INDENTED.findall((ROOT / "README.md").read_text())]
VERBS = [command.name for command in app.registered_commands]
EXAMPLE = re.compile(r"^ *(pclauto .*)$", re.MULTILINE)
# Trainings of minutes to days are resolved to the last setting, and not started.
NOT_STARTED = {"train", "benchmark", "sweep"}


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
    shutil.copytree(shell.folder / "study", shell.folder / "study_from_the_scanner")
    for name in ("Task05_Prostate", "Task04_Hippocampus"):
        shutil.copytree(shell.folder / name, shell.folder / "data" / name)
    shutil.copytree(shell.folder / "Task05_Prostate" / "labelsTs", shell.folder / "labelsTs")
    (shell.folder / "mine.toml").write_text((ROOT / "plans" / "quick.toml").read_text())
    (shell.folder / "tiny.toml").write_text((ROOT / "plans" / "demo.toml").read_text())
    return shell


def test_readme_shows_every_verb() -> None:
    assert {command[0] for command in COMMANDS} >= set(VERBS) - {"demo"}


@pytest.fixture(scope="module")
def work(user: Shell, trained: Path) -> Path:
    """A workspace with a trained run, to write in."""
    return Path(shutil.copytree(trained, user.folder / "trained", symlinks=True))


def run_all(commands: list[list[str]], user: Shell, model: Path, work: Path) -> None:
    """Run ``commands`` one after the other; a run that is there stands for one that would take hours."""
    ours = ["--model", model.name, "--workspace", str(work)]
    for verb, *given in commands:
        rest = list(given)
        if verb in NOT_STARTED and "--dry-run" not in rest:
            rest.append("--dry-run")
        if verb == "plan":
            rest += ["--gpu-memory-gb", "1"]
        if verb == "predict":
            rest = [argument for argument in rest if argument != "--supervised-only"] + ["--model", str(model)]
            if (user.folder / rest[rest.index("-o") + 1]).exists() and "--dry-run" not in rest:
                rest.append("--overwrite")
        if verb in {"report", "suggest", "review"} or "--continue" in rest:
            rest += ours
        if "--continue" in rest:
            correct_one(work, user.folder)
        if verb == "evaluate":
            match_names(user.folder, rest[0])
            rest += [] if Path(rest[0]).suffix else ["--allow-missing"]
        user.pclauto(verb, *rest)


def match_names(folder: Path, masks: str) -> None:
    """A mask for the label that it is compared with."""
    made = folder / "out" / "new_scan.nii.gz"
    label = next((folder / "Task05_Prostate" / "labelsTs").iterdir())
    mask = folder / masks if Path(masks).suffix else folder / masks / label.name
    mask.write_bytes(made.read_bytes())
    (folder / "label.nii.gz").write_bytes(label.read_bytes())


def correct_one(work: Path, folder: Path) -> None:
    """As somebody does in an editor: a mask changed and saved under its name, in the review that was made last."""
    made = [*work.rglob("review.json"), *folder.glob("*/review.json")]
    review = max(made, key=lambda path: path.stat().st_mtime_ns).parent
    mask = min((review / "pseudo_labels").iterdir())
    image = nibabel.load(mask)
    voxels = np.zeros(image.shape, np.uint8)
    voxels[2:8, 3:9, 2:6], voxels[8:12, 3:9, 2:6] = 1, 2
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), review / "corrected" / mask.name)


def test_readme_commands_run_in_order(user: Shell, model: Path, work: Path) -> None:
    run_all(COMMANDS, user, model, work)


def test_every_help_page_has_examples_and_they_run(user: Shell, model: Path, work: Path) -> None:
    pages = {command.name: command.callback.__doc__ for command in app.registered_commands}
    examples = {name: [shlex.split(line)[1:] for line in EXAMPLE.findall(page)] for name, page in pages.items()}
    assert all(examples.values())
    del examples["demo"]  # the next test; it takes minutes
    # In the order in which they need one another.
    first = ["plan", "train", "predict", "review"]
    verbs = [*first, *(verb for verb in examples if verb not in first)]
    commands = [command for verb in verbs for command in examples[verb] if "--continue" not in command]
    continued = [command for command in examples["train"] if "--continue" in command]
    run_all([*commands, *continued], user, model, work)


def documented_events() -> dict[str, set[str]]:
    """README's table: an event's fields, those that are not always there included."""
    found = {}
    for name, text in re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE):
        found[name] = set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", text)))
    last_check = found.pop("last_check")
    assert last_check == {"pseudo_labels", "round"}  # told by reference
    return {**found, "last_check": found["pseudo_labels"] - {"round"}}


def emitted_events() -> dict[str, set[str]]:
    """What the code can write: names of events, and of the fields that it names there."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / "pcl_auto").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            is_emit = isinstance(call, ast.Call) and ast.unparse(call.func).endswith("emit")
            if is_emit and call.args and isinstance(call.args[0], ast.Constant):
                fields = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
                found[call.args[0].value] = found.get(call.args[0].value, set()) | fields
    return found


def test_readme_tells_every_event_and_its_fields(model: Path) -> None:
    documented, emitted = documented_events(), emitted_events()
    assert documented.keys() == emitted.keys()
    for name, fields in emitted.items():
        assert fields <= documented[name], name
    perhaps = {"from_model", "from_shared_start"}
    seen = set()
    for line in (model / "fold_all" / "events.jsonl").read_text().splitlines():
        fields = json.loads(line).keys() - {"time"}
        name = json.loads(line)["event"]
        assert documented[name] - perhaps <= fields - {"event"} <= documented[name], name
        seen.add(name)
    assert seen >= {"started", "epoch", "pseudo_labels", "trained"}


def test_demo_goes_the_whole_way(shell: Shell) -> None:
    done = shell.pclauto("demo", "demo-folder")
    assert "nnU-Net alone" in done.stdout
    assert "mean Dice" in done.stdout
    assert (shell.folder / "demo-folder" / "scores.json").is_file()


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)$", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
