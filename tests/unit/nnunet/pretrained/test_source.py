"""Checkpoints as nnssl and nnU-Net publish them: read whole, or refused with one clear error."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained_files import (
    FEATURES,
    adaptation_plan,
    architecture,
    network,
    nnunet_plans,
    write_nnssl,
    write_nnunet,
)
from refusal import refused

from pcl_auto.errors import StateError
from pcl_auto.nnunet.checkpoint_files import read_checkpoint
from pcl_auto.nnunet.pretrained.architecture import named_tensors, resenc_l, stage_of
from pcl_auto.nnunet.pretrained.source import UNSTATED, read_source

KINDS = ["ResidualEncoderUNet", "PlainConvUNet"]


def of_unet(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what of a network's state dict can be pretrained, under each of its names once."""
    return {name: value for name, value in weights.items() if stage_of(name) is not None}


# --- what is read ---


@pytest.mark.parametrize("inside", [True, False], ids=["in the checkpoint", "beside it"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_nnssl(kind: str, inside: bool, tmp_path: Path) -> None:
    of = architecture(kind)
    weights = network(of).state_dict()
    file = write_nnssl(tmp_path, weights, adaptation_plan(of), inside=inside, beside=not inside)
    (tmp_path / "README.md").write_text("---\ntags:\n- mri\nlicense: cc-by-4.0\n---\n# A model\n")
    source = read_source(file)
    assert source.format == "nnssl"
    assert source.described.architecture == of
    assert source.described.spacing_mm == (1.0, 1.0, 1.0)
    assert source.described.patch_voxels == (160, 160, 160)
    assert source.described.channels == 1
    assert source.described.citations == ("Pretraining: A study: @article{a} @article{b}",)
    assert source.license == "cc-by-4.0"
    assert source.weights.keys() == of_unet(weights).keys()
    for name, value in of_unet(weights).items():
        assert torch.equal(source.weights[name], value), name


def test_the_patch_in_the_checkpoint_goes_before_the_recommended_one(tmp_path: Path) -> None:
    of = architecture()
    file = write_nnssl(tmp_path, network(of).state_dict(), adaptation_plan(of, pretrain_patch_size=[96, 96, 96]))
    assert read_source(file).described.patch_voxels == (96, 96, 96)


@pytest.mark.parametrize("plan", ["ResEncL", None], ids=["by its name", "without its plan"])
def test_the_network_that_nnssl_publishes(plan: str | None, tmp_path: Path) -> None:
    # Of the published size; an expanded number is stored as one.
    shapes = network_shapes(resenc_l())
    weights = {name: torch.tensor(float(index)).expand(shape) for index, (name, shape) in enumerate(shapes.items())}
    source = read_source(write_nnssl(tmp_path, weights, None if plan is None else adaptation_plan(None)))
    assert source.described.architecture == resenc_l()
    assert source.encoder_stages == 6
    first = source.weights["encoder.stem.convs.0.conv.weight"]
    assert tuple(first.shape) == (32, 1, 3, 3, 3)
    assert torch.equal(first, weights["encoder.stem.convs.0.conv.weight"])


def network_shapes(of: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a network that is never drawn."""
    return {name: tuple(value.shape) for name, value in of.build(1).state_dict().items()}


def test_the_published_network_has_the_published_blocks() -> None:
    names = network_shapes(resenc_l())
    blocks = [len({name.split(".")[4] for name in names if name.startswith(f"encoder.stages.{n}.")}) for n in range(6)]
    assert blocks == [1, 3, 4, 6, 6, 6]
    widths = [names[f"encoder.stages.{n}.blocks.0.conv1.conv.weight"][0] for n in range(6)]
    assert widths == [32, 64, 128, 256, 320, 320]
    convolutions = {name.split(".")[4] for name in names if re.match(r"decoder\.stages\.\d\.convs\.", name)}
    assert convolutions == {"0"}  # one in every stage


@pytest.mark.parametrize("with_plan", [True, False])
def test_the_encoder_that_learns_is_taken_not_its_teacher(with_plan: bool, tmp_path: Path) -> None:
    of = architecture()
    weights = {name: value for name, value in network(of).state_dict().items() if name.startswith("encoder.")}
    teacher = {name: value + 1 for name, value in weights.items()}
    both = {f"online_{name}": value for name, value in weights.items()}
    both |= {f"target_{name}": value for name, value in teacher.items()}
    both["projector.0.weight"] = torch.zeros(3, 3)
    plan = adaptation_plan(of, key_to_encoder="online_encoder.stages", key_to_stem="online_encoder.stem")
    source = read_source(write_nnssl(tmp_path, both, plan if with_plan else None))
    assert source.weights.keys() == weights.keys()
    assert all(torch.equal(source.weights[name], value) for name, value in weights.items())


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_distributed_and_compiled_training(wrapper: str, tmp_path: Path) -> None:
    of = architecture()
    weights = network(of).state_dict()
    named = {f"{wrapper}{name}": value for name, value in weights.items()}
    source = read_source(write_nnssl(tmp_path, named, adaptation_plan(of)))
    assert source.weights.keys() == of_unet(weights).keys()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "nnUNetTrainer_DASegOrd0_NoMirroring", "MultiTalentTrainer"])
def test_a_model_of_nnunet(kind: str, trainer: str, tmp_path: Path) -> None:
    of = architecture(kind)
    weights = network(of, heads=61).state_dict()
    source = read_source(write_nnunet(tmp_path / "model", weights, nnunet_plans(of), trainer=trainer), "hf://a/b@1")
    assert source.format == "nnU-Net"
    assert source.described.spacing_mm == (2.0, 1.0, 1.0)
    assert source.described.normalization == ("ZScoreNormalization",)
    assert source.described.citations == ("Many et al., 2024",)
    assert source.license == "CC-BY 4.0"
    assert not any("seg_layers" in name for name in source.weights)
    assert all(torch.equal(source.weights[name], value) for name, value in of_unet(weights).items())
    record = source.as_record()
    assert record["source"] == "hf://a/b@1"
    assert json.loads(json.dumps(record)) == record


def test_a_license_file_is_read_and_silence_is_said(tmp_path: Path) -> None:
    of = architecture()
    file = write_nnssl(tmp_path, network(of).state_dict(), adaptation_plan(of))
    assert read_source(file).license == UNSTATED
    (tmp_path / "LICENSE").write_text("\n  Apache License\n  Version 2.0\n")
    assert read_source(file).license == "Apache License"
    (tmp_path / "config.json").write_text('{"license": "CC BY 4.0"}')
    assert read_source(file).license == "CC BY 4.0"


def test_every_tensor_stands_once_under_all_of_its_names() -> None:
    made = network(architecture())
    entries = named_tensors(made)
    assert (
        len({id(entry.tensor) for entry in entries})
        == len(entries)
        == len({*map(id, made.state_dict(keep_vars=True).values())})
    )
    (first,) = [entry for entry in entries if "encoder.stem.convs.0.conv.weight" in entry.names]
    assert set(first.names) == {"encoder.stem.convs.0.conv.weight", "encoder.stem.convs.0.all_modules.0.weight"}


# --- what is refused ---


class RunsCode:
    """Stand for what a stranger's pickle may hold."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch made_by_a_checkpoint",)


def test_f105_a_checkpoint_that_would_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"network_weights": RunsCode()}, tmp_path / "checkpoint_final.pth")
    with refused(StateError, "checkpoint.unreadable"):
        read_source(tmp_path / "checkpoint_final.pth")
    assert not (tmp_path / "made_by_a_checkpoint").exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_f105_a_download_that_stopped_half_way(share: float, tmp_path: Path) -> None:
    of = architecture()
    file = write_nnssl(tmp_path, network(of).state_dict(), adaptation_plan(of))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with refused(StateError, "checkpoint.unreadable"):
        read_source(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_f105_weights_that_are_no_numbers(value: float, tmp_path: Path) -> None:
    of = architecture()
    weights = network(of).state_dict()
    weights["encoder.stages.2.blocks.0.conv1.conv.weight"][1, 2] = value
    with refused(StateError, "checkpoint.not-finite") as refusal:
        read_source(write_nnssl(tmp_path, weights, adaptation_plan(of)))
    assert "encoder.stages.2.blocks.0.conv1.conv.weight" in refusal.problem.found


@pytest.mark.parametrize(
    "odd",
    [
        torch.Tensor.to_sparse,
        torch.Tensor.bool,
        lambda weight: (weight * 100).to(torch.int8),
        lambda weight: weight * 1j,
        lambda weight: weight.to("meta"),
        lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
    ],
    ids=["sparse", "bool", "int8", "complex", "meta", "quantized"],
)
def test_f105_tensors_that_are_no_weights(odd: Any, tmp_path: Path) -> None:
    of = architecture()
    weights = network(of).state_dict()
    name = "encoder.stages.1.blocks.0.conv1.conv.weight"
    weights[name] = odd(weights[name])
    file = write_nnssl(tmp_path, weights, adaptation_plan(of))
    with pytest.raises(StateError) as caught:
        read_source(file)
    # Some of them torch itself does not read without running code.
    assert {problem.code for problem in caught.value.problems} <= {"pretrained.no-weights", "checkpoint.unreadable"}


def test_f105_numbers_that_float32_does_not_hold(tmp_path: Path) -> None:
    of = architecture()
    weights = {name: value.double() * 1e200 for name, value in network(of).state_dict().items()}
    with refused(StateError, "checkpoint.not-finite"):
        read_source(write_nnssl(tmp_path, weights, adaptation_plan(of)))


def test_counts_of_batch_normalization_stay_whole(tmp_path: Path) -> None:
    of = architecture()
    normalized = {"norm_op": "torch.nn.modules.batchnorm.BatchNorm3d", "norm_op_kwargs": {"affine": True}}
    of = replace(of, arguments={**of.arguments, **normalized})
    weights = network(of).state_dict()
    (count, *_) = [name for name in weights if name.endswith("num_batches_tracked") and name.startswith("encoder.")]
    weights[count] += 7
    source = read_source(write_nnssl(tmp_path, weights, adaptation_plan(of)))
    assert source.weights[count] == 7
    assert source.weights[count].dtype == torch.int64


def test_a_checkpoint_that_is_replaced_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = architecture()
    file = write_nnssl(tmp_path, network(of).state_dict(), adaptation_plan(of))

    def read(path: Path) -> Any:
        content = read_checkpoint(path)
        write_nnssl(tmp_path, network(of, seed=1).state_dict(), adaptation_plan(of))
        return content

    monkeypatch.setattr("pcl_auto.nnunet.pretrained.source.read_checkpoint", read)
    with refused(StateError, "pretrained.changed"):
        read_source(file)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense:\nlanguage: en\n---\n", UNSTATED),
        ("---\nlicense:\n- mit\n- 'cc-by-4.0'\ntags:\n- x\n---\n", "mit, cc-by-4.0"),
        ("---\nlicense: [mit]\n---\n", "mit"),
        (f"---\nlicense: {'x' * 5000}\n---\n", "x" * 200),
    ],
)
def test_the_license_in_the_head_of_a_card(card: str, expected: str, tmp_path: Path) -> None:
    of = architecture()
    file = write_nnssl(tmp_path / "model", network(of).state_dict(), adaptation_plan(of))
    (file.parent / "README.md").write_text(card)
    # What lies beside the model is of something else.
    (tmp_path / "README.md").write_text("---\nlicense: of-a-neighbor\n---\n")
    (file.parent / "config.json").write_text("[1]")
    assert read_source(file).license == expected


