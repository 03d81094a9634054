"""Correct the bias field of MR scans (N4; Tustison et al., IEEE TMI 2010) before nnU-Net's preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

# A field is smooth: it is fitted to at most so many voxels along an axis.
FITTED_VOXELS = 32


class BiasCorrectingPreprocessor(DefaultPreprocessor):  # type: ignore[misc]
    """nnU-Net's preprocessing of images after bias field correction.

    Plans name it as their preprocessor. Stock nnU-Net does not find that name, so that it does not segment scans that
    look unlike those that the network was trained on.
    """

    def run_case_npy(
        self, data: np.ndarray, seg: np.ndarray | None, properties: dict[str, Any], *settings: Any
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Preprocess a case as nnU-Net does, its image (C, z, y, x) corrected first."""
        corrected = without_bias(data, properties["spacing"])
        result: tuple[np.ndarray, np.ndarray, dict[str, Any]]
        result = super().run_case_npy(corrected, seg, properties, *settings)
        return result


def preprocessor_of(configuration: ConfigurationManager) -> DefaultPreprocessor:
    """Return the preprocessor that a configuration names, ours among them."""
    if configuration.preprocessor_name == BiasCorrectingPreprocessor.__name__:
        return BiasCorrectingPreprocessor(verbose=False)
    return configuration.preprocessor_class(verbose=False)


def without_bias(image: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Remove the slow change of brightness that the coils of a scanner leave, from each channel by itself.

    The field is that of the voxels that Otsu's threshold tells from the background; a channel without any, or whose
    values are not positive, stays as it is. The same image gives the same result, whatever the number of cores.

    Args:
        image: shape (C, z, y, x).
        spacing_mm: of the voxels, along z, y and x.
    """
    flat = image.shape[1] == 1
    corrected = image.astype(np.float32)
    for channel in corrected:
        # N4 cannot fit a field along an axis of one voxel.
        voxels, spacing = (channel[0], spacing_mm[1:]) if flat else (channel, spacing_mm)
        voxels /= _field(voxels, [float(step) for step in spacing])
    return corrected


def _field(voxels: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the factor by which every voxel is too bright, same shape; 1 where nothing can be said."""
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(spacing_mm[::-1])
    tissue = SimpleITK.And(SimpleITK.OtsuThreshold(image, 0, 1), image > 0)
    steps = [-(-size // FITTED_VOXELS) for size in image.GetSize()]
    small_image, small_tissue = SimpleITK.Shrink(image, steps), SimpleITK.Shrink(tissue, steps)
    if not SimpleITK.GetArrayViewFromImage(small_tissue).any():
        return np.ones_like(voxels)
    fit = SimpleITK.N4BiasFieldCorrectionImageFilter()
    # More threads would add up in another order every time.
    fit.SetNumberOfThreads(1)
    fit.Execute(small_image, small_tissue)
    field: np.ndarray = np.exp(SimpleITK.GetArrayFromImage(fit.GetLogBiasFieldAsImage(image)))
    return field
