"""Differences between a pre-training and the data set's plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pretrained_files import adaptation_plan, architecture, network, nnunet_plans, write_nnssl, write_nnunet

from pcl_auto.nnunet.pretrained.source import read_source
from pcl_auto.training.pretrained_start import differences

OF = architecture()
PLANNED: dict[str, Any] = nnunet_plans(OF)["configurations"]["3d_fullres"]


def test_nothing_is_said_where_all_is_the_same(tmp_path: Path) -> None:
    source = read_source(write_nnunet(tmp_path / "model", network(OF).state_dict(), nnunet_plans(OF)))
    assert differences(source, PLANNED) == []
    near = {**PLANNED, "spacing": [2.01, 1.0, 0.99]}
    assert differences(source, near) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"spacing": [3.0, 1.0, 1.0]}, "spacing 2×1×1 mm in the pre-training, 3×1×1 mm here"),
        (
            {"normalization_schemes": ["CTNormalization"]},
            "ZScoreNormalization in the pre-training, CTNormalization here",
        ),
    ],
)
def test_spacing_and_normalization(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    source = read_source(write_nnunet(tmp_path / "model", network(OF).state_dict(), nnunet_plans(OF)))
    assert differences(source, {**PLANNED, **changes}) == [expected]


def test_layers_without_weights(tmp_path: Path) -> None:
    other = replace(OF, arguments={**OF.arguments, "nonlin": "torch.nn.ReLU", "nonlin_kwargs": {"inplace": True}})
    source = read_source(write_nnssl(tmp_path, network(other).state_dict(), adaptation_plan(other)))
    alike = {**PLANNED, "spacing": [1.0, 1.0, 1.0]}
    assert differences(source, alike) == ["ReLU in the network of the weights, LeakyReLU here"]