@pytest.mark.parametrize("length", [float("inf"), 1e-9, 1e9, -1, "1", True])
def test_lengths_that_none_has_are_not_known(length: Any, tmp_path: Path) -> None:
    of = architecture()
    changes = {
        "pretrain_plan": {"configurations": {"own": {"spacing": [length, 1, 1]}}},
        "recommended_downstream_patchsize": [length, 32, 32],
    }
    described = read_source(write_nnssl(tmp_path, network(of).state_dict(), adaptation_plan(of, **changes))).described
    assert described.spacing_mm is None
    assert described.patch_voxels is None


def test_f105_no_state_dict(tmp_path: Path) -> None:
    for number, content in enumerate(({"network_weights": [1, 2]}, {"network_weights": {"a": 1}}, {"state_dict": {}})):
        file = tmp_path / f"{number}.pth"
        torch.save(content, file)
        with refused(StateError, "checkpoint.not-nnunet"):
            read_source(file)


@pytest.mark.parametrize("change", ["width", "stages", "blocks", "channels", "missing", "kind"])
def test_f106_a_plan_that_contradicts_its_tensors(change: str, tmp_path: Path) -> None:
    said = {
        "width": architecture(features=(4, 6, 8, 16)),
        "stages": architecture(features=(*FEATURES, 8)),
        "blocks": architecture(blocks=2),
        "kind": architecture("PlainConvUNet"),
    }.get(change, architecture())
    weights = network(architecture()).state_dict()
    if change == "missing":
        weights = {name: value for name, value in weights.items() if not name.startswith("encoder.stages.1.")}
    plan = adaptation_plan(said, **({"pretrain_num_input_channels": 2} if change == "channels" else {}))
    with refused(StateError, "pretrained.contradiction"):
        read_source(write_nnssl(tmp_path, weights, plan))


