"""Half precision, where the device is fast in it."""

from __future__ import annotations

import pytest
import torch

from pcl_auto.nnunet import network as precision


@pytest.mark.parametrize(("fast", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_in_what_it_is_fast_in(monkeypatch: pytest.MonkeyPatch, fast: bool, expected: torch.dtype) -> None:
    monkeypatch.setattr(precision, "fast_in_bfloat16", lambda: fast)
    layer = torch.nn.Conv2d(1, 1, 1)
    with precision.half_precision(torch.device("cpu")):
        assert layer(torch.zeros(1, 1, 2, 2)).dtype == expected


def test_other_devices_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "fast_in_bfloat16", lambda: True)
    with precision.half_precision(torch.device("meta")):
        assert not torch.is_autocast_enabled()
