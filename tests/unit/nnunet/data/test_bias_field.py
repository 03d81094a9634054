"""Bias field correction of images whose true brightness is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from pcl_auto.nnunet.data import bias_field
from pcl_auto.nnunet.data.bias_field import BiasCorrectingPreprocessor, preprocessor_of, without_bias

SPACING_MM = (3.0, 1.0, 1.0)


def shaded(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A scan (1, z, y, x) of one tissue on a dark background, brighter to one corner; its tissue, and the shading."""
    _, y, x = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    tissue, shading = y**2 + x**2 < 0.7, np.exp(0.4 * x + 0.3 * y)
    scan = np.where(tissue, 200.0, 5.0) + np.random.default_rng(0).normal(0, 3, shape)
    return (scan * shading)[None].astype(np.float32), tissue, shading


def unevenness(values: np.ndarray) -> float:
    return float(values.std() / values.mean())


@pytest.mark.parametrize("shape", [(4, 40, 48), (1, 40, 48)])
def test_one_tissue_becomes_equally_bright_everywhere(shape: tuple[int, int, int]) -> None:
    scan, tissue, shading = shaded(shape)
    corrected = without_bias(scan, SPACING_MM)
    assert corrected.shape == scan.shape
    assert corrected.dtype == np.float32
    assert unevenness(scan[0][tissue]) > 0.2
    assert unevenness(corrected[0][tissue]) < 0.03
    # Reference: what was divided by is the shading, up to one factor.
    assert unevenness((scan / corrected)[0][tissue] / shading[tissue]) < 0.03


def test_the_same_scan_gives_the_same_bytes_and_is_left_alone() -> None:
    scan, _, _ = shaded((3, 24, 24))
    before = scan.copy()
    assert np.array_equal(without_bias(scan, SPACING_MM), without_bias(scan, SPACING_MM))
    assert np.array_equal(scan, before)


@pytest.mark.parametrize("value", [0.0, -3.0, 7.0])
def test_a_channel_without_tissue_stays_as_it_is(value: float) -> None:
    scan, _, _ = shaded((3, 24, 24))
    nothing = np.full_like(scan, value)
    corrected = without_bias(np.concatenate([nothing, scan]), SPACING_MM)
    assert np.array_equal(corrected[:1], nothing)
    assert np.array_equal(corrected[1:], without_bias(scan, SPACING_MM))


def test_the_configuration_names_the_preprocessor() -> None:
    def named(name: str) -> Any:
        return SimpleNamespace(preprocessor_name=name, preprocessor_class=DefaultPreprocessor)

    assert type(preprocessor_of(named("BiasCorrectingPreprocessor"))) is BiasCorrectingPreprocessor
    assert type(preprocessor_of(named("DefaultPreprocessor"))) is DefaultPreprocessor


def test_stock_nnunet_does_not_take_one_preprocessor_for_the_other() -> None:
    configuration = ConfigurationManager({"preprocessor_name": "BiasCorrectingPreprocessor", "architecture": {}})
    with pytest.raises(TypeError):
        configuration.preprocessor_class(verbose=False)


def test_a_case_is_corrected_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias_field, "without_bias", lambda image, spacing_mm: image / spacing_mm[0])
    monkeypatch.setattr(DefaultPreprocessor, "run_case_npy", lambda self, *arguments: arguments)
    scan, _, _ = shaded((1, 8, 8))
    # The arguments: that is what nnU-Net's own method returns here.
    given: tuple[Any, ...] = BiasCorrectingPreprocessor(verbose=False).run_case_npy(
        scan, None, {"spacing": SPACING_MM}, "plans", "configuration", "dataset"
    )
    data, seg, *settings = given
    assert np.array_equal(data, scan / 3)
    assert seg is None
    assert settings == [{"spacing": SPACING_MM}, "plans", "configuration", "dataset"]
