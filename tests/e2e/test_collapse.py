"""A network that comes out of a round collapsed: rolled back, on record, and the same again after a kill."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from shared import TINY_RECIPE, copy_of, made_once, shell_in

pytestmark = pytest.mark.slow

# Trains as `pclauto` does, but for weights that become zero at the end of rounds, a segmenter that finds every class
# as long as they are not, and a process that ends where the test wants it.
DRIVER = """
import hashlib, json, os, sys
import torch
from pcl_auto.nnunet.data import pseudo_label_files
from pcl_auto.nnunet.training import joint_trainer
from pcl_auto.nnunet.training.pseudo_label_stage import PseudoLabelStage
from pcl_auto.nnunet.training.round_guard import RoundGuard

rounds, die, *arguments = sys.argv[1:]
collapsing = [int(number) for number in rounds.split(",") if number]
trainer = joint_trainer.nnUNetTrainerPCL

def digest(parts):
    whole = hashlib.sha256()
    for name in ("network_weights", "head", "teacher"):
        state = parts[name].state_dict()
        for value in (state["network"] if name == "teacher" else state).values():
            whole.update(value.numpy().tobytes())
    whole.update(str([s["exp_avg"].sum().item() for s in parts["optimizer"].state_dict()["state"].values()]).encode())
    return whole.hexdigest()

def validate(self, plain=trainer._validate):
    ends = [entry.last_epoch for entry in self.guard.rounds.values() if entry.number in collapsing]
    if self.epoch + 1 in ends:
        for network in (self.network, self.teacher.network):
            for parameter in network.parameters():
                parameter.data.zero_()
    plain(self)

def segmenter(self, network):
    alive = any(parameter.any() for parameter in network.parameters())
    heads = self._trainer.label_manager.num_segmentation_heads
    def segment(image):
        logits = torch.zeros(heads, *image.shape[1:])
        logits[0] = 0.5
        for value in range(1, heads if alive else 1):
            logits[value, :, value::heads] = 1
        return logits
    return segment

def note(**facts):
    with open(os.environ["NOTES"], "a") as handle:
        handle.write(json.dumps(facts) + chr(10))

def keep_start(self, number, parts, plain=RoundGuard.keep_start):
    plain(self, number, parts)
    note(kept=number, digest=digest(parts))

def roll_back(self, number, parts, device, plain=RoundGuard.roll_back):
    note(collapsed=number, digest=digest(parts))
    facts = plain(self, number, parts, device)
    note(restored=number, digest=digest(parts))
    return facts

def before_checkpoint(self, name, plain=trainer.save_checkpoint):
    if die == "before" and self.guard.collapsed:
        os._exit(9)
    plain(self, name)

def discard(folder, plain=pseudo_label_files.discard):
    if die == "after":
        os._exit(9)
    plain(folder)

def restart(*arguments, plain=joint_trainer.restart_segmentation_head):
    note(drawn_anew=True)
    plain(*arguments)

