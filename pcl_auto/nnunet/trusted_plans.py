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

from pcl_auto.data.labels import IGNORE, foreground, has_regions, values_of
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
# The functions that plans can name and nnU-Net can call, with their options. resample_torch_simple takes no spacings,
# which nnU-Net gives it; "device" is chosen by --device.
_SPLINE_ORDERS, _MODES = range(6), ("linear", "nearest", "nearest-exact", "area")
_SWITCH, _SWITCH_OR_NONE, _RATIO, _THREADS = (False, True), (None, False, True), (1e-6, 1e6), range(1, 1025)
RESAMPLINGS: Mapping[str, Mapping[str, Any]] = {
    "resample_data_or_seg_to_shape": {
        "is_seg": _SWITCH,
        "order": _SPLINE_ORDERS,
        "order_z": _SPLINE_ORDERS,
        "force_separate_z": _SWITCH_OR_NONE,
        "separate_z_anisotropy_threshold": _RATIO,
    },
    "resample_torch_fornnunet": {
        "is_seg": _SWITCH,
        "num_threads": _THREADS,
        "device": ("cpu",),
        "memefficient_seg_resampling": _SWITCH,
        "force_separate_z": _SWITCH_OR_NONE,
        "separate_z_anisotropy_threshold": _RATIO,
        "mode": _MODES,
        "aniso_axis_mode": _MODES,
    },
    "no_resampling_hack": {},
}
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
_FINITE = (-1e6, 1e6)
LAYER_OPTIONS: Mapping[str, Any] = {
    "eps": (1e-30, 1.0),
    "affine": _SWITCH,
    "momentum": (0.0, 1.0),
    "track_running_stats": _SWITCH,
    "p": (0.0, 1.0),
    "inplace": _SWITCH,
    "negative_slope": _FINITE,
    "alpha": _FINITE,
    "approximate": ("none", "tanh"),
}

MAX_STAGES, MAX_CONVOLUTIONS, MAX_FEATURES, MAX_KERNEL = 12, 64, 8192, 31
# Some ten times nnU-Net's largest network.
MAX_WEIGHTS = 2_000_000_000
MAX_PATCH_AXIS, MAX_PATCH_VOXELS, MAX_PATCHES = 16384, 2**28, 4096
MAX_CHANNELS, MAX_CLASSES, LARGEST_LABEL = 256, 1024, 32767
SPACING_MM = (1e-6, 1e6)
INTENSITIES = ("foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality")
MAX_INTENSITY = 1e30
_OF_CT = ("mean", "std", "percentile_00_5", "percentile_99_5")
# Names of data sets and plans, which become parts of paths.
FILE_NAME = re.compile(r"(?!\.)[\w .+-]{1,200}")

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
# Arguments that one kind of network has and the other has not.
_OF_PLAIN, _OF_RESIDUAL = (
    {"n_conv_per_stage", "nonlin_first"}, {"n_blocks_per_stage", "block", "bottleneck_channels", "stem_channels"},
)  # fmt: skip
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


def require_trusted_network(entry: Mapping[str, Any], owner: object) -> None:
    """Refuse the network of a pretrained checkpoint that is not nnU-Net's own, or of no possible size.

    Args:
        entry: as the ``architecture`` of a configuration of nnU-Net's plans.
        owner: what says so, for the message.

    Raises:
        StateError: everything in it that is not accepted.
    """
    problems: list[Problem] = []
    convolution = str(entry.get("arch_kwargs", {}).get("conv_op", ""))
    axes = 2 if convolution.endswith("2d") else 3
    _architecture(_Findings(str(owner), problems), "architecture", entry, axes)
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
        fits = isinstance(value, str) and FILE_NAME.fullmatch(value) is not None
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

    def are_lengths(self, key: str, value: Any, low: float, high: float, axes: int) -> bool:
        """Require a list of numbers, one for each of the ``axes``."""
        fits = (
            isinstance(value, (list, tuple))
            and len(value) == axes
            and all(isinstance(step, (int, float)) and low <= step <= high for step in value)
        )
        return fits or self.refuse(key, f"{axes} numbers from {low:g} to {high:g}", value)

    def is_option(self, key: str, value: Any, allowed: Any) -> bool:
        """Require one of some values, of the same type, or a number between two."""
        if all(isinstance(each, float) for each in allowed):
            low, high = allowed
            fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
            return fits or self.refuse(key, f"a number from {low:g} to {high:g}", value)
        fits = any(type(value) is type(each) and value == each for each in allowed)
        listed = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else " | ".join(map(str, allowed))
        return fits or self.refuse(key, listed, value)

    def are_options(self, key: str, value: Any, allowed: Mapping[str, Any]) -> None:
        """Check named options of a layer; a momentum of None is torch's word for the mean of all batches."""
        for name, entry in (self.table(key, value) or {}).items():
            if self.is_one_of(key, name, allowed) and (entry is not None or name != "momentum"):
                self.is_option(f"{key}.{name}", entry, allowed[name])


