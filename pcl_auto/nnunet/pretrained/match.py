"""Match pretrained weights with the network of a plan, stage by stage, and take those that fit.

A stage is taken whole or not at all: half of a block's weights would meet random ones that they never worked with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pcl_auto.errors import Problem, StateError
from pcl_auto.nnunet.network import unwrapped
from pcl_auto.nnunet.pretrained.architecture import NamedTensor, Stage, named_tensors, stage_of
from pcl_auto.nnunet.pretrained.source import PretrainedSource

_CHANNEL_AXIS = 1


@dataclass(frozen=True)
class StageMatch:
    """A stage of the network, and whether its weights come from the file; ``reason`` is empty for those that do."""

    name: str
    tensors: int
    parameters: int
    taken: bool
    reason: str


@dataclass(frozen=True)
class Match:
    """Stages of a network that come from a pretrained checkpoint.

    ``names``: of the tensors in the file, by the first name in the network. ``adapted``: the first convolution, if its
    channels had to be adapted, in words.
    """

    stages: tuple[StageMatch, ...]
    names: Mapping[str, str]
    adapted: str

    def fraction_of(self, part: str) -> float:
        """Return the share of the parameters of ``encoder`` or ``decoder`` that is taken."""
        stages = [stage for stage in self.stages if stage.name.startswith(part)]
        total = sum(stage.parameters for stage in stages)
        return sum(stage.parameters for stage in stages if stage.taken) / total if total else 0.0

    def as_record(self) -> dict[str, Any]:
        """Return the match as plain values."""
        return {
            "matched_fraction_of_encoder": round(self.fraction_of("encoder"), 6),
            "matched_fraction_of_decoder": round(self.fraction_of("decoder"), 6),
            "tensors": sum(stage.tensors for stage in self.stages if stage.taken),
            "parameters": sum(stage.parameters for stage in self.stages if stage.taken),
            "adapted": self.adapted,
            "stages": [asdict(stage) for stage in self.stages],
        }


def match_network(source: PretrainedSource, network: nn.Module, *, decoder: bool = True) -> Match:
    """Match the weights of ``source`` with ``network``, whatever is wrapped around it.

    Patch size, strides and spacing may differ, for they are no weights; and the number of channels, to which the first
    convolution is adapted. A stage is taken only if those that it gets its features from are taken too: of the encoder
    all before it; of the decoder the whole encoder, which has to be as deep, and all deeper stages.

    Args:
        source: the weights.
        network: an nnU-Net; of the ``meta`` device too.
        decoder: whether stages of the decoder are taken.

    Raises:
        StateError: no stage of the encoder matches, or the weights are of 2D where the network is of 3D or vice versa.
    """
    entries: dict[Stage, list[NamedTensor]] = defaultdict(list)
    for entry in named_tensors(unwrapped(network)):
        stage = stage_of(entry.name)
        if stage is not None:
            entries[stage].append(entry)
    dimensions = max(entry.tensor.ndim - 2 for stage in entries.values() for entry in stage)
    if dimensions != source.dimensions:
        raise StateError(_other_dimensions(source, dimensions))
    depth = 1 + max(stage.number for stage in entries if stage.part == "encoder")
    first = _first_convolution(entries)
    names: dict[str, str] = {}
    reasons: dict[Stage, str] = {}
    for stage in sorted(entries, key=lambda each: (each.part == "decoder", each.number)):
        found = {
            entry.name: next((name for name in entry.names if name in source.weights), None) for entry in entries[stage]
        }
        reason = _why_not(entries[stage], found, source, first)
        if not reason and stage.part == "decoder":
            reason = _why_no_decoder(depth, source, wanted=decoder)
        before = next((str(each) for each, why in reasons.items() if why), "")
        reasons[stage] = reason or (f"{before} before it is not taken" if before else "")
        if not reasons[stage]:
            names |= {name: str(other) for name, other in found.items()}
    if not any(stage.part == "encoder" and not stage.is_stem and not reason for stage, reason in reasons.items()):
        raise StateError(_no_match(source, reasons, is_residual=any(stage.is_stem for stage in entries)))
    stages = tuple(
        StageMatch(
            str(stage), len(entries[stage]), sum(entry.tensor.numel() for entry in entries[stage]), not reason, reason
        )
        for stage, reason in reasons.items()
    )
    return Match(stages, names, _adaptation(first, names, source))


def take_weights(source: PretrainedSource, network: nn.Module, match: Match) -> None:
    """Give ``network`` the weights of ``source`` that ``match`` names; all others stay as they are."""
    with torch.no_grad():
        for entry in named_tensors(unwrapped(network)):
            if entry.name in match.names:
                weight = source.weights[match.names[entry.name]]
                if weight.shape != entry.tensor.shape:
                    weight = fit_channels(weight, entry.tensor.shape[_CHANNEL_AXIS])
                entry.tensor.copy_(weight.to(entry.tensor.dtype))


def fit_channels(weight: Tensor, channels: int) -> Tensor:
    """Adapt the weight (F, C, *kernel) of a first convolution to images of so many ``channels``.

    Its sum over the C channels, divided by ``channels``, is repeated: the response to an image whose channels are all
    alike stays what it was. For C = 1 that is what nnssl does: the weight k times, divided by k.
    """
    share = weight.float().sum(_CHANNEL_AXIS, keepdim=True) / channels
    return share.expand(-1, channels, *weight.shape[2:]).contiguous()


def _first_convolution(entries: Mapping[Stage, list[NamedTensor]]) -> NamedTensor:
    """Return the weight of the convolution that sees the image."""
    stage = min(stage for stage in entries if stage.part == "encoder")
    return next(entry for entry in entries[stage] if entry.tensor.ndim > 2)


def _why_not(
    entries: list[NamedTensor], found: Mapping[str, str | None], source: PretrainedSource, first: NamedTensor
) -> str:
    """Say why the weights of a stage are not taken; nothing if they fit."""
    missing = [entry.name for entry in entries if found[entry.name] is None]
    if len(missing) == len(entries):
        return "no trained weights in the file"
    if missing:
        return f"not in the file: {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
    for entry in entries:
        name = str(found[entry.name])
        here, there = tuple(entry.tensor.shape), tuple(source.weights[name].shape)
        if entry is first:  # of any number of channels
            here, there = (*here[:1], *here[2:]), (*there[:1], *there[2:])
        if here != there:
            return f"another shape: {name} {there} in the file, {here} here"
    known = {name for entry in entries for name in entry.names}
    stage = stage_of(entries[0].name)
    more = [name for name in source.weights if stage_of(name) == stage and name not in known]
    # It ends with other features then.
    return f"more layers in the file: {more[0]}" if more else ""


def _why_no_decoder(depth: int, source: PretrainedSource, *, wanted: bool) -> str:
    """Say why no stage of the decoder is taken: its first one works on the deepest features; nothing if it may be."""
    if not wanted:
        return "pretrained.decoder = false"
    if source.encoder_stages != depth:
        return f"the encoder has {source.encoder_stages} stages in the file, {depth} here"
    return ""


def _adaptation(first: NamedTensor, names: Mapping[str, str], source: PretrainedSource) -> str:
    if first.name not in names:
        return ""
    here, there = first.tensor.shape[_CHANNEL_AXIS], source.weights[names[first.name]].shape[_CHANNEL_AXIS]
    return "" if here == there else f"first convolution from {there} to {here} channels"


def _other_dimensions(source: PretrainedSource, dimensions: int) -> Problem:
    wanted = "3d_fullres" if source.dimensions == 3 else "2d"
    return Problem(
        code="pretrained.other-dimensions",
        what="the weights are of a network with other dimensions",
        where=str(source.file),
        expected=f"{dimensions}D convolutions, as in the planned configuration",
        found=f"{source.dimensions}D",
        fix=f"take --configuration {wanted}, or weights of a {dimensions}D network",
    )


def _no_match(source: PretrainedSource, reasons: Mapping[Stage, str], *, is_residual: bool) -> Problem:
    stages = {str(stage): reason for stage, reason in reasons.items() if stage.part == "encoder" and reason}
    kinds = {True: "a residual encoder", False: "a plain encoder"}
    in_file = any(name.startswith("encoder.stem.") for name in source.weights)
    other = f"{kinds[in_file]} in the file, {kinds[is_residual]} in the plan; " if in_file != is_residual else ""
    return Problem(
        code="pretrained.no-match",
        what="no stage of the encoder matches the weights, so that nothing would be pretrained",
        where=str(source.file),
        expected="the network of the plan, in one stage at least",
        found=other + "; ".join(f"{name}: {reason}" for name, reason in list(stages.items())[:3]),
        fix="plan the network of these weights with `pclauto plan TASK --for SOURCE`, and take a recipe that keeps the "
        "planned width (default does)",
    )
