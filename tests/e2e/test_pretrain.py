"""Pre-train as a user does: on images alone, resumed after a kill, in files that stock nnU-Net takes."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import scramble
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from refusal import refused
from shared import PLAN_OPTIONS, copy_of, made_once, shell_in
from shell import Shell, codes
from torch import nn

import pcl_auto
from pcl_auto.errors import StateError, UsageError
from pcl_auto.nnunet.checkpoint_files import read_checkpoint
from pcl_auto.nnunet.pretrained.source import read_source
from pcl_auto.planning.plan import read_plan
from pcl_auto.planning.split_plans import with_recipe
from pcl_auto.recipe.load import load_recipe
from pcl_auto.training.pretrain_record import find_pretraining
from pcl_auto.workspace.folders import Workspace
from pcl_auto.workspace.run_record import FINAL

pytestmark = pytest.mark.slow

RECIPE = """
description = "a few steps"
[batch]
patches = 4
[network]
width = 0.25
[pretraining]
epochs = 4
steps_per_epoch = 2
dimensions = 8
"""
PRETRAIN = ("pretrain", "--recipe", "brief.toml", "--device", "cpu")
DATASET, CHANNELS = "Dataset099_Phantom", 2


def user(folder: Path) -> Shell:
    shell = shell_in(folder)
    (folder / "brief.toml").write_text(RECIPE)
    return shell


def folder_of(place: Path, name: str) -> Path:
    return place / "pclauto_work" / "nnUNet_results" / DATASET / "pretraining" / name


@pytest.fixture(scope="session")
def phantom(shared_folder: Path, task: Path) -> Path:
    """A user's folder in which the phantom was planned."""

    def make(folder: Path) -> None:
        copy_of(task, folder / task.name)
        user(folder).pclauto("plan", task.name, *PLAN_OPTIONS)

    return made_once(shared_folder / "phantom_of_pretraining", make)


@pytest.fixture(scope="session")
def pretrained(shared_folder: Path, phantom: Path) -> Path:
    """The same, pre-trained by both methods in both configurations."""

    def make(folder: Path) -> None:
        shutil.copytree(phantom, folder, dirs_exist_ok=True)
        for method in ("masked", "contrastive"):
            for configuration in ("2d", "3d_fullres"):
                user(folder).pclauto(*PRETRAIN, "--method", method, "--configuration", configuration)

    return made_once(shared_folder / "pretrained", make)


@pytest.fixture
def own(phantom: Path, tmp_path: Path) -> Path:
    """A phantom of the test's own, planned where it lies now."""
    place = copy_of(phantom, tmp_path / "own")
    user(place).pclauto("plan", "Task99_Phantom", *PLAN_OPTIONS)
    return place


