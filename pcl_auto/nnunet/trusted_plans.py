"""Refuse what plans and a dataset.json must not say, before nnU-Net acts on them.

nnU-Net looks classes up by the names that a plans file gives, which imports them, and allocates what it measures. A
model folder may come from anywhere: its JSON is checked here first, against the names that nnU-Net 2.8 itself writes
and the sizes that a network can have. Nothing is imported for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from itertools import product
from typing import Any

from pcl_auto.errors import Problem, StateError

# Readers that leave the axes of a scan as they are stored, those that turn them to RAS, and those of pictures.
READERS_AS_STORED = frozenset({"SimpleITKIO", "NibabelIO"})
READERS_TO_RAS = frozenset({"NibabelIOWithReorient", "SimpleITKIOWithReorient"})
READERS = READERS_AS_STORED | READERS_TO_RAS | {"Tiff3DIO", "NaturalImage2DIO"}
# The second is ours (pcl_auto.nnunet.data.bias_field).
PREPROCESSORS = frozenset({"DefaultPreprocessor", "BiasCorrectingPreprocessor"})
NORMALIZATIONS = frozenset(
    {"ZScoreNormalization", "CTNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization"}
)
RESAMPLINGS = frozenset(
    {"resample_data_or_seg_to_shape", "resample_torch_simple", "resample_torch_fornnunet", "no_resampling_hack"}
)
RESAMPLING_OPTIONS = frozenset(
    {
        "is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold", "num_threads", "device",
        "memefficient_seg_resampling", "mode", "aniso_axis_mode",
    }
)  # fmt: skip
_ARCHITECTURES = "dynamic_network_architectures.architectures"
NETWORKS = frozenset(
    {
        *(f"{_ARCHITECTURES}.unet.{name}" for name in ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")),
        # As earlier versions of nnU-Net wrote it; nnU-Net knows where the class is now.
        f"{_ARCHITECTURES}.residual_unet.ResidualEncoderUNet",
    }
)
# Of plans from before nnU-Net 2.3, which it still reads.
OLD_NETWORKS = frozenset({"PlainConvUNet", "ResidualEncoderUNet"})


def _layers(module: str, names: str, dimensions: str = "") -> frozenset[str]:
    kinds = [f"{name}{dimension}d" if dimension else name for name, dimension in product(names.split(), dimensions)]
    return frozenset(
        f"torch.nn.{where}{kind}" for where in ("", f"modules.{module}.") for kind in kinds or names.split()
    )


# What a network is built of: the arguments that nnU-Net imports by name.
LAYERS: Mapping[str, frozenset[str]] = {
    "conv_op": _layers("conv", "Conv", "123"),
    "norm_op": _layers("instancenorm", "InstanceNorm", "123") | _layers("batchnorm", "BatchNorm", "123"),
    "dropout_op": _layers("dropout", "Dropout", "123") | _layers("dropout", "Dropout"),
    "nonlin": _layers("activation", "LeakyReLU ReLU ReLU6 PReLU ELU CELU SELU GELU SiLU Mish Hardswish Tanh"),
    "block": frozenset(
        f"dynamic_network_architectures.building_blocks.residual.{name}" for name in ("BasicBlockD", "BottleneckD")
    ),
}
LAYER_OPTIONS = frozenset(
    {"eps", "affine", "momentum", "track_running_stats", "p", "inplace", "negative_slope", "alpha", "approximate"}
)

MAX_STAGES, MAX_CONVOLUTIONS, MAX_FEATURES, MAX_KERNEL = 12, 64, 8192, 31
# Some ten times nnU-Net's largest network.
MAX_WEIGHTS = 2_000_000_000
MAX_PATCH_AXIS, MAX_PATCH_VOXELS, MAX_PATCHES = 16384, 2**28, 4096
MAX_CHANNELS, MAX_CLASSES, LARGEST_LABEL = 256, 1024, 32767
SPACING_MM = (1e-6, 1e6)
_FILE_NAME = re.compile(r"(?!\.)[\w .+-]{1,200}")

# The whole numbers of a network: one for all stages, or one per stage, or one per stage and axis (the second group).
_PER_STAGE = {
    "features_per_stage": MAX_FEATURES,
    "n_conv_per_stage": MAX_CONVOLUTIONS,
    "n_blocks_per_stage": MAX_CONVOLUTIONS,
    "n_conv_per_stage_decoder": MAX_CONVOLUTIONS,
    "bottleneck_channels": MAX_FEATURES,
    "stem_channels": MAX_FEATURES,
}
_PER_AXIS = {"kernel_sizes": MAX_KERNEL, "strides": MAX_KERNEL}
_NEEDED = ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder", "conv_op")
_MAY_BE_NONE = ("bottleneck_channels", "stem_channels")
_SWITCHES = ("conv_bias", "deep_supervision", "nonlin_first")
_OPTIONS = ("norm_op_kwargs", "dropout_op_kwargs", "nonlin_kwargs")


def require_trusted(plans: Any, dataset_json: Any, owner: object) -> None:
    """Refuse plans or a dataset.json that name what is not nnU-Net's own, or are of no possible size.

    Args:
        plans: nnU-Net's plans.
        dataset_json: nnU-Net's description of the data set.
        owner: the model folder or the data set that they belong to, for the message.

    Raises:
        StateError: everything in them that is not accepted.
    """
    problems: list[Problem] = []
    for check, content, where in (
        (_plans, plans, f"the plans of {owner}"),
        (_dataset, dataset_json, f"dataset.json of {owner}"),
    ):
        findings = _Findings(where, problems)
        table = findings.table("", content)
        if table is not None:
            check(findings, table)
    if problems:
        raise StateError(problems)


class _Findings:
    """Collect what is not accepted; every check tells whether its value is."""

    def __init__(self, where: str, problems: list[Problem]) -> None:
        self.where = where
        self.problems = problems

    def refuse(self, key: str, expected: str, found: Any) -> bool:
        text = "nothing" if found is None else repr(found)
        problem = Problem(
            code="model.untrusted",
            what="what nnU-Net does not write",
            where=f"{self.where}: {key}" if key else self.where,
            expected=expected,
            found=text if len(text) <= 120 else text[:120] + " …",
            fix="take the file as nnU-Net wrote it; a model with classes of its own is for nnUNetv2_predict, if you "
            "trust whoever made it",
        )
        self.problems.append(problem)
        return False

    def table(self, key: str, value: Any) -> Mapping[str, Any] | None:
        if isinstance(value, Mapping):
            return value
        self.refuse(key, "a JSON object", value)
        return None

    def is_one_of(self, key: str, value: Any, allowed: Collection[str]) -> bool:
        fits = isinstance(value, str) and value in allowed
        return fits or self.refuse(key, " | ".join(sorted(allowed)), value)

    def is_file_name(self, key: str, value: Any) -> bool:
        fits = isinstance(value, str) and _FILE_NAME.fullmatch(value) is not None
        return fits or self.refuse(key, "a plain name", value)

    def is_whole(self, key: str, value: Any, low: int, high: int) -> bool:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return fits or self.refuse(key, f"a whole number from {low} to {high}", value)

    def are_whole(self, key: str, value: Any, low: int, high: int, lengths: Collection[int]) -> bool:
        """Require a list of whole numbers, of one of the ``lengths``."""
        if not isinstance(value, (list, tuple)) or len(value) not in lengths:
            return self.refuse(key, f"a list of {' or '.join(map(str, lengths))} whole numbers", value)
        fits = [self.is_whole(f"{key}[{index}]", entry, low, high) for index, entry in enumerate(value)]
        return all(fits)

    def is_switch(self, key: str, value: Any) -> bool:
        return isinstance(value, bool) or self.refuse(key, "true or false", value)

    def are_options(self, key: str, value: Any, allowed: Collection[str]) -> None:
        """Check named plain values."""
        for name, entry in (self.table(key, value) or {}).items():
            if self.is_one_of(key, name, allowed) and not isinstance(entry, (bool, int, float, str, type(None))):
                self.refuse(f"{key}.{name}", "a plain value", entry)


def _plans(findings: _Findings, plans: Mapping[str, Any]) -> None:
    for key in ("dataset_name", "plans_name"):
        findings.is_file_name(key, plans.get(key))
    findings.is_one_of("image_reader_writer", plans.get("image_reader_writer"), READERS)
    findings.is_one_of("label_manager", plans.get("label_manager", "LabelManager"), {"LabelManager"})
    for key in ("transpose_forward", "transpose_backward"):
        if not isinstance(plans.get(key), (list, tuple)) or sorted(map(str, plans[key])) not in (
            ["0", "1"],
            ["0", "1", "2"],
        ):
            findings.refuse(key, "an order of the axes 0, 1 and 2", plans.get(key))
    configurations = findings.table("configurations", plans.get("configurations")) or {}
    for name, entry in configurations.items():
        key = f"configurations.{name}"
        if findings.is_file_name("configurations", name) and findings.table(key, entry) is not None:
            resolved = _with_inherited(findings, configurations, name)
            if resolved is not None:
                _configuration(findings, key, resolved, configurations)


def _with_inherited(findings: _Findings, configurations: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Resolve what a configuration inherits, as nnU-Net does; return None where the chain leads nowhere."""
    chain: list[str] = []
    resolved: dict[str, Any] = {}
    following: Any = name
    while following is not None:
        entry = configurations.get(following) if isinstance(following, str) else None
        if following in chain or not isinstance(entry, Mapping):
            findings.refuse(f"configurations.{name}.inherits_from", "another configuration of these plans", following)
            return None
        chain.append(following)
        resolved = {**entry, **resolved}
        following = entry.get("inherits_from")
    return resolved