def test_f106_more_stages_in_the_file_than_its_plan_says(tmp_path: Path) -> None:
    weights = network(architecture(features=(*FEATURES, 8))).state_dict()
    with refused(StateError, "pretrained.contradiction") as refusal:
        read_source(write_nnssl(tmp_path, weights, adaptation_plan(architecture())))
    assert "encoder.stages.4." in refusal.problem.found


def test_f106_plans_of_nnunet_that_contradict_the_decoder(tmp_path: Path) -> None:
    weights = network(architecture(decoder=2)).state_dict()
    with refused(StateError, "pretrained.contradiction") as refusal:
        read_source(write_nnunet(tmp_path / "model", weights, nnunet_plans(architecture())))
    assert "decoder." in refusal.problem.found


@pytest.mark.parametrize("name", ["PrimusM", "Primus_L", "SwinUNETR"])
def test_f106_a_transformer_is_refused_by_name(name: str, tmp_path: Path) -> None:
    weights = {"vit.blocks.0.attn.qkv.weight": torch.zeros(3, 3)}
    plan = {**adaptation_plan(None), "architecture_plans": {"arch_class_name": name}, "key_to_encoder": "eva"}
    with refused(StateError, "pretrained.transformer") as refusal:
        read_source(write_nnssl(tmp_path / "a", weights, plan))
    assert name in refusal.problem.found
    assert "ResEnc-L" in refusal.problem.fix
    with refused(StateError, "pretrained.transformer"):
        read_source(write_nnssl(tmp_path / "b", weights, None))


