"""Read a pretrained checkpoint of nnssl (OpenMind), of nnU-Net or of pclauto, whole and without running code from it.

The formats are those that were published; nothing is taken from a file whose tensors contradict what it says of itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from pcl_auto.errors import Problem, StateError, format_names
from pcl_auto.nnunet.checkpoint_files import OWN_KEY, UNTRAINED, read_checkpoint
from pcl_auto.nnunet.checkpoint_settings import other_configuration
from pcl_auto.nnunet.pretrained.adaptation_plan import Described, read_adaptation_plan, transformer
from pcl_auto.nnunet.pretrained.architecture import Stage, from_plans, named_tensors, resenc_l, stage_of
from pcl_auto.nnunet.pretrained.find import ADAPTATION_PLAN
from pcl_auto.nnunet.trusted_plans import require_trusted
from pcl_auto.workspace.files import file_digest, read_json, read_kept

_PLAN_KEY = "nnssl_adaptation_plan"
# Where nnssl's methods keep the encoder that a training goes on with; others of the same file are teachers.
_ENCODERS = ("encoder", "online_encoder.encoder", "online_encoder")
_COUNT = ".num_batches_tracked"
_WRAPPERS = ("module.", "_orig_mod.")
_ATTENTION = re.compile(r"(^|\.)(attn|qkv|q_proj|pos_embed|eva|vit)(\.|$)", re.ASCII)
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)
_LICENSE = re.compile(r"^license:[ \t]*(.*)\n?((?:[ \t]*-[ \t]+.*\n?)*)", re.MULTILINE)
_MAX_LICENSE = 200
UNSTATED = "not stated in its files"


@dataclass(frozen=True)
class PretrainedSource:
    """Weights that a training can begin with, under the names of nnU-Net's U-Nets, and what their files say of them.

    ``weights``: of encoder and decoder, no segmentation layer. ``address``: what the user gave, with the revision if
    it is a hub's. ``digest``: SHA-256 of the file.
    """

    file: Path
    address: str
    digest: str
    format: Literal["nnssl", "nnU-Net"]
    weights: Mapping[str, Tensor]
    described: Described
    license: str

    @property
    def encoder_stages(self) -> int:
        """Number of stages that the encoder in the file has."""
        return 1 + max(
            (stage.number for name in self.weights if (stage := stage_of(name)) and stage.part == "encoder"),
            default=-1,
        )

    @property
    def dimensions(self) -> int:
        """Number of axes that its convolutions have: 2 or 3."""
        return max((weight.ndim - 2 for weight in self.weights.values()), default=0)

    def as_record(self) -> dict[str, Any]:
        """Return where the weights come from as plain values."""
        said = self.described
        return {
            "source": self.address,
            "file": str(self.file),
            "digest": self.digest,
            "format": self.format,
            "license": self.license,
            "citations": list(said.citations),
            "channels": said.channels,
            "spacing_mm": None if said.spacing_mm is None else list(said.spacing_mm),
            "patch_voxels": None if said.patch_voxels is None else list(said.patch_voxels),
            "normalization": None if said.normalization is None else list(said.normalization),
        }


def read_source(file: Path, address: str = "") -> PretrainedSource:
    """Read a pretrained checkpoint.

    Args:
        file: as :func:`pcl_auto.nnunet.pretrained.find.find_source` finds it.
        address: what to call it in records; the path itself by default.

    Raises:
        StateError: no checkpoint, damaged, or one that would run code; a transformer; weights that are no numbers; or
            tensors that are not those of the network that the files describe. Every problem that can be seen at once.
    """
    digest = file_digest(file) if file.is_file() else ""
    content = read_checkpoint(file)
    if file_digest(file) != digest:
        what, fix = "the checkpoint was replaced while it was read", "repeat the command"
        raise StateError(Problem("pretrained.changed", what, str(file), fix))
    stated = _without_wrappers(content["network_weights"], file)
    described, kind = _described(content, stated, file)
    weights = _without_untrained(_of_unet(stated, described), content)
    if not any(name.startswith("encoder.") for name in weights):
        raise StateError(_no_unet(stated, file))
    if problems := _contradictions(weights, described, kind, file):
        raise StateError(problems)
    weights = _as_numbers(weights, file)
    return PretrainedSource(file, address or str(file), digest, kind, weights, described, _license(file))


def _without_wrappers(weights: Any, file: Path) -> dict[str, Tensor]:
    """Return the state dict without what distributed or compiled training put before its names."""
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise StateError(
            Problem(
                code="checkpoint.not-nnunet",
                what="network_weights are no tensors by name",
                where=str(file),
                expected="a flat state dict",
                fix="name another file",
            )
        )
    plain = {}
    for name, value in weights.items():
        shortened = str(name)
        while (wrapper := next((word for word in _WRAPPERS if shortened.startswith(word)), None)) is not None:
            shortened = shortened[len(wrapper) :]
        plain[shortened] = value
    return plain


def _as_numbers(weights: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Return weights in float32, as networks have them; counts of batches stay whole.

    Raises:
        StateError: tensors of another kind (sparse, quantized, complex, whole, without values), or values that are no
            numbers in float32; everything at once.
    """
    odd = [name for name, value in weights.items() if not _is_weight(name, value)]
    if odd:
        kind = f"{weights[odd[0]].dtype}, {weights[odd[0]].layout}, on {weights[odd[0]].device}".replace("torch.", "")
        raise StateError(
            Problem(
                code="pretrained.no-weights",
                what="tensors that are no weights of a network",
                where=str(file),
                expected="dense real numbers",
                found=f"{format_names(odd, 3)} ({kind})",
                fix="restore the checkpoint from its source, or convert it to float32",
            )
        )
    made = {name: value if name.endswith(_COUNT) else value.float() for name, value in weights.items()}
    broken = [name for name, value in made.items() if not bool(torch.isfinite(value).all())]
    if broken:
        what, fix = "weights that are no numbers", "restore the checkpoint from its source"
        raise StateError(
            Problem("checkpoint.not-finite", what, str(file), fix, "finite weights", format_names(broken, 3))
        )
    return made