def _configuration(findings: _Findings, key: str, entry: Mapping[str, Any], configurations: Mapping[str, Any]) -> None:
    findings.is_one_of(f"{key}.preprocessor_name", entry.get("preprocessor_name"), PREPROCESSORS)
    _normalization(findings, key, entry)
    for purpose in ("data", "seg", "probabilities"):
        name = f"resampling_fn_{purpose}"
        findings.is_one_of(f"{key}.{name}", entry.get(name), RESAMPLINGS)
        findings.are_options(f"{key}.{name}_kwargs", entry.get(f"{name}_kwargs"), RESAMPLING_OPTIONS)
    findings.is_whole(f"{key}.batch_size", entry.get("batch_size"), 1, MAX_PATCHES)
    patch, spacing = entry.get("patch_size"), entry.get("spacing")
    if (
        findings.are_whole(f"{key}.patch_size", patch, 1, MAX_PATCH_AXIS, (2, 3))
        and math.prod(patch or ()) > MAX_PATCH_VOXELS
    ):
        findings.refuse(f"{key}.patch_size", f"at most {MAX_PATCH_VOXELS} voxels", patch)
    low, high = SPACING_MM
    if not isinstance(spacing, (list, tuple)) or not all(
        isinstance(step, (int, float)) and low <= step <= high for step in spacing
    ):
        findings.refuse(f"{key}.spacing", f"numbers from {low:g} to {high:g}", spacing)
    identifier = entry.get("data_identifier", "none")
    if not isinstance(identifier, str) or not all(_FILE_NAME.fullmatch(part) for part in identifier.split("/")):
        findings.refuse(f"{key}.data_identifier", "a folder in that of the data set", identifier)
    for stage in ("previous_stage", "next_stage"):
        named = entry.get(stage)
        for other in named if isinstance(named, list) else [named] if named is not None else []:
            findings.is_one_of(f"{key}.{stage}", other, configurations)
    if "architecture" in entry or "UNet_class_name" not in entry:
        _architecture(findings, f"{key}.architecture", entry.get("architecture"))
    else:
        _old_architecture(findings, key, entry)