def planned_network(place: Path, configuration: str, classes: int) -> nn.Module:
    """Return the network that a training with the recipe would have, with weights of its own."""
    data = Workspace.at(place / "pclauto_work", "test").dataset(None)
    chosen = with_recipe(
        read_plan(data).nnunet["configurations"][configuration], load_recipe(str(place / "brief.toml"))
    )
    architecture = chosen["architecture"]
    made: nn.Module = get_network_from_plans(
        architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"],
        CHANNELS, classes, deep_supervision=True,
    )  # fmt: skip
    return made


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("method", ["masked", "contrastive"])
def test_stock_nnunet_takes_the_weights(
    pretrained: Path, method: str, configuration: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder_of(pretrained, f"{method}_brief_e4_all__{configuration}") / FINAL
    torch.manual_seed(5)
    network = planned_network(pretrained, configuration, classes=3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    load_pretrained_weights(network, str(file))
    weights = read_checkpoint(file)["network_weights"]
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name] if ".seg_layers." in name else weights[name]), name
    assert sum(not torch.equal(before[name], value) for name, value in weights.items()) > len(weights) / 2
    read = read_source(file, "test")
    assert {name for name in weights if name.startswith("encoder.")} <= set(read.weights)
    # Local contrast leaves the stage of full resolution as it was drawn: it is there for stock nnU-Net alone.
    last = f"decoder.stages.{len(network.decoder.stages) - 1}."  # type: ignore[arg-type, union-attr]
    assert any(name.startswith(last) for name in weights)
    assert any(name.startswith(last) for name in read.weights) is (method == "masked")
    assert any(name.startswith("decoder.stages.0.") for name in read.weights)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_what_is_written_says_what_it_is_and_nothing_of_the_machine(pretrained: Path, configuration: str) -> None:
    folder = folder_of(pretrained, f"contrastive_brief_e4_all__{configuration}")
    content: dict[str, Any] = read_checkpoint(folder / FINAL)
    described = json.loads((folder / "adaptation_plan.json").read_text())
    assert content.keys() == {"network_weights", "nnssl_adaptation_plan", "trainer_name", "init_args", "pclauto"}
    assert content["nnssl_adaptation_plan"] == described
    assert not any("seg_layers" in name for name in content["network_weights"])
    chosen = content["init_args"]["plans"]["configurations"][configuration]
    assert content["init_args"]["configuration"] == configuration
    assert described["architecture_plans"]["arch_class_name"] == "PlainConvUNet"
    assert described["architecture_plans"]["arch_kwargs"] == chosen["architecture"]["arch_kwargs"]
    assert described["pretrain_plan"]["configurations"][configuration]["spacing"] == chosen["spacing"]
    assert described["pretrain_patch_size"] == list(chosen["patch_size"])
    assert described["pretrain_num_input_channels"] == CHANNELS
    assert described["key_to_encoder"] == "encoder.stages"
    assert described["key_to_stem"] == "encoder.stages.0"
    for name in described["keys_to_in_proj"]:
        assert f"{name}.weight" in content["network_weights"]
    assert any("2006.10511" in citation for citation in described["citations"])
    assert str(pretrained).encode() not in (folder / FINAL).read_bytes()
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 2, "a curve of each stage"
    assert "http" not in page.replace("http://www.w3.org", "")
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["started", *["epoch"] * 4, "trained"]
    assert [event["stage"] for event in events if event["event"] == "epoch"] == ["global"] * 2 + ["local"] * 2


@pytest.mark.parametrize("method", ["masked", "contrastive"])
@pytest.mark.parametrize("fault", ["renamed:4", "sync:6", "sync:9"])
def test_a_killed_pretraining_ends_like_one_that_was_not(own: Path, pretrained: Path, method: str, fault: str) -> None:
    shell, name = user(own), f"{method}_brief_e4_all__3d_fullres"
    command = (*PRETRAIN, "--method", method)
    killed = shell.python("-m", "pcl_auto", *command, PCLAUTO_FAULT=fault)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder_of(own, name) / "run.json").is_file() or not json.loads(
        (folder_of(own, name) / "run.json").read_text()
    ).get("outputs")
    shell.pclauto(*command)
    for file in (FINAL, "adaptation_plan.json"):
        assert (folder_of(own, name) / file).read_bytes() == (folder_of(pretrained, name) / file).read_bytes()
    assert not list(folder_of(own, name).glob("checkpoint_[lp]*.pth"))
    assert "already done" in shell.pclauto(*command).stderr


