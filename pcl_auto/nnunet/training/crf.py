"""A segmenter whose result a dense conditional random field refines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pcl_auto.method.refinement import refine
from pcl_auto.nnunet.data.pseudo_labels import Segmenter


def refined(segment: Segmenter, spacing_mm: Sequence[float]) -> Segmenter:
    """``segment`` with refined probabilities in place of its logits: the largest of a voxel is still its class.

    Args:
        segment: logits (K, z, y, x) of a preprocessed image (C, z, y, x).
        spacing_mm: of stored voxels, along z, y and x.
    """

    def segment_and_refine(image: Tensor) -> Tensor:
        # Logits come in half precision: a probability does not fit into it.
        probabilities = segment(image).float().softmax(0).cpu().numpy()
        return torch.from_numpy(refine(probabilities, image.cpu().numpy(), spacing_mm))

    return segment_and_refine