def _normalization(findings: _Findings, key: str, entry: Mapping[str, Any]) -> None:
    schemes, masked = (entry.get(name) for name in ("normalization_schemes", "use_mask_for_norm"))
    if not isinstance(schemes, (list, tuple)) or not isinstance(masked, (list, tuple)) or len(schemes) != len(masked):
        findings.refuse(f"{key}.normalization_schemes", "one scheme, and one use_mask_for_norm, per channel", schemes)
        return
    for index, (scheme, mask) in enumerate(zip(schemes, masked, strict=True)):
        findings.is_one_of(f"{key}.normalization_schemes[{index}]", scheme, NORMALIZATIONS)
        findings.is_switch(f"{key}.use_mask_for_norm[{index}]", mask)


def _architecture(findings: _Findings, key: str, value: Any) -> None:
    entry = findings.table(key, value)
    if entry is None:
        return
    findings.is_one_of(f"{key}.network_class_name", entry.get("network_class_name"), NETWORKS)
    imported = entry.get("_kw_requires_import")
    if not isinstance(imported, (list, tuple)):
        findings.refuse(f"{key}._kw_requires_import", "a list", imported)
        imported = []
    for name in imported:
        findings.is_one_of(f"{key}._kw_requires_import", name, LAYERS)
    key = f"{key}.arch_kwargs"
    given = findings.table(key, entry.get("arch_kwargs"))
    if given is None:
        return
    stages: Any = given.get("n_stages")
    if not findings.is_whole(f"{key}.n_stages", stages, 1, MAX_STAGES):
        return
    before = len(findings.problems)
    for name in {**dict.fromkeys(_NEEDED), **given}:
        _argument(findings, f"{key}.{name}", name, given.get(name), stages, imported)
    if len(findings.problems) == before and _weights(given, stages) > MAX_WEIGHTS:
        findings.refuse(key, f"at most {MAX_WEIGHTS:.0e} weights", f"{_weights(given, stages):.0e}")


