"""F82: what files, records and names hold reaches no terminal as it is, in any verb."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_files import RECIPE, write_run, write_scores
from shell import Shell
from toys import label_map, ramp, save, write_description

from pcl_auto.cli.verbs import VERBS

# A terminal's own controls, a title, a change of direction, what takes no room; what rich takes for markup.
HOSTILE = "q\x1b[2J\x1b]0;title\x07\u202e\u200b\x9b1m[red]"
TEXT = f"{HOSTILE}[/]"
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def texts(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value."""
    if isinstance(value, str):
        yield value
    for entry in value.items() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from texts(entry)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A workspace, a data set and scans, with hostile text wherever there is a place for it."""
    recipe = {**RECIPE, "name": TEXT, "description": TEXT}
    model = write_run(tmp_path / "work" / "nnUNet_results", recipe_values=recipe, classes=(HOSTILE, "shell"))
    write_scores(model, {HOSTILE: 0.5, "c": 0.25}, labels=HOSTILE)
    record = model / "fold_all" / "run.json"
    content = json.loads(record.read_text())
    content |= {"command": ["pclauto", "train", "--recipe", TEXT], "device": TEXT, "versions": {TEXT: TEXT}}
    record.write_text(json.dumps(content))
    for event in (
        {"event": "degenerate", "round": 1, "reasons": [HOSTILE]},
        {
            "event": "epoch",
            "epoch": 4,
            "seconds": 1,
            "stage": HOSTILE,
            "losses": {HOSTILE: 1},
            "patch_dice_of": HOSTILE,
        },
    ):
        with (model / "fold_all" / "events.jsonl").open("a") as events:
            events.write("\n" + json.dumps({"time": HOSTILE, **event}) + "\n")
    damaged = tmp_path / "work" / "nnUNet_results" / "Dataset001_X" / f"{HOSTILE}__x__2d" / "fold_all"
    damaged.mkdir(parents=True)
    (damaged / "run.json").write_text(json.dumps({HOSTILE: 1}))
    task = tmp_path / "Task09_X"
    write_description(
        task,
        {
            "name": HOSTILE, "modality": {"0": HOSTILE}, "labels": {"0": "background", "1": HOSTILE, "2": HOSTILE},
            "training": [{"image": f"imagesTr/{HOSTILE}.nii.gz", "label": HOSTILE}], HOSTILE: HOSTILE,
        },
    )  # fmt: skip
    save(task / "imagesTr" / f"{HOSTILE}.nii.gz", ramp())
    (tmp_path / f"{HOSTILE}.nii.gz").write_text(HOSTILE)
    (tmp_path / f"{HOSTILE}.toml").write_text(
        f'name = "{HOSTILE.encode("unicode_escape").decode()}"\n[{{'.replace("\\x", "\\u00")
    )
    for name in ("masks", "labels"):
        save(tmp_path / name / f"{HOSTILE}.nii.gz", label_map() + 5 * (name == "masks"))
    (tmp_path / "masks" / "predictions.json").write_text(json.dumps({"model": HOSTILE, "scans": {}}))
    return tmp_path


COMMANDS: dict[str, list[list[str]]] = {
    "download": [["download", HOSTILE]],
    "init": [
        ["init", HOSTILE, "masks", "-o", "made"],
        ["init", "Task09_X/imagesTr", "masks", "--labels", HOSTILE, "-o", "made"],
        ["init", "Task09_X/imagesTr", "labels", "-o", HOSTILE],
    ],
    "check": [["check", "Task09_X"], ["check", HOSTILE]],
    "plan": [["plan", "Task09_X"], ["plan", HOSTILE], ["plan", "Task09_X", "--plans", HOSTILE]],
    "pretrain": [
        ["pretrain", HOSTILE],
        ["pretrain", "--recipe", HOSTILE],
        ["pretrain", "--method", HOSTILE],
        ["pretrain", "--set", HOSTILE],
    ],
    "train": [
        ["train", HOSTILE],
        ["train", "--recipe", HOSTILE],
        ["train", f"--{HOSTILE}"],
        ["train", "--seed", HOSTILE],
        ["train", "--set", HOSTILE],
    ],
    "predict": [
        ["predict", f"{HOSTILE}.nii.gz", "-o", "out"],
        ["predict", f"{HOSTILE}.nii.gz", "-o", "masks", "--model", "work/nnUNet_results/Dataset001_X"],
        ["predict", HOSTILE, "-o", "out"],
    ],
    "evaluate": [["evaluate", "masks", "labels"], ["evaluate", HOSTILE, "labels"]],
    "repair": [["repair", HOSTILE, "-o", "out"]],
    "suggest": [["suggest"], ["suggest", "--model", HOSTILE]],
    "review": [["review"], ["review", "--cases", HOSTILE]],
    "continue": [["continue"], ["continue", "--recipe", HOSTILE]],
    "benchmark": [["benchmark", HOSTILE, "--arms", HOSTILE, "--labeled", HOSTILE]],
    "sweep": [["sweep", HOSTILE, "--labeled", HOSTILE]],
    "status": [["status"], ["status", "nnUNetTrainerPCL__nnUNetPlans_tiny__3d_fullres"], ["status", HOSTILE]],
    "report": [["report"], ["report", "--model", "nnUNetTrainerPCL__nnUNetPlans_tiny__3d_fullres"]],
    "recipes": [["recipes", HOSTILE], ["recipes", f"{HOSTILE}.toml"], ["recipes", "--set", f"a.b={HOSTILE}"]],
    "env": [["env"], ["env", "--export"]],
    "demo": [["demo", "--seed", HOSTILE]],
}


def test_f82_every_verb_is_tried() -> None:
    assert set(COMMANDS) == set(VERBS)


@pytest.mark.parametrize("verb", COMMANDS)
def test_f82_no_verb_passes_on_what_steers_a_terminal(place: Path, verb: str) -> None:
    shell = Shell(place)
    for command in COMMANDS[verb]:
        workspace = (
            [] if verb in ("evaluate", "check", "download", "demo", "init", "recipes") else ["--workspace", "work"]
        )
        for options in ([], ["--json"], ["--debug"]):
            done = shell.python("-m", "pcl_auto", *command, *workspace, *options)
            shown = (command, options, done.stdout, done.stderr)
            assert not STEERING.search(done.stdout + done.stderr), shown
            assert "unexpected fault" not in done.stderr, shown
            if options == ["--json"] and done.stdout and "--export" not in command:
                json.loads(done.stdout)


def test_f82_the_status_of_a_hostile_run(place: Path) -> None:
    shell = Shell(place)
    listed = json.loads(shell.pclauto("status", "--workspace", "work", "--json").stdout)
    assert HOSTILE in set(texts(listed))
    shown = shell.pclauto("status", "--workspace", "work").stdout
    assert r"\x1b[2J" in shown.replace("\n", "")
    assert "[red][/]" in shown.replace("\n", "")


def test_f82_the_page_of_a_hostile_run(place: Path) -> None:
    model = "nnUNetTrainerPCL__nnUNetPlans_tiny__3d_fullres"
    Shell(place).pclauto("report", "--model", model, "--workspace", "work", "-o", "page.html")
    assert not STEERING.search((place / "page.html").read_text().replace("\t", ""))