def as_ct(place: Path) -> None:
    """Declare the phantom's images to be CT, whose normalization takes intensities."""
    file = place / "Task99_Phantom" / "dataset.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "modality": dict.fromkeys(content["modality"], "CT")}))


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_f110_no_label_is_read(phantom: Path, tmp_path: Path, modality: str) -> None:
    places = {name: tmp_path / name for name in ("whole", "before", "after")}
    for name, place in places.items():
        copy_of(phantom / "Task99_Phantom", place / "Task99_Phantom")
        shell, labels = user(place), sorted((place / "Task99_Phantom" / "labelsTr").glob("*.nii.gz"))
        assert len(labels) == 2
        if modality == "CT":
            as_ct(place)
        for number, label in enumerate(labels if name == "before" else []):
            scramble(label, number)
        shell.pclauto("plan", "Task99_Phantom", "--configuration", "2d", *PLAN_OPTIONS)
        for number, label in enumerate(labels if name == "after" else []):
            scramble(label, number)
        shell.pclauto(*PRETRAIN)
    masked = "masked_brief_e4_all__2d"
    files = {name: (folder_of(place, masked) / FINAL).read_bytes() for name, place in places.items()}
    assert files["before"] == files["whole"]
    assert files["after"] == files["whole"]
    plans = read_checkpoint(folder_of(places["whole"], masked) / FINAL)["init_args"]["plans"]
    intensities = plans["foreground_intensity_properties_per_channel"].values()
    assert {each["std"] == 1.0 for each in intensities} == {modality == "MR"}, "of whole images, where they are needed"


def test_cases_outside_a_split_stay_out(own: Path) -> None:
    shell = user(own)
    split = own / "split.json"
    split.write_text(json.dumps({"labeled": ["phantom_001"], "unlabeled": ["phantom_003", "phantom_004"]}))
    shown = json.loads(shell.pclauto(*PRETRAIN, "--split", split, "--json").stdout)
    assert shown["cases"] == ["phantom_001", "phantom_003", "phantom_004"]
    folder = Path(shown["folder"])
    record = json.loads((folder / "run.json").read_text())
    assert sorted(record["images"]) == shown["cases"]
    first = (folder / FINAL).read_bytes()
    # Nothing of the others is needed, neither their files nor what was stored of them.
    for place in (own / "Task99_Phantom", own / "pclauto_work" / "nnUNet_preprocessed"):
        for file in place.rglob("*phantom_00[256]*"):
            if "labelsTr" not in file.parts:
                file.unlink()
    assert list((own / "Task99_Phantom").rglob("imagesTr/*.nii.gz"))
    shell.pclauto(*PRETRAIN, "--split", split, "--restart")
    assert (folder / FINAL).read_bytes() == first


def test_what_is_refused(own: Path) -> None:
    shell = user(own)
    assert codes(shell.refusal(*PRETRAIN, "--method", "magic", code=2)) == ["pretrain.unknown-method"]
    deep = ("--method", "contrastive", "--set", "pretraining.partitions=99")
    assert codes(shell.refusal(*PRETRAIN, *deep, code=4)) == ["pretrain.too-few-slices"]
    assert codes(shell.refusal(*PRETRAIN, "--configuration", "4d", code=2)) == ["plan.unknown-configuration"]
    shell.pclauto(*PRETRAIN, "--configuration", "2d")
    (own / "brief.toml").write_text(RECIPE.replace("steps_per_epoch = 2", "steps_per_epoch = 3"))
    again = (*PRETRAIN, "--configuration", "2d")
    assert codes(shell.refusal(*again, code=4)) == ["run.settings-changed"]
    shell.pclauto(*again, "--restart")
    (folder_of(own, "masked_brief_e4_all__2d") / "adaptation_plan.json").write_text("{}")
    assert codes(shell.refusal(*again, code=4)) == ["run.file-changed"]
    image = own / "Task99_Phantom" / "imagesTr" / "phantom_003.nii.gz"
    shell.pclauto(*again, "--restart")
    shutil.copyfile(image.with_name("phantom_004.nii.gz"), image)
    for command in (PRETRAIN, again):  # one that has not begun, one that is done
        assert codes(shell.refusal(*command, code=4)) == ["plan.image-changed"]
    plan = own / "pclauto_work" / "nnUNet_preprocessed" / DATASET / "pclauto" / "plan.json"
    content = json.loads(plan.read_text())
    for case in content["cases"].values():
        del case["digest"]
    plan.write_text(json.dumps(content))
    assert codes(shell.refusal(*PRETRAIN, code=4)) == ["pretrain.old-plan"]