def _argument(findings: _Findings, key: str, name: str, value: Any, stages: int, imported: Collection[str]) -> None:
    """Refuse an argument of a network that nnU-Net does not write."""
    if name in LAYERS:
        needed = name in _NEEDED or value is not None
        if needed and findings.is_one_of(key, value, LAYERS[name]) and name not in imported:
            findings.refuse(key, "mentioned in _kw_requires_import", value)
    elif name in _PER_STAGE or name in _PER_AXIS:
        length = stages - 1 if name.endswith("_decoder") else stages
        entries = _by_stage(value, length)
        if entries is None:
            findings.refuse(key, f"{length} entries, one per stage", value)
        elif value is not None or name not in _MAY_BE_NONE:
            for index, entry in enumerate(entries):
                if name in _PER_AXIS and isinstance(entry, (list, tuple)):
                    findings.are_whole(f"{key}[{index}]", entry, 1, _PER_AXIS[name], (1, 2, 3))
                else:
                    findings.is_whole(f"{key}[{index}]", entry, 1, {**_PER_STAGE, **_PER_AXIS}[name])
    elif name in _OPTIONS:
        if value is not None:
            findings.are_options(key, value, LAYER_OPTIONS)
    elif name in _SWITCHES:
        findings.is_switch(key, value)
    elif name != "n_stages":
        findings.refuse(key, "no such argument", value)


def _by_stage(value: Any, stages: int) -> list[Any] | None:
    """Return one entry per stage, a single value being that of every stage; None if there are too many or too few."""
    if isinstance(value, (list, tuple)):
        return list(value) if len(value) == stages else None
    return [value] * stages


def _weights(given: Mapping[str, Any], stages: int) -> int:
    """Estimate how many weights a network has: those of its encoder, twice."""
    names = ("features_per_stage", "kernel_sizes", "n_conv_per_stage", "n_blocks_per_stage")
    total: int = sum(
        # A block is two convolutions.
        max(convolutions, 2 * blocks) * width**2 * (kernel**3 if isinstance(kernel, int) else math.prod(kernel))
        for width, kernel, convolutions, blocks in zip(
            *(_by_stage(given.get(name, 0), stages) or [] for name in names), strict=True
        )
    )
    return 2 * total


def _old_architecture(findings: _Findings, key: str, entry: Mapping[str, Any]) -> None:
    """Check the network of plans from before nnU-Net 2.3."""
    findings.is_one_of(f"{key}.UNet_class_name", entry["UNet_class_name"], OLD_NETWORKS)
    stages = range(1, MAX_STAGES + 1)
    for name in ("n_conv_per_stage_encoder", "n_conv_per_stage_decoder"):
        findings.are_whole(f"{key}.{name}", entry.get(name), 1, MAX_CONVOLUTIONS, stages)
    for name in ("UNet_base_num_features", "unet_max_num_features"):
        # Widths double from stage to stage up to the second number: nnU-Net's are 32 and at most 512.
        findings.is_whole(f"{key}.{name}", entry.get(name), 1, 1024)
    for name in ("pool_op_kernel_sizes", "conv_kernel_sizes"):
        sizes = entry.get(name)
        if not isinstance(sizes, (list, tuple)) or len(sizes) not in stages:
            findings.refuse(f"{key}.{name}", f"at most {MAX_STAGES} lists", sizes)
            continue
        for index, size in enumerate(sizes):
            findings.are_whole(f"{key}.{name}[{index}]", size, 1, MAX_KERNEL, (2, 3))


def _dataset(findings: _Findings, content: Mapping[str, Any]) -> None:
    findings.is_one_of(
        "overwrite_image_reader_writer", content.get("overwrite_image_reader_writer", "None"), READERS | {"None"}
    )
    channels = findings.table("channel_names", content.get("channel_names", content.get("modality")))
    if channels is not None and not 1 <= len(channels) <= MAX_CHANNELS:
        findings.refuse("channel_names", f"1 to {MAX_CHANNELS} channels", len(channels))
    labels = findings.table("labels", content.get("labels"))
    if labels is None:
        return
    if len(labels) > MAX_CLASSES or labels.get("background") != 0:
        findings.refuse("labels", f"background 0 and at most {MAX_CLASSES} others", labels)
        return
    for name, value in labels.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        findings.are_whole(f"labels.{name}", values, 0, LARGEST_LABEL, range(1, MAX_CLASSES))
    order = content.get("regions_class_order")
    if order is not None:
        findings.are_whole("regions_class_order", order, 0, LARGEST_LABEL, range(1, MAX_CLASSES))
