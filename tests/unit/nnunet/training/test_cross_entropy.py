"""The cross-entropy of deterministic training is nnU-Net's, in the loss and in its gradient."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss

from pcl_auto.nnunet.training.cross_entropy import OrderedCrossEntropy
from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised


@pytest.mark.parametrize("ignored", [-100, 3])
@pytest.mark.parametrize("patch", [(6, 5), (4, 6, 5)])
def test_loss_and_gradient_are_those_of_nnunet(patch: tuple[int, ...], ignored: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, *patch, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 4 if ignored == 3 else 3, (2, *patch)).float()
    losses, gradients = [], []
    for loss in (RobustCrossEntropyLoss(ignore_index=ignored), OrderedCrossEntropy(ignored)):
        losses.append(loss(logits, target))
        gradients.append(torch.autograd.grad(losses[-1], logits)[0])
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize(("device", "deterministic"), [("cuda", True), ("cuda", False), ("cpu", True)])
def test_only_deterministic_training_on_a_gpu_takes_it(
    monkeypatch: pytest.MonkeyPatch, device: str, *, deterministic: bool
) -> None:
    trainer = nnUNetTrainerPCLSupervised.__new__(nnUNetTrainerPCLSupervised)
    for name, value in {
        "settings": SimpleNamespace(deterministic=deterministic),
        "device": torch.device(device),
        "label_manager": SimpleNamespace(has_regions=False, ignore_label=4),
        "configuration_manager": SimpleNamespace(batch_dice=False, pool_op_kernel_sizes=[[1, 1], [2, 2], [2, 2]]),
        "is_ddp": False,
        "enable_deep_supervision": True,
    }.items():
        monkeypatch.setattr(trainer, name, value, raising=False)
    monkeypatch.setenv("nnUNet_compile", "f")
    found = trainer._build_loss().loss.ce
    assert isinstance(found, OrderedCrossEntropy) == (device == "cuda" and deterministic)
    assert found.ignore_index == 4