joint_trainer.restart_segmentation_head = restart
trainer._validate, trainer.save_checkpoint, PseudoLabelStage.segmenter = validate, before_checkpoint, segmenter
RoundGuard.keep_start, RoundGuard.roll_back, pseudo_label_files.discard = keep_start, roll_back, discard
sys.argv = ["pclauto", *arguments]
from pcl_auto.cli.main import run
run()
"""


# One step an epoch: what is tested happens between the epochs.
RECIPE = TINY_RECIPE.replace("steps_per_epoch = 2", "steps_per_epoch = 1")


def train(workspace: Path, collapsing: str, die: str = "", *, recipe: str = RECIPE) -> Any:
    shell = shell_in(workspace / "user")
    (shell.folder / "tiny.toml").write_text(recipe)
    return shell.python(
        "-c", DRIVER, collapsing, die, "train", "--workspace", workspace, "--recipe", "tiny.toml", "--device", "cpu",
        "--deterministic", pictures=False, NOTES=workspace / "notes.jsonl",
    )  # fmt: skip


def run_folder(workspace: Path) -> Path:
    (found,) = (workspace / "nnUNet_results").glob("Dataset*/nnUNetTrainerPCL__*/fold_all")
    return found


def events(workspace: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run_folder(workspace) / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


def notes(workspace: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workspace / "notes.jsonl").read_text().splitlines()]


def ledgers(workspace: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in run_folder(workspace).rglob("ledger.csv")}


def final(workspace: Path) -> dict[str, bytes]:
    content = torch.load(run_folder(workspace) / "checkpoint_final.pth", weights_only=True)
    return {name: value.numpy().tobytes() for name, value in content["network_weights"].items()}


@pytest.fixture(scope="session")
def rolled_back(shared_folder: Path, planned_once: Path) -> Path:
    """A run whose first round collapsed."""

    def make(folder: Path) -> None:
        done = train(copy_of(planned_once, folder / "work"), "1")
        assert done.returncode == 0, done.stderr
        assert "warning: round 1 ended in a collapse and is rolled back" in done.stderr
        assert "vanished everywhere" in done.stderr
        assert "the weights are again those of epoch 2; the next round tries again" in done.stderr

    return made_once(shared_folder / "rolled_back", make) / "work"


def test_a_collapsed_round_is_rolled_back(rolled_back: Path) -> None:
    (event,) = events(rolled_back, "rolled_back")
    assert (event["round"], event["epoch"], event["back_to_epoch"], event["training_ends"]) == (1, 4, 2, False)
    assert all("has vanished everywhere" in reason for reason in event["reasons"])
    kept, collapsed, restored, kept_again = notes(rolled_back)
    assert kept["digest"] != collapsed["digest"]
    assert kept["digest"] == restored["digest"] == kept_again["digest"]
    assert (kept["kept"], kept_again["kept"]) == (1, 2)


def test_after_a_roll_back_training_is_as_long_as_ever(rolled_back: Path) -> None:
    assert [event["epoch"] for event in events(rolled_back, "epoch")] == [1, 2, 3, 4, 5, 6]
    found = ledgers(rolled_back)
    assert set(found) == {"round_1", "round_2", "last_check"}
    assert found["round_2"].count("0,rolled back\n") == 4
    run = run_folder(rolled_back)
    assert not (run / "pseudo_labels" / "round_2" / "cases").exists()
    assert not list(run.glob("*_start.pth"))
    assert any(any(value) for value in final(rolled_back).values())


@pytest.mark.parametrize("die", ["before", "after"])
def test_a_run_killed_at_its_roll_back_ends_as_one_that_was_not(planned: Path, rolled_back: Path, die: str) -> None:
    assert train(planned, "1", die).returncode == 9
    done = train(planned, "1")
    assert done.returncode == 0, done.stderr
    # Killed before the checkpoint it decides, and says, the same again.
    said = [event["reasons"] for event in events(planned, "rolled_back")]
    assert said == [events(rolled_back, "rolled_back")[0]["reasons"]] * (2 if die == "before" else 1)
    assert final(planned) == final(rolled_back)
    assert ledgers(planned) == ledgers(rolled_back)


def test_the_last_round_is_checked_and_a_second_collapse_ends_the_training(planned: Path) -> None:
    longer = RECIPE.replace("rounds = 2", "rounds = 4").replace("epochs_per_round = 2", "epochs_per_round = 1")
    done = train(planned, "2,3", recipe=longer)
    assert done.returncode == 0, done.stderr
    first, second = events(planned, "rolled_back")
    assert (first["round"], first["back_to_epoch"], first["training_ends"]) == (2, 3, False)
    assert (second["round"], second["back_to_epoch"], second["training_ends"]) == (3, 3, True)
    assert len(events(planned, "epoch")) == 5  # of 6
    digests = {note["digest"] for note in notes(planned) if note.get("kept") in (2, 3) or "restored" in note}
    assert len(digests) == 1
    assert any(any(value) for value in final(planned).values())


def test_a_collapse_in_the_last_round_is_noticed(planned: Path) -> None:
    done = train(planned, "2")
    assert done.returncode == 0, done.stderr
    (event,) = events(planned, "rolled_back")
    assert (event["round"], event["back_to_epoch"], event["training_ends"]) == (2, 4, True)
    assert any(any(value) for value in final(planned).values())


def test_the_way_back_from_round_one_leads_to_the_head_that_was_trained(planned: Path) -> None:
    anew = RECIPE.replace("[contrast]", "[contrast]\nrestart_head = true")
    done = train(planned, "1,2", recipe=anew)
    assert done.returncode == 0, done.stderr
    assert [event["round"] for event in events(planned, "rolled_back")] == [1, 2]
    # The second try begins as the first one did.
    assert [next(iter(note)) for note in notes(planned)] == ["kept", "drawn_anew", "collapsed", "restored"] * 2
    assert len({note["digest"] for note in notes(planned) if "kept" in note or "restored" in note}) == 1
    # Drawn anew, no layer of it has a bias; in training the one at full resolution, at least, comes to have one.
    assert any(any(value) for name, value in final(planned).items() if re.search(r"seg_layers.*bias", name))


def test_without_the_guard_nothing_is_kept_or_rolled_back(planned: Path) -> None:
    off = RECIPE.replace("[collapse_guard]", "[collapse_guard]\nenabled = false")
    done = train(planned, "2", recipe=off)
    assert done.returncode == 0, done.stderr
    assert events(planned, "rolled_back") == []
    assert not (planned / "notes.jsonl").exists()
    assert "last_check" not in ledgers(planned)
    assert not any(any(value) for value in final(planned).values())