def _is_weight(name: str, value: Tensor) -> bool:
    is_dense = value.layout == torch.strided and value.device.type != "meta" and not value.is_quantized
    return is_dense and (value.is_floating_point() or (name.endswith(_COUNT) and not value.is_complex()))


def _described(
    content: Mapping[str, Any], weights: Mapping[str, Tensor], file: Path
) -> tuple[Described, Literal["nnssl", "nnU-Net"]]:
    """Return what the checkpoint, or the files beside it, say of its network, and whose format that is."""
    beside = file.with_name(ADAPTATION_PLAN)
    if _PLAN_KEY in content:
        return read_adaptation_plan(content[_PLAN_KEY], file), "nnssl"
    if beside.is_file():
        return read_adaptation_plan(read_json(beside), beside), "nnssl"
    arguments = content.get("init_args")
    if isinstance(arguments, Mapping):
        return _of_nnunet(arguments, content, file), "nnU-Net"
    prefix = next((name for name in _ENCODERS if any(each.startswith(f"{name}.stages.") for each in weights)), None)
    if prefix is None:
        raise StateError(_no_unet(weights, file))
    guess = Described(encoder_prefix=f"{prefix}.stages", stem_prefix=f"{prefix}.stem")
    # Without its adaptation plan: the one network that nnssl publishes by name, if that is what the tensors are.
    known = Described(
        architecture=resenc_l(), channels=1, encoder_prefix=guess.encoder_prefix, stem_prefix=guess.stem_prefix
    )
    return (guess if _contradictions(_of_unet(weights, known), known, "nnssl", file) else known), "nnssl"


def _of_nnunet(arguments: Mapping[str, Any], content: Mapping[str, Any], file: Path) -> Described:
    """Return what an nnU-Net checkpoint says of its network, and of the data that it was trained on."""
    folder = file.parent.parent
    plans = arguments.get("plans") or read_json(folder / "plans.json")
    dataset_json = arguments.get("dataset_json") or read_json(folder / "dataset.json")
    require_trusted(plans, dataset_json, file)
    manager, name = PlansManager(dict(plans)), arguments.get("configuration")
    if name not in manager.available_configurations:
        raise StateError(other_configuration(file, manager, name))
    configuration = manager.get_configuration(name)
    network = from_plans(
        {
            "network_class_name": configuration.network_arch_class_name,
            "arch_kwargs": configuration.network_arch_init_kwargs,
            "_kw_requires_import": configuration.network_arch_init_kwargs_req_import,
        }
    )
    channels = len(dataset_json.get("channel_names", dataset_json.get("modality", ())))
    said = [dataset_json.get("reference"), content.get("citations")]
    return Described(
        architecture=network,
        channels=channels,
        spacing_mm=tuple(float(step) for step in configuration.spacing),
        patch_voxels=tuple(int(size) for size in configuration.patch_size),
        normalization=tuple(configuration.normalization_schemes),
        citations=tuple(text for text in said if isinstance(text, str) and text),
    )


