"""Several processes learn what one learns from all their patches: the same loss, the same gradients."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from refusal import refused
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from pcl_auto.errors import UsageError
from pcl_auto.method.contrastive_loss import ContrastHead, local_contrastive_loss
from pcl_auto.method.sampling import VoxelSample, gather_features, sample_voxels
from pcl_auto.nnunet import distributed as ranks
from pcl_auto.nnunet.training.joint_trainer import nnUNetTrainerPCL
from pcl_auto.recipe.load import from_dict, load_recipe

PATCHES, CLASSES = 4, 2


class Toy(nn.Module):
    """Logits and the features that they are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv3d(1, 6, 3, padding=1)
        self.logits = nn.Conv3d(6, 1 + CLASSES, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.relu(self.features(images))
        return self.logits(features), features


def own(sample: VoxelSample, first: int, last: int) -> VoxelSample:
    """The voxels of some images, counted from 0."""
    chosen = (sample.image >= first) & (sample.image < last)
    return VoxelSample(sample.image[chosen] - first, sample.cls[chosen], sample.voxel[chosen], sample.rank[chosen])


def step(share: slice, batch_norm: bool) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a joint step, of which this process has the patches ``share``."""
    torch.manual_seed(0)
    network, head = Toy(), ContrastHead(6, 8, batch_norm=batch_norm)
    in_step = [ranks.wrap_ddp(module, torch.device("cpu")) for module in (network, head)]
    images = torch.randn(PATCHES, 1, 6, 7, 8)
    labels = torch.randint(0, 1 + CLASSES, (PATCHES, 1, 6, 7, 8))
    labels[0, 0, :3] = 0  # so that processes have different numbers of voxels
    labels[3][labels[3] == 2] = 1
    sample = own(sample_voxels(labels[:, 0], CLASSES, 40, torch.Generator().manual_seed(1)), share.start, share.stop)
    number = share.stop - share.start
    segmentation = DC_and_CE_loss(
        {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": ranks.ranks() > 1}, {}, weight_ce=1, weight_dice=1,
        ignore_label=None, dice_class=MemoryEfficientSoftDiceLoss,
    )  # fmt: skip
    logits, features = in_step[0](images[share])
    embeddings = ranks.gather_through(in_step[1], gather_features(features, sample), over_all_rows=batch_norm)
    voxels = ranks.gather_sample(sample, number)
    contrast = local_contrastive_loss(
        embeddings, voxels, voxels.anchors(3), n_images=number * ranks.ranks(), n_classes=CLASSES,
        temperature=0.1, matching="inter",
    )  # fmt: skip
    torch.autograd.backward(segmentation(logits, labels[share]) + contrast)
    gradients = {
        f"{part}.{name}": parameter.grad.clone()
        for part, module in (("network", network), ("head", head))
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    return float(contrast.detach()), gradients


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for batch_norm in (False, True):
        torch.save(step(slice(2 * rank, 2 * rank + 2), batch_norm), f"{folder}/rank_{rank}_{batch_norm}.pt")
    assert ranks.share([0, 1, 2, 3, 4]) == ([0, 2, 4] if rank == 0 else [1, 3])
    with ranks.rank_zero_first() as first:
        assert first == (rank == 0)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path: Path) -> None:
    spawn(one_of_two, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    for batch_norm in (False, True):
        contrast, gradients = step(slice(0, PATCHES), batch_norm)
        assert contrast > 0
        assert any(gradient.abs().max() > 1e-4 for name, gradient in gradients.items() if name.startswith("head"))
        for rank in (0, 1):
            its_contrast, its_gradients = torch.load(tmp_path / f"rank_{rank}_{batch_norm}.pt")
            assert its_contrast == pytest.approx(contrast, rel=1e-5)
            assert its_gradients.keys() == gradients.keys()
            for name, gradient in gradients.items():
                torch.testing.assert_close(its_gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_alone_nothing_is_gathered_or_wrapped() -> None:
    rows, sample = torch.randn(3, 2), VoxelSample(*(torch.zeros(1, dtype=torch.long) for _ in range(4)))
    module = nn.Linear(2, 2)
    assert ranks.gather_rows(rows) is rows
    assert ranks.gather_sample(sample, 4) is sample
    assert ranks.wrap_ddp(module, torch.device("cpu")) is module
    assert ranks.share_of_patches(3, 1) == (3, 1)


@pytest.mark.parametrize(("labeled", "unlabeled", "possible"), [(2, 2, "1 or 2"), (3, 1, "1"), (4, 8, "1 or 2 or 4")])
def test_patches_that_cannot_be_shared(
    monkeypatch: pytest.MonkeyPatch, labeled: int, unlabeled: int, possible: str
) -> None:
    monkeypatch.setattr(ranks, "ranks", lambda: 5)
    with refused(UsageError, "device.patches-not-shared") as refusal:
        ranks.share_of_patches(labeled, unlabeled)
    assert refusal.problem.expected == possible


@pytest.mark.parametrize(
    ("here", "device", "code"), [("1", "cpu", "device.several-machines"), ("2", "cuda", "device.too-few-gpus")]
)
def test_processes_that_no_machine_has_room_for(
    monkeypatch: pytest.MonkeyPatch, here: str, device: str, code: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with refused(UsageError, code), ranks.process_group(torch.device(device)):
        pass


def test_a_second_view_is_for_one_gpu_alone() -> None:
    recipe = from_dict({"name": "mine", "contrast": {"intensity_views": True}})
    trainer: Any = SimpleNamespace(recipe=recipe, is_ddp=True)
    with refused(UsageError, "device.one-gpu-only") as refusal:
        nnUNetTrainerPCL.initialize(trainer)
    assert "contrast.intensity_views" in refusal.problem.fix


@pytest.mark.parametrize("name", ["mean_teacher", "cross_supervision", "copy_paste_teacher"])
def test_a_network_of_the_moment_is_for_one_gpu_alone(name: str) -> None:
    trainer: Any = SimpleNamespace(recipe=load_recipe(name), is_ddp=True)
    with refused(UsageError, "device.one-gpu-only") as refusal:
        nnUNetTrainerPCL.initialize(trainer)
    assert "unlabeled_loss.method" in refusal.problem.what