def test_a_dry_run_writes_nothing(own: Path) -> None:
    before = sorted((own / "pclauto_work").rglob("*"))
    assert "dry run" in user(own).pclauto(*PRETRAIN, "--dry-run").stderr
    assert sorted((own / "pclauto_work").rglob("*")) == before


def test_finished_ones_are_found_and_shown(pretrained: Path) -> None:
    workspace = Workspace.at(pretrained / "pclauto_work", "test")
    data = workspace.dataset(None)
    images = {case: planned.digest for case, planned in read_plan(data).cases.items()}
    for configuration in ("2d", "3d_fullres"):
        found = find_pretraining(workspace, data, configuration, images)
        assert [folder.name for folder in found] == [
            f"{method}_brief_e4_all__{configuration}" for method in ("contrastive", "masked")
        ]
    assert find_pretraining(workspace, data, "3d_lowres", images) == []
    fewer = {case: digest for case, digest in images.items() if case != "phantom_002"}
    assert find_pretraining(workspace, data, "2d", fewer) == []
    # Another image under the name.
    assert find_pretraining(workspace, data, "2d", {**images, "phantom_002": "0" * 64}) == []
    shown = json.loads(user(pretrained).pclauto("status", "--json").stdout)
    assert sorted(Path(run["folder"]).name for run in shown) == sorted(
        f"{method}_brief_e4_all__{configuration}"
        for method in ("contrastive", "masked")
        for configuration in ("2d", "3d_fullres")
    )
    assert {(run["state"], run["epoch"], run["epochs"], run["split"]) for run in shown} == {("finished", 4, 4, "all")}
    assert {run["recipe"] for run in shown} == {"brief, masked pre-training", "brief, contrastive pre-training"}
    (one,) = json.loads(user(pretrained).pclauto("status", shown[0]["folder"], "--json").stdout)
    assert one == shown[0]
    assert "pre-training" in user(pretrained).pclauto("status").stdout


def test_an_unfinished_or_damaged_one_is_not_begun_with(pretrained: Path, tmp_path: Path) -> None:
    place = copy_of(pretrained, tmp_path / "own")
    workspace = Workspace.at(place / "pclauto_work", "test")
    folders = [folder_of(place, f"{method}_brief_e4_all__2d") for method in ("masked", "contrastive")]
    (folders[0] / FINAL).unlink()
    (folders[1] / "run.json").write_text("{")
    data = workspace.dataset(None)
    images = {case: planned.digest for case, planned in read_plan(data).cases.items()}
    assert find_pretraining(workspace, data, "2d", images) == []
    states = {
        Path(run["folder"]).name: run["state"] for run in json.loads(user(place).pclauto("status", "--json").stdout)
    }
    assert (states[folders[0].name], states[folders[1].name]) == ("stopped", "damaged")


def test_in_python(own: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    user(own)
    monkeypatch.chdir(own)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_n_proc_DA", "nnUNet_extTrainer"):
        monkeypatch.setenv(name, "0")  # put back after the test, whatever it was
        monkeypatch.delenv(name)
    heard: list[str] = []
    settings = {"pretraining.steps_per_epoch": 1, "network.width": 0.25, "batch.patches": 2}
    made = pcl_auto.pretrain(
        epochs=1, settings=settings, configuration="2d", device="cpu", listener=lambda event, _: heard.append(event)
    )
    assert capfd.readouterr() == ("", "")
    assert (made.folder / FINAL).is_file()
    assert made.recipe.pretraining.steps_per_epoch == 1
    assert len(made.cases) == 6
    assert {"started", "step", "epoch", "checkpoint", "trained"} <= set(heard)
    with refused(UsageError, "usage.out-of-range"):
        pcl_auto.pretrain(epochs=0)
    with refused(StateError, "plan.missing"):
        pcl_auto.pretrain(workspace=own / "nowhere")
