"""Describe a pre-trained network for those who start from it, under the names of nnssl's adaptation plans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from pcl_auto.recipe.settings import PretrainingMethod

# Of a configuration what says nothing of how images are preprocessed.
_NOT_OF_IMAGES = ("architecture", "data_identifier")
_MASKED = (
    "He, Chen, Xie, Li, Dollár, Girshick: Masked autoencoders are scalable vision learners. CVPR 2022, arXiv:2111.06377"
)
_MASKED_IN_3D = (
    "Wald et al.: Revisiting MAE pre-training for 3D medical image segmentation. CVPR 2025, arXiv:2410.23132"
)
_CONTRASTIVE = (
    "Chaitanya, Erdil, Karani, Konukoglu: Contrastive learning of global and local features for medical image "
    "segmentation with limited annotations. NeurIPS 2020, arXiv:2006.10511"
)
_NNUNET = (
    "Isensee, Jaeger, Kohl, Petersen, Maier-Hein: nnU-Net: a self-configuring method for deep learning-based "
    "biomedical image segmentation. Nature Methods 18 (2021)"
)
CITATIONS: Mapping[PretrainingMethod, tuple[str, ...]] = {
    "masked": (_MASKED, _MASKED_IN_3D, _NNUNET),
    "contrastive": (_CONTRASTIVE, _NNUNET),
}


def make_adaptation_plan(
    network: nn.Module, configuration: str, chosen: Mapping[str, Any], channels: int, method: PretrainingMethod
) -> dict[str, Any]:
    """Describe a pre-trained network.

    Args:
        network: nnU-Net's, which knows the names of its parts.
        configuration: its name.
        chosen: that configuration of nnU-Net's plans, with the recipe's network.
        channels: of the images.
        method: of the pre-training.
    """
    architecture = chosen["architecture"]
    patch_voxels = [int(size) for size in chosen["patch_size"]]
    known: Any = network
    return {
        "architecture_plans": {
            "arch_class_name": str(architecture["network_class_name"]).rpartition(".")[2],
            "arch_kwargs": architecture["arch_kwargs"],
            "arch_kwargs_requiring_import": list(architecture["_kw_requires_import"]),
        },
        "pretrain_plan": {
            "configurations": {
                configuration: {key: value for key, value in chosen.items() if key not in _NOT_OF_IMAGES}
            }
        },
        "pretrain_num_input_channels": channels,
        "pretrain_patch_size": patch_voxels,
        "recommended_downstream_patchsize": patch_voxels,
        "key_to_encoder": known.key_to_encoder,
        "key_to_stem": known.key_to_stem,
        "keys_to_in_proj": list(known.keys_to_in_proj),
        "key_to_lpe": None,
        "citations": list(CITATIONS[method]),
    }
