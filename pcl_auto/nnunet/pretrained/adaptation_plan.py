"""Read nnssl's adaptation plan: what network a pretrained checkpoint has, and what its tensors are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcl_auto.errors import Problem, StateError
from pcl_auto.nnunet.pretrained.architecture import Architecture, full_class_name, resenc_l
from pcl_auto.nnunet.trusted_plans import MAX_PATCH_AXIS, NETWORKS, SPACING_MM, require_trusted_network

_PRESETS = ("ResEncL",)
_MAX_CITATIONS, _MAX_CITATION = 50, 500


@dataclass(frozen=True)
class Described:
    """Description of a network and its pre-training by the files of a checkpoint; None is what they do not say.

    ``spacing_mm`` and ``patch_voxels`` are in the order of the network's axes, slices first.
    """

    architecture: Architecture | None = None
    channels: int | None = None
    spacing_mm: tuple[float, ...] | None = None
    patch_voxels: tuple[int, ...] | None = None
    normalization: tuple[str, ...] | None = None
    citations: tuple[str, ...] = ()
    # What stands before the numbers of encoder stages, and before the layers of a stem.
    encoder_prefix: str = "encoder.stages"
    stem_prefix: str = "encoder.stem"


def read_adaptation_plan(content: Any, file: Path) -> Described:
    """Read an adaptation plan that :mod:`nnssl` wrote, beside the checkpoint or into it.

    Raises:
        StateError: it is none; or its network is a transformer, or none that is known.
    """
    where = str(file)
    if not isinstance(content, Mapping) or not isinstance(content.get("architecture_plans"), Mapping):
        raise StateError(_unfit(where, "architecture_plans", "a JSON object", content))
    encoder, stem = content.get("key_to_encoder"), content.get("key_to_stem")
    for key, value in (("key_to_encoder", encoder), ("key_to_stem", stem)):
        if not isinstance(value, str):
            raise StateError(_unfit(where, key, "the name that stands before the tensors", value))
    channels = content.get("pretrain_num_input_channels", 1)
    if type(channels) is not int or not 1 <= channels <= 64:
        raise StateError(_unfit(where, "pretrain_num_input_channels", "a whole number from 1 to 64", channels))
    configuration = _configuration(content.get("pretrain_plan"))
    patch = content.get("pretrain_patch_size", content.get("recommended_downstream_patchsize"))
    schemes = configuration.get("normalization_schemes")
    citations = content.get("citations")
    return Described(
        architecture=_architecture(content["architecture_plans"], where),
        channels=channels,
        spacing_mm=_numbers(configuration.get("spacing"), float, SPACING_MM),
        patch_voxels=_numbers(patch, int, (1, MAX_PATCH_AXIS)),
        normalization=tuple(map(str, schemes)) if isinstance(schemes, (list, tuple)) else None,
        citations=_texts(citations),
        encoder_prefix=str(encoder),
        stem_prefix=str(stem),
    )


def _configuration(plan: Any) -> Mapping[str, Any]:
    """Return the one configuration that a pre-training plan has, or an empty one."""
    configurations = plan.get("configurations") if isinstance(plan, Mapping) else None
    entries = list(configurations.values()) if isinstance(configurations, Mapping) else []
    return entries[0] if len(entries) == 1 and isinstance(entries[0], Mapping) else {}


def _architecture(plans: Mapping[str, Any], where: str) -> Architecture:
    name = plans.get("arch_class_name")
    if name in _PRESETS:
        return resenc_l()
    if isinstance(name, str) and any(word in name.lower() for word in ("primus", "eva", "vit", "swin", "unetr")):
        raise StateError(transformer(where, name))
    arguments, imported = plans.get("arch_kwargs"), plans.get("arch_kwargs_requiring_import")
    full = full_class_name(name) if isinstance(name, str) else ""
    if full not in NETWORKS or not isinstance(arguments, Mapping) or not isinstance(imported, (list, tuple)):
        expected = " | ".join([*_PRESETS, *sorted({each.rpartition(".")[2] for each in NETWORKS})])
        raise StateError(_unfit(where, "architecture_plans.arch_class_name", expected, name))
    entry = {"network_class_name": full, "arch_kwargs": dict(arguments), "_kw_requires_import": list(imported)}
    require_trusted_network(entry, where)
    return Architecture(full, dict(arguments), tuple(imported))


def _numbers(values: Any, kind: type, limits: tuple[float, float]) -> Any:
    """Return two or three lengths within ``limits``; None for anything else, which is then not known."""
    if not isinstance(values, (list, tuple)) or len(values) not in (2, 3):
        return None
    low, high = limits
    fits = all(isinstance(value, (int, float)) and type(value) is not bool and low <= value <= high for value in values)
    return tuple(kind(value) for value in values) if fits else None


def _texts(values: Any) -> tuple[str, ...]:
    if isinstance(values, str):
        values = [values]
    given = values if isinstance(values, (list, tuple)) else ()
    return tuple(_text(value)[:_MAX_CITATION] for value in given[:_MAX_CITATIONS])


def _text(value: Any) -> str:
    """Return a citation as one text; some are tables of a name and its BibTeX entries."""
    if isinstance(value, Mapping):
        return ": ".join(" ".join(map(str, each)) if isinstance(each, list) else str(each) for each in value.values())
    return str(value)


def transformer(where: str, found: str) -> Problem:
    """Say that weights are of a transformer, and what they would need."""
    return Problem(
        code="pretrained.transformer",
        what="weights of a transformer, and the plan has a convolutional network",
        where=where,
        expected="a U-Net: ResidualEncoderUNet (ResEnc-L) or PlainConvUNet",
        found=found,
        fix="take the ResEnc-L weights of the same collection; a Primus would need a plan with a Primus network and "
        "its trainer, which pclauto does not have",
    )


def _unfit(where: str, key: str, expected: str, found: Any) -> Problem:
    return Problem(
        code="pretrained.no-adaptation-plan",
        what=f"no adaptation plan of nnssl: {key}",
        where=where,
        expected=expected,
        found="nothing" if found is None else str(found)[:120],
        fix="restore the file from the source of the checkpoint",
    )
