"""Pretrained weights in a planned network, stage by stage, tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from pretrained_files import FEATURES, adaptation_plan, architecture, network, nnunet_plans, write_nnssl, write_nnunet
from refusal import refused

from pcl_auto.errors import StateError
from pcl_auto.nnunet.pretrained.architecture import Architecture, stage_of
from pcl_auto.nnunet.pretrained.match import Match, fit_channels, match_network, take_weights
from pcl_auto.nnunet.pretrained.source import PretrainedSource, read_source

KINDS = ["ResidualEncoderUNet", "PlainConvUNet"]


def source_of(of: Architecture, folder: Path, *, channels: int = 1, seed: int = 0) -> PretrainedSource:
    weights = network(of, channels, seed=seed).state_dict()
    return read_source(write_nnssl(folder, weights, adaptation_plan(of, pretrain_num_input_channels=channels)))


def taken(match: Match) -> list[str]:
    return [stage.name for stage in match.stages if stage.taken]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("format", ["nnssl", "nnU-Net"])
def test_every_tensor_but_the_heads_is_the_files(kind: str, channels: int, format: str, tmp_path: Path) -> None:  # noqa: A002
    of = architecture(kind)
    weights = network(of, heads=5).state_dict()
    file = (
        write_nnssl(tmp_path, weights, adaptation_plan(of))
        if format == "nnssl"
        else write_nnunet(tmp_path / "model", weights, nnunet_plans(of))
    )
    source, target = read_source(file), network(of, channels, seed=1)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    match = match_network(source, target)
    assert match.fraction_of("encoder") == match.fraction_of("decoder") == 1
    assert match.adapted == ("" if channels == 1 else "first convolution from 1 to 3 channels")
    take_weights(source, target, match)
    first = "encoder.stem.convs.0.conv.weight" if "Residual" in kind else "encoder.stages.0.0.convs.0.conv.weight"
    for name, value in target.state_dict().items():
        if ".seg_layers." in name:
            assert torch.equal(value, before[name])  # never the file's
        elif value.shape != weights[name].shape:
            # Reference: the weight as often as there are channels, divided by their number.
            assert name.replace("decoder.", "").replace("all_modules.0", "conv") == first
            assert torch.equal(value, torch.cat([weights[name]] * channels, dim=1) / channels)
        else:
            assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_taken_is_what_stock_nnunet_takes(kind: str, tmp_path: Path) -> None:
    of = architecture(kind)
    file = write_nnunet(tmp_path / "model", network(of, heads=5).state_dict(), nnunet_plans(of))
    ours, stock = network(of, seed=1), network(of, seed=1)
    source = read_source(file)
    take_weights(source, ours, match_network(source, ours))
    load_pretrained_weights(stock, str(file))
    assert all(torch.equal(value, stock.state_dict()[name]) for name, value in ours.state_dict().items())


def test_the_first_convolution_answers_alike_channels_as_before() -> None:
    torch.manual_seed(0)
    weight, image = torch.randn(4, 3, 3, 3, 3), torch.randn(1, 1, 6, 6, 6)
    before = torch.nn.functional.conv3d(image.expand(-1, 3, -1, -1, -1), weight)
    for channels in (1, 2, 5):
        after = torch.nn.functional.conv3d(image.expand(-1, channels, -1, -1, -1), fit_channels(weight, channels))
        assert torch.allclose(before, after, atol=1e-4)


def test_weights_of_half_precision_become_those_of_the_network(tmp_path: Path) -> None:
    of = architecture()
    weights = {name: value.half() for name, value in network(of).state_dict().items()}
    source, target = read_source(write_nnssl(tmp_path, weights, adaptation_plan(of))), network(of, seed=1)
    take_weights(source, target, match_network(source, target))
    name = "encoder.stages.1.blocks.0.conv1.conv.weight"
    assert target.state_dict()[name].dtype == torch.float32
    assert torch.equal(target.state_dict()[name], weights[name].float())


def test_a_stage_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    source = source_of(architecture(features=(4, 6, 8, 12)), tmp_path)
    target = network(architecture(features=(4, 6, 8, 10)), seed=1)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    match = match_network(source, target)
    assert taken(match) == ["encoder stem", "encoder stage 1", "encoder stage 2", "encoder stage 3"]
    reasons = {stage.name: stage.reason for stage in match.stages if not stage.taken}
    assert reasons["encoder stage 4"].startswith("another shape: encoder.stages.3.")
    assert "(12, " in reasons["encoder stage 4"]
    # They would fit, but work on features that are not those they knew.
    assert reasons["decoder stage 2"] == reasons["decoder stage 3"] == "encoder stage 4 before it is not taken"
    take_weights(source, target, match)
    for name, value in target.state_dict().items():
        stage = stage_of(name.replace("decoder.encoder", "encoder"))
        same = stage is not None and str(stage) in taken(match)
        assert torch.equal(value, source.weights[name.replace("decoder.encoder", "encoder")] if same else before[name])
    encoder = [stage for stage in match.stages if stage.name.startswith("encoder")]
    total = sum(parameter.numel() for name, parameter in target.named_parameters() if name.startswith("encoder."))
    assert sum(stage.parameters for stage in encoder) == total
    assert match.fraction_of("encoder") == sum(stage.parameters for stage in encoder if stage.taken) / total


def test_more_blocks_in_the_file_end_with_other_features(tmp_path: Path) -> None:
    source = source_of(architecture(blocks=2), tmp_path)
    with refused(StateError, "pretrained.no-match") as refusal:
        match_network(source, network(architecture(blocks=1)))
    assert "more layers in the file" in refusal.problem.found


@pytest.mark.parametrize("there", [(4, 6, 8, 8), (4, 6)])
def test_the_decoder_of_an_encoder_of_another_depth_is_not_taken(there: tuple[int, ...], tmp_path: Path) -> None:
    match = match_network(source_of(architecture(features=there), tmp_path), network(architecture(features=(4, 6, 8))))
    assert match.fraction_of("encoder") == pytest.approx(1 if len(there) > 3 else match.fraction_of("encoder"))
    assert taken(match)[:3] == ["encoder stem", "encoder stage 1", "encoder stage 2"]
    assert match.fraction_of("decoder") == 0


def test_nothing_behind_a_stage_that_does_not_fit_is_taken(tmp_path: Path) -> None:
    # All stages but the first have the same shapes.
    other = architecture()
    other.arguments["kernel_sizes"][0] = [1, 3, 3]
    with refused(StateError, "pretrained.no-match") as refusal:
        match_network(source_of(architecture(), tmp_path), network(other))
    assert "encoder stage 2: encoder stem before it is not taken" in refusal.problem.found


def test_a_decoder_that_is_not_wanted_or_not_there(tmp_path: Path) -> None:
    of = architecture()
    source = source_of(of, tmp_path / "a")
    match = match_network(source, network(of), decoder=False)
    assert match.fraction_of("encoder") == 1
    assert match.fraction_of("decoder") == 0
    encoder = {name: value for name, value in network(of).state_dict().items() if name.startswith("encoder.")}
    match = match_network(read_source(write_nnssl(tmp_path / "b", encoder, adaptation_plan(of))), network(of))
    assert match.fraction_of("decoder") == 0
    assert {stage.reason for stage in match.stages if not stage.taken} == {"no trained weights in the file"}


def test_f107_nothing_that_matches_is_refused(tmp_path: Path) -> None:
    source = source_of(architecture(), tmp_path)
    with refused(StateError, "pretrained.no-match") as refusal:
        match_network(source, network(architecture(features=(8, 12, 16, 16))))
    assert "plan TASK --for" in refusal.problem.fix
    with refused(StateError, "pretrained.no-match") as refusal:
        match_network(source, network(architecture("PlainConvUNet")))
    assert "a residual encoder in the file, a plain encoder in the plan" in refusal.problem.found


@pytest.mark.parametrize(("there", "here", "fix"), [(2, 3, "--configuration 2d"), (3, 2, "--configuration 3d_fullres")])
def test_f107_weights_of_other_dimensions(there: int, here: int, fix: str, tmp_path: Path) -> None:
    source = source_of(architecture(dimensions=there), tmp_path)
    with refused(StateError, "pretrained.other-dimensions") as refusal:
        match_network(source, network(architecture(dimensions=here)))
    assert fix in refusal.problem.fix


def test_f107_another_network_under_the_same_names(tmp_path: Path) -> None:
    # Without a plan there is nothing to contradict: the shapes tell.
    weights = {name: value.flatten() for name, value in network(architecture()).state_dict().items()}
    source = read_source(write_nnssl(tmp_path, weights, None))
    with refused(StateError, "pretrained.other-dimensions"):
        match_network(source, network(architecture()))


def test_a_record_says_every_stage(tmp_path: Path) -> None:
    of = architecture()
    record = match_network(source_of(of, tmp_path), network(of, 3)).as_record()
    assert record["matched_fraction_of_encoder"] == 1
    assert [stage["name"] for stage in record["stages"]] == [
        "encoder stem", *(f"encoder stage {number + 1}" for number in range(len(FEATURES))),
        *(f"decoder stage {number + 1}" for number in range(len(FEATURES) - 1)),
    ]  # fmt: skip
    assert record["tensors"] == sum(stage["tensors"] for stage in record["stages"])