def test_a_network_without_an_encoder(tmp_path: Path) -> None:
    file = write_nnssl(tmp_path, {"layer1.0.conv1.weight": torch.zeros(2, 2, 3, 3)}, None)
    with refused(StateError, "pretrained.no-encoder") as refusal:
        read_source(file)
    assert "layer1.0.conv1.weight" in refusal.problem.found


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture_plans": None},
        {"architecture_plans": {"arch_class_name": "os.system"}},
        {"architecture_plans": {"arch_class_name": None}},
        {"key_to_encoder": 3},
        {"key_to_stem": None},
        {"pretrain_num_input_channels": 0},
    ],
)
def test_no_adaptation_plan(changes: dict[str, Any], tmp_path: Path) -> None:
    of = architecture()
    plan = {**adaptation_plan(of), **changes}
    with refused(StateError, "pretrained.no-adaptation-plan"):
        read_source(write_nnssl(tmp_path, network(of).state_dict(), plan))


@pytest.mark.parametrize(("key", "value"), [("conv_op", "os.system"), ("n_stages", 10**9), ("nonlin", "builtins.eval")])
def test_f106_an_architecture_that_nnunet_does_not_write(key: str, value: Any, tmp_path: Path) -> None:
    of = architecture()
    plan = adaptation_plan(of)
    plan["architecture_plans"]["arch_kwargs"][key] = value
    with refused(StateError, "model.untrusted"):
        read_source(write_nnssl(tmp_path, network(of).state_dict(), plan))


def test_a_checkpoint_of_a_configuration_that_its_plans_lack(tmp_path: Path) -> None:
    of = architecture()
    file = write_nnunet(tmp_path / "model", network(of).state_dict(), nnunet_plans(of))
    content = torch.load(file, weights_only=True)
    content["init_args"]["configuration"] = "3d_lowres"
    torch.save(content, file)
    with refused(StateError, "checkpoint.other-configuration"):
        read_source(file)