def _of_unet(weights: Mapping[str, Tensor], described: Described) -> dict[str, Tensor]:
    """Return the tensors of encoder and decoder under nnU-Net's names; all others have another role.

    The decoder is that beside the encoder: that of a teacher stands under other names.
    """
    encoder, stem = described.encoder_prefix, described.stem_prefix
    root = encoder.removesuffix("encoder.stages")
    found = {}
    for name, value in weights.items():
        if name.startswith(f"{encoder}."):
            found[f"encoder.stages{name[len(encoder) :]}"] = value
        elif name.startswith(f"{stem}."):
            found[f"encoder.stem{name[len(stem) :]}"] = value
        elif name.startswith((f"{root}decoder.stages.", f"{root}decoder.transpconvs.")):
            found[name[len(root) :]] = value
    return found


def _without_untrained(weights: dict[str, Tensor], content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors without stages of the decoder that a pre-training of ours says it left as they were drawn."""
    own = content.get(OWN_KEY)
    untrained = own.get(UNTRAINED) if isinstance(own, Mapping) else None
    numbers = untrained if isinstance(untrained, list) else []
    left = {Stage("decoder", number) for number in numbers if isinstance(number, int)}
    return {name: value for name, value in weights.items() if stage_of(name) not in left}


def _no_unet(weights: Mapping[str, Tensor], file: Path) -> Problem:
    """Say of what kind weights without a convolutional encoder are."""
    if any(_ATTENTION.search(name) for name in weights):
        return transformer(str(file), "attention layers")
    return Problem(
        code="pretrained.no-encoder",
        what="no encoder of a U-Net in the checkpoint",
        where=str(file),
        expected="tensors encoder.stages.… (nnU-Net), or an adaptation plan that says what they are called",
        found=format_names(weights, 3) or "no tensors",
        fix="name a checkpoint of nnU-Net, or of nnssl with its adaptation_plan.json beside it",
    )


def _contradictions(weights: Mapping[str, Tensor], described: Described, kind: str, file: Path) -> list[Problem]:
    """List where tensors are not those of the network that the files describe.

    Of nnssl's files the encoder alone is described: whatever rebuilds images in the pre-training is no part of it.
    """
    if described.architecture is None:
        return []
    parts = ("encoder",) if kind == "nnssl" else ("encoder", "decoder")
    expected = [
        entry
        for entry in named_tensors(described.architecture.build(described.channels or 1))
        if (stage := stage_of(entry.name)) is not None and stage.part in parts
    ]
    known = {name for entry in expected for name in entry.names}
    differing = [
        (f"{entry.name} {tuple(entry.tensor.shape)}", f"{tuple(found.shape)}" if found is not None else "nothing")
        for entry in expected
        for found in [next((weights[name] for name in entry.names if name in weights), None)]
        if found is None or found.shape != entry.tensor.shape
    ]
    extra = [name for name in weights if name.partition(".")[0] in parts and name not in known]
    differing += [("no further tensor", name) for name in extra]
    if not differing:
        return []
    return [
        Problem(
            code="pretrained.contradiction",
            what="the tensors are not those of the network that the checkpoint describes",
            where=str(file),
            expected=differing[0][0],
            found=f"{differing[0][1]}, and {len(differing) - 1} more that differ",
            fix="restore the checkpoint and the files beside it from one source",
        )
    ]


def _license(file: Path) -> str:
    """Return the license that the files of a model state: in a model card, config.json, dataset.json or LICENSE."""
    # What lies beside the folder of a fold describes its model; beside any other folder lies something else.
    of_model = [file.parent.parent] if file.parent.name.startswith("fold_") else []
    for folder in [file.parent, *of_model]:
        stated: list[Any] = [_license_of_card(folder / "README.md")]
        for name in ("config.json", "dataset.json"):
            values = read_kept(folder / name)
            stated += [values.get(key) for key in ("license", "licence")] if isinstance(values, Mapping) else []
        for name in ("LICENSE", "LICENSE.txt"):
            lines = _text(folder / name).split("\n") if (folder / name).is_file() else []
            stated.append(next((line.strip() for line in lines if line.strip()), ""))
        for text in stated:
            if isinstance(text, str) and text:
                return text[:_MAX_LICENSE]
    return UNSTATED


def _license_of_card(card: Path) -> str:
    """Return the license in the head of a model card, given as one word or as a list; empty without one."""
    head = _FRONT_MATTER.match(_text(card)) if card.is_file() else None
    found = _LICENSE.search(head.group(1)) if head else None
    if found is None:
        return ""
    words = [found.group(1), *re.findall(r"^[ \t]*-[ \t]+(.+)$", found.group(2), re.MULTILINE)]
    return ", ".join(word for word in (each.strip().strip("\"'[]") for each in words) if word)


def _text(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as opened:
        return opened.read(100_000)