def _plans(findings: _Findings, plans: Mapping[str, Any]) -> None:
    for key in ("dataset_name", "plans_name"):
        findings.is_file_name(key, plans.get(key))
    findings.is_one_of("image_reader_writer", plans.get("image_reader_writer"), READERS)
    findings.is_one_of("label_manager", plans.get("label_manager", "LabelManager"), {"LabelManager"})
    _order_of_axes(findings, plans)
    intensities = _intensities(findings, plans)
    configurations = findings.table("configurations", plans.get("configurations")) or {}
    for name, entry in configurations.items():
        key = f"configurations.{name}"
        if findings.is_file_name("configurations", name) and findings.table(key, entry) is not None:
            resolved = _with_inherited(findings, configurations, name)
            if resolved is not None:
                _configuration(findings, key, resolved, configurations)
                _normalization(findings, key, resolved, intensities)


def _order_of_axes(findings: _Findings, plans: Mapping[str, Any]) -> None:
    forward, backward = (plans.get(key) for key in ("transpose_forward", "transpose_backward"))
    if (
        findings.are_whole("transpose_forward", forward, 0, 2, (3,))
        and findings.are_whole("transpose_backward", backward, 0, 2, (3,))
        and [list(forward)[axis] for axis in backward] != [0, 1, 2]  # type: ignore[arg-type, union-attr]
    ):
        findings.refuse("transpose_backward", f"the way back from transpose_forward {forward}", backward)


