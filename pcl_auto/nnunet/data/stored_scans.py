"""Read stored images as scans to register."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pcl_auto.method.registration import Scan, with_even_contrast
from pcl_auto.nnunet.data.cases import StoredCases, reading


def read_stored_image(folder: Path, case: str) -> np.ndarray:
    """Read the stored image of a case, shape (C, z, y, x)."""
    cases = StoredCases(str(folder), [case])
    image, _, _, _ = cases.load_case(case)
    with reading(lambda: cases):
        read: np.ndarray = image[:]
    return read


def registering_device(trained_on: torch.device, *, deterministic: bool) -> torch.device:
    """Return the device to register on: the GPU that is trained on, unless every run is to give the same bytes."""
    return trained_on if trained_on.type == "cuda" and not deterministic else torch.device("cpu")


def read_scan(folder: Path, case: str, transpose_forward: Sequence[int], device: torch.device) -> Scan:
    """Read the stored image of a case as a scan to register; see :func:`scan_of`."""
    cases = StoredCases(str(folder), [case])
    image, _, _, properties = cases.load_case(case)
    with reading(lambda: cases):
        return scan_of(image[:], properties, transpose_forward, device)


def scan_of(
    image: np.ndarray, properties: Mapping[str, Any], transpose_forward: Sequence[int], device: torch.device
) -> Scan:
    """Return a preprocessed image (C, z, y, x) as a scan to register, with even contrast.

    Args:
        image: as nnU-Net preprocesses it.
        properties: nnU-Net's, of the case.
        transpose_forward: how nnU-Net's plans turn the axes of a scan.
        device: to register on.
    """
    # Its size in millimeters is what the scan had before it was resampled.
    turned = [properties["spacing"][axis] for axis in transpose_forward]
    before = properties["shape_after_cropping_and_before_resampling"]
    spacing_mm = [mm * n / m for mm, n, m in zip(turned, before, image.shape[1:], strict=True)]
    return with_even_contrast(Scan(torch.from_numpy(image), (spacing_mm[0], spacing_mm[1], spacing_mm[2])), device)
