"""Smooth random scans to register, and the places that move nothing."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from pcl_auto.method.registration import Scan

SPACING_MM = (2.0, 1.0, 1.0)
SHAPE = (12, 24, 24)


def blobs(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """Return a smooth image with structure everywhere, from 0 to 1."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), [1, 2, 2])
    image = (noise - noise.min()) / (noise.max() - noise.min())
    small: np.ndarray = image.astype(np.float32)
    return small


def scan(image: np.ndarray, spacing_mm: tuple[float, float, float] = SPACING_MM) -> Scan:
    """Return an image as a scan of one channel."""
    return Scan(torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None], spacing_mm)


def identity(shape: tuple[int, ...]) -> Tensor:
    """Return the places of a scan's voxels in itself, as registration gives places."""
    axes = [(2 * torch.arange(n) + 1) / n - 1 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)[None]