def _intensities(findings: _Findings, plans: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the statistics that CT is normalized by, per channel, under the name of today or of nnU-Net 2.0."""
    key = next((key for key in INTENSITIES if key in plans), INTENSITIES[0])
    found = findings.table(key, plans.get(key)) or {}
    return {channel: findings.table(f"{key}.{channel}", values) or {} for channel, values in found.items()}


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
    for purpose in ("data", "seg", "probabilities"):
        _resampling(findings, key, entry, purpose)
    findings.is_whole(f"{key}.batch_size", entry.get("batch_size"), 1, MAX_PATCHES)
    findings.is_switch(f"{key}.batch_dice", entry.get("batch_dice"))
    patch, spacing = entry.get("patch_size"), entry.get("spacing")
    if (
        findings.are_whole(f"{key}.patch_size", patch, 1, MAX_PATCH_AXIS, (2, 3))
        and math.prod(patch or ()) > MAX_PATCH_VOXELS
    ):
        findings.refuse(f"{key}.patch_size", f"at most {MAX_PATCH_VOXELS} voxels", patch)
    axes = len(patch) if isinstance(patch, (list, tuple)) else 3
    findings.are_lengths(f"{key}.spacing", spacing, *SPACING_MM, axes)
    median = entry.get("median_image_size_in_voxels", patch)
    findings.are_lengths(f"{key}.median_image_size_in_voxels", median, 1e-3, 1e9, axes)
    identifier = entry.get("data_identifier", "none")
    if not isinstance(identifier, str) or not all(FILE_NAME.fullmatch(part) for part in identifier.split("/")):
        findings.refuse(f"{key}.data_identifier", "a folder in that of the data set", identifier)
    for stage in ("previous_stage", "next_stage"):
        named = entry.get(stage)
        for other in named if isinstance(named, list) else [named] if named is not None else []:
            findings.is_one_of(f"{key}.{stage}", other, configurations)
    if "architecture" in entry or "UNet_class_name" not in entry:
        _architecture(findings, f"{key}.architecture", entry.get("architecture"), axes)
    else:
        _old_architecture(findings, key, entry, axes)


def _resampling(findings: _Findings, key: str, entry: Mapping[str, Any], purpose: str) -> None:
    """Check a function of resampling and its options, of which one says whether labels are resampled."""
    key = f"{key}.resampling_fn_{purpose}"
    name = entry.get(f"resampling_fn_{purpose}")
    if not findings.is_one_of(key, name, RESAMPLINGS):
        return
    options, given = RESAMPLINGS[str(name)], entry.get(f"resampling_fn_{purpose}_kwargs")
    for option, value in (findings.table(f"{key}_kwargs", given) or {}).items():
        if findings.is_one_of(f"{key}_kwargs", option, options):
            findings.is_option(f"{key}_kwargs.{option}", value, options[option])
    if isinstance(given, Mapping) and "is_seg" in options and given.get("is_seg", False) is not (purpose == "seg"):
        findings.refuse(f"{key}_kwargs.is_seg", str(purpose == "seg").lower(), given.get("is_seg"))


def _normalization(
    findings: _Findings, key: str, entry: Mapping[str, Any], intensities: Mapping[str, Mapping[str, Any]]
) -> None:
    schemes, masked = (entry.get(name) for name in ("normalization_schemes", "use_mask_for_norm"))
    if not isinstance(schemes, (list, tuple)) or not isinstance(masked, (list, tuple)) or len(schemes) != len(masked):
        findings.refuse(f"{key}.normalization_schemes", "one scheme, and one use_mask_for_norm, per channel", schemes)
        return
    for index, (scheme, mask) in enumerate(zip(schemes, masked, strict=True)):
        findings.is_one_of(f"{key}.normalization_schemes[{index}]", scheme, NORMALIZATIONS)
        findings.is_switch(f"{key}.use_mask_for_norm[{index}]", mask)
        values = intensities.get(str(index))
        if values is None or (scheme == "CTNormalization" and not _are_intensities(values)):
            expected = f"finite {', '.join(_OF_CT)}" if scheme == "CTNormalization" else "an entry"
            findings.refuse(f"{INTENSITIES[0]}.{index}", expected, values)


def _are_intensities(values: Mapping[str, Any]) -> bool:
    numbers = [values.get(name) for name in _OF_CT]
    finite = all(isinstance(number, (int, float)) and abs(number) < MAX_INTENSITY for number in numbers)
    return finite and values["std"] >= 0 and values["percentile_00_5"] <= values["percentile_99_5"]


def _architecture(findings: _Findings, key: str, value: Any, axes: int) -> None:
    entry = findings.table(key, value)
    if entry is None:
        return
    if not findings.is_one_of(f"{key}.network_class_name", entry.get("network_class_name"), NETWORKS):
        return
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
    plain = str(entry.get("network_class_name")).endswith("PlainConvUNet")
    needed = [*_NEEDED, "n_conv_per_stage" if plain else "n_blocks_per_stage"]
    for name in {**dict.fromkeys(needed), **given}:
        if name in (_OF_RESIDUAL if plain else _OF_PLAIN):
            findings.refuse(f"{key}.{name}", "no such argument of this network", given[name])
        else:
            _argument(findings, f"{key}.{name}", name, given.get(name), stages, imported, axes)
    if len(findings.problems) == before and _weights(given, stages) > MAX_WEIGHTS:
        findings.refuse(key, f"at most {MAX_WEIGHTS:.0e} weights", f"{_weights(given, stages):.0e}")


def _argument(
    findings: _Findings, key: str, name: str, value: Any, stages: int, imported: Collection[str], axes: int
) -> None:
    """Refuse an argument of a network that nnU-Net does not write."""
    if name in LAYERS:
        needed = name in _NEEDED or value is not None
        if needed and findings.is_one_of(key, value, LAYERS[name]):
            if name not in imported:
                findings.refuse(key, "mentioned in _kw_requires_import", value)
            if name in ("conv_op", "norm_op") and not value.endswith(f"{axes}d"):
                findings.refuse(key, f"layers of {axes} axes, as the patch has", value)
    elif name in _PER_STAGE or name in _PER_AXIS:
        length = stages - 1 if name.endswith("_decoder") else stages
        entries = _by_stage(value, length)
        if entries is None:
            findings.refuse(key, f"{length} entries, one per stage", value)
        elif value is not None or name not in _MAY_BE_NONE:
            for index, entry in enumerate(entries):
                if name in _PER_AXIS and isinstance(entry, (list, tuple)):
                    findings.are_whole(f"{key}[{index}]", entry, 1, _PER_AXIS[name], (axes,))
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


def _old_architecture(findings: _Findings, key: str, entry: Mapping[str, Any], axes: int) -> None:
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
            findings.are_whole(f"{key}.{name}[{index}]", size, 1, MAX_KERNEL, (axes,))


def _dataset(findings: _Findings, content: Mapping[str, Any]) -> None:
    findings.is_one_of(
        "overwrite_image_reader_writer", content.get("overwrite_image_reader_writer", "None"), READERS | {"None"}
    )
    _channels(findings, content)
    labels = findings.table("labels", content.get("labels"))
    if labels is None:
        return
    if len(labels) > MAX_CLASSES or labels.get("background") != 0:
        findings.refuse("labels", f"background 0 and at most {MAX_CLASSES} others", labels)
        return
    fits = []
    for name, value in labels.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        fits.append(findings.are_whole(f"labels.{name}", values, 0, LARGEST_LABEL, range(1, MAX_CLASSES)))
    if all(fits):
        _values(findings, labels, content.get("regions_class_order"))


def _channels(findings: _Findings, content: Mapping[str, Any]) -> None:
    """Check the names of the channels; nnU-Net counts those under the older key, where both are there."""
    counts = set()
    for key in ("channel_names", "modality"):
        if key in content or (key == "channel_names" and "modality" not in content):
            named = findings.table(key, content.get(key))
            counts.add(-1 if named is None else len(named))
            if named is not None and not 1 <= len(named) <= MAX_CHANNELS:
                findings.refuse(key, f"1 to {MAX_CHANNELS} channels", len(named))
            for number, name in (named or {}).items():
                if not isinstance(name, str):
                    findings.refuse(f"{key}.{number}", "a name", name)
    if len(counts) > 1:
        findings.refuse("modality", "as many channels as channel_names has", content["modality"])


def _values(findings: _Findings, labels: Mapping[str, Any], order: Any) -> None:
    """Check that the values of labels, the ignore label and ``regions_class_order`` make sense together."""
    sets = {name: values_of(value) for name, value in labels.items() if name != IGNORE}
    values = sorted({value for each in sets.values() for value in each})
    if not has_regions(sets) and order is not None:
        findings.are_whole("regions_class_order", order, 0, LARGEST_LABEL, range(1, MAX_CLASSES))
    if has_regions(sets):
        for name, each in foreground(sets).items():
            if set(values_of(each)) == {0}:
                findings.refuse(f"labels.{name}", "other values than that of the background", each)
        regions = len(foreground(labels))
        if findings.are_whole("regions_class_order", order, 0, LARGEST_LABEL, (regions,)) and not {*order} <= {*values}:
            findings.refuse("regions_class_order", f"values of labels: {values}", order)
    elif values != list(range(len(sets))):
        # A network has an output for each, and its number is the value that a mask gets.
        findings.refuse("labels", f"the values 0 to {len(sets) - 1}, each once", labels)
    if IGNORE in labels and labels[IGNORE] != values[-1] + 1:
        findings.refuse(f"labels.{IGNORE}", f"{values[-1] + 1}, after the last class", labels[IGNORE])
