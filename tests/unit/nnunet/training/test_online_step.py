"""Steps taught by a network of the moment change the weights as the papers' whole losses would, in one graph."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_trainer import CLASSES, PATCH, SmallTrainer, small_batch
from torch import Tensor, nn

from pcl_auto.method import consistency
from pcl_auto.nnunet.network import FeatureDropout
from pcl_auto.nnunet.training import lessons
from pcl_auto.nnunet.training.online_step import OnlineStep
from pcl_auto.nnunet.training.optimizers import backward_and_step
from pcl_auto.recipe.load import from_dict, load_recipe
from pcl_auto.recipe.settings import Recipe

LABELED, UNLABELED = 2, 3


def recipe_of(method: str, **settings: Any) -> Recipe:
    """Return a recipe whose joint rounds have begun: ten steps in all, of which eight are joint ones."""
    return from_dict(
        {
            "name": "mine",
            "schedule": {"steps_per_epoch": 2, "supervised_epochs": 1, "rounds": 1, "epochs_per_round": 4},
            "optimizer": {"name": "sgd", "learning_rate": 0.05, "weight_decay": 0.0},
            "contrast": {"weight": 0.0},
            "unlabeled_loss": {"method": method, **settings},
        }
    )


def begun(recipe: Recipe) -> tuple[SmallTrainer, OnlineStep]:
    trainer = SmallTrainer(recipe)
    step = OnlineStep(trainer.trainer)
    step.begin_rounds()
    step.begin_epoch(recipe.schedule.supervised_epochs)
    return trainer, step


def batches() -> tuple[dict[str, Any], dict[str, Any], Tensor]:
    labeled, unlabeled = small_batch(LABELED, seed=1), small_batch(UNLABELED, seed=2)
    return labeled, unlabeled, torch.cat([labeled["data"], unlabeled["data"]])


def segmentation(trainer: SmallTrainer, outputs: list[Tensor], batch: dict[str, Any]) -> Tensor:
    return trainer.segmentation_loss([output[: len(batch["data"])] for output in outputs], batch["target"])


def probabilities(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        outputs: Any = network(images)
        logits: Tensor = outputs[0] if isinstance(outputs, list) else outputs
        return logits.softmax(1)


def require_same(first: nn.Module, second: nn.Module) -> None:
    for (name, found), expected in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.allclose(found, expected, atol=1e-6), name


def require_changed(first: nn.Module, second: nn.Module) -> None:
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("ramp", [0.0, 0.5])
def test_mean_teacher(ramp: float) -> None:
    trainer, step = begun(recipe_of("mean_teacher", weight=3.0, ramp_up=ramp, noise=0.0, ema_decay=0.9))
    expected = SmallTrainer(trainer.recipe)
    teacher = copy.deepcopy(expected.network)
    labeled, unlabeled, images = batches()
    losses: dict[str, Any] = {}
    for number in range(2):
        losses = step.take(labeled, unlabeled)
        outputs = expected.forward(images)
        taught = consistency.mean_teacher_loss(outputs[0], probabilities(teacher, images))
        weight = 3.0 * (math.exp(-5 * (1 - number / 8 / ramp) ** 2) if ramp else 1.0)
        on_labels = segmentation(expected, outputs, labeled)
        backward_and_step(on_labels + weight * taught, [(expected.optimizer, expected.network)], None)
        expected.optimizer.zero_grad()
        assert losses == {"loss": pytest.approx(on_labels.item()), "unlabeled": pytest.approx(taught.item(), abs=1e-7)}
        # The average's first steps are larger than its decay says.
        keep = min(0.9, (number + 1) / (number + 10))
        with torch.no_grad():
            for average, value in zip(teacher.parameters(), expected.network.parameters(), strict=True):
                average.mul_(keep).add_((1 - keep) * value)
    assert losses["unlabeled"] > 0
    require_same(trainer.network, expected.network)
    require_same(step.parts()["online_teacher"].network, teacher)


def test_a_teacher_sees_noise_and_the_network_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lessons, "noisy", lambda images, deviation: images + deviation)
    trainer, step = begun(recipe_of("mean_teacher", noise=0.7))
    start = copy.deepcopy(trainer.network)
    labeled, unlabeled, images = batches()
    losses = step.take(labeled, unlabeled)
    with torch.no_grad():
        expected = consistency.mean_teacher_loss(start(images)[0], probabilities(start, images + 0.7))
    assert losses["unlabeled"] == pytest.approx(expected.item())


def test_uncertainty_is_the_entropy_of_the_mean_over_noisy_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    shifts = iter([0.1, 0.2, 0.3, 0.4])  # three passes for the uncertainty, one that teaches
    monkeypatch.setattr(lessons, "noisy", lambda images, _deviation: images + next(shifts))
    trainer, step = begun(recipe_of("uncertainty_mean_teacher", noisy_passes=3))
    start = copy.deepcopy(trainer.network)
    monkeypatch.setattr(consistency, "entropy_limit", lambda _progress, classes: 0.98 * math.log(classes))
    labeled, unlabeled, images = batches()
    losses = step.take(labeled, unlabeled)
    mean = torch.stack([probabilities(start, images + shift) for shift in (0.1, 0.2, 0.3)]).mean(0)
    uncertain = -(mean * mean.log()).sum(1)
    certain = uncertain < 0.98 * math.log(CLASSES)
    assert 0 < certain.sum() < certain.numel()
    with torch.no_grad():
        distances = (start(images)[0].softmax(1) - probabilities(start, images + 0.4)).square().sum(1)
    assert losses["unlabeled"] == pytest.approx(distances[certain].mean().item())
    assert list(shifts) == []


@pytest.fixture
def known_views(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Let strong views be known shifts, and boxes known too; return the boxes of the first and the second view."""
    shifts = iter([0.2, -0.3])
    boxes = [torch.zeros(UNLABELED, 1, *PATCH, dtype=torch.bool) for _ in range(2)]
    boxes[0][0, :, 3:9, 2:7] = boxes[1][2, :, :5] = True
    given = iter(boxes)
    monkeypatch.setattr(lessons, "strong_view", lambda images: images + next(shifts))
    monkeypatch.setattr(lessons, "random_boxes", lambda _number, _shape: next(given))
    return boxes


def strong(values: Tensor, boxes: Tensor) -> Tensor:
    mixed = values.clone()
    for number in range(len(values)):
        inside = boxes[number, 0]
        mixed[number][:, inside] = values[(number + 1) % len(values)][:, inside]
    return mixed


def test_fixmatch(known_views: list[Tensor]) -> None:
    threshold = 0.5
    trainer, step = begun(recipe_of("fixmatch", weight=0.5, min_confidence=threshold))
    expected = SmallTrainer(trainer.recipe)
    labeled, unlabeled, _ = batches()
    weak = strong(probabilities(expected.network, unlabeled["data"]), known_views[0])
    view = strong(unlabeled["data"] + 0.2, known_views[0])
    losses = step.take(labeled, unlabeled)
    outputs = expected.forward(torch.cat([labeled["data"], view]))
    on_unlabeled = consistency.confident_cross_entropy(outputs[0][LABELED:], weak, threshold)
    assert 0 < on_unlabeled.item() == pytest.approx(losses["unlabeled"])
    loss = segmentation(expected, outputs, labeled) + 0.5 * on_unlabeled
    backward_and_step(loss, [(expected.optimizer, expected.network)], None)
    require_same(trainer.network, expected.network)


def test_unimatch(known_views: list[Tensor]) -> None:
    """Its three streams go through the network one after the other, and add up to the paper's loss."""
    threshold = 0.4
    trainer, step = begun(recipe_of("unimatch", weight=0.5, min_confidence=threshold))
    expected = SmallTrainer(trainer.recipe)
    dropout = FeatureDropout(expected.network, 0.5)
    labeled, unlabeled, _ = batches()
    images = unlabeled["data"]
    weak = probabilities(expected.network, images)
    torch.manual_seed(5)
    losses = step.take(labeled, unlabeled)

    torch.manual_seed(5)
    views = [strong(images + shift, boxes) for shift, boxes in zip((0.2, -0.3), known_views, strict=True)]
    with dropout.from_image(0):
        perturbed = expected.forward(images)[0]
    outputs = expected.forward(torch.cat([labeled["data"], views[0]]))
    second = expected.forward(views[1])[0]
    terms = [
        consistency.confident_cross_entropy(logits, strong(weak, boxes), threshold)
        for logits, boxes in zip((outputs[0][LABELED:], second), known_views, strict=True)
    ]
    features = consistency.confident_cross_entropy(perturbed, weak, threshold)
    on_unlabeled = 0.5 * features + 0.5 / 2 * (terms[0] + terms[1])  # λ = μ = 0.5
    assert 0 < on_unlabeled.item() == pytest.approx(losses["unlabeled"])
    loss = segmentation(expected, outputs, labeled) + 0.5 * on_unlabeled
    backward_and_step(loss, [(expected.optimizer, expected.network)], None)
    require_same(trainer.network, expected.network)


def test_cross_supervision_changes_both_networks_at_once() -> None:
    trainer, step = begun(recipe_of("cross_supervision", weight=1.5))
    expected = SmallTrainer(trainer.recipe)
    second = step.parts()["second_network"]
    require_changed(second, trainer.network)
    reference = copy.deepcopy(second)
    optimizer = torch.optim.SGD(reference.parameters(), 0.05, momentum=0.99, nesterov=True)
    optimizer.param_groups[0]["lr"] = step.parts()["second_optimizer"].param_groups[0]["lr"]
    labeled, unlabeled, images = batches()
    losses = step.take(labeled, unlabeled)

    outputs, others = expected.forward(images), expected.forward(images, reference)
    taught = consistency.cross_supervision_loss(outputs[0], others[0])
    loss = segmentation(expected, outputs, labeled) + segmentation(expected, others, labeled)
    loss = loss + 1.5 * (taught + consistency.cross_supervision_loss(others[0], outputs[0]))
    backward_and_step(loss, [(expected.optimizer, expected.network), (optimizer, reference)], None)
    assert losses["unlabeled"] == pytest.approx(taught.item())
    require_same(trainer.network, expected.network)
    require_same(second, reference)


def test_the_second_network_learns_from_the_start_on() -> None:
    trainer, step = begun(recipe_of("cross_supervision"))
    second = step.parts()["second_network"]
    reference = copy.deepcopy(second)
    optimizer = torch.optim.SGD(reference.parameters(), 0.05, momentum=0.99, nesterov=True)
    optimizer.param_groups[0]["lr"] = step.parts()["second_optimizer"].param_groups[0]["lr"]
    labeled = small_batch(LABELED, seed=1)
    step.learned_labels(labeled)
    loss = segmentation(trainer, trainer.forward(labeled["data"], reference), labeled)
    backward_and_step(loss, [(optimizer, reference)], None)
    require_same(second, reference)

    # Another run takes the whole start up, second network and its optimizer too.
    _, other = begun(trainer.recipe)
    other.load_start({name: copy.deepcopy(part.state_dict()) for name, part in step.parts().items()})
    require_same(other.parts()["second_network"], second)
    assert other.parts()["second_optimizer"].state_dict()["state"]


def test_without_a_supervised_start_the_second_network_differs_in_its_head() -> None:
    recipe = recipe_of("cross_supervision")
    trainer, step = begun(replace(recipe, schedule=replace(recipe.schedule, supervised_epochs=0)))
    second = step.parts()["second_network"]
    require_same(second.encoder, trainer.network.encoder)
    require_changed(second.decoder.seg_layers, trainer.network.decoder.seg_layers)


@pytest.mark.parametrize("method", ["mean_teacher", "fixmatch"])
def test_only_a_second_network_learns_labels_of_the_start(method: str) -> None:
    trainer, step = begun(recipe_of(method))
    before = copy.deepcopy(trainer.network)
    step.learned_labels(small_batch(LABELED, seed=1))
    step.load_start({})
    require_same(trainer.network, before)


@pytest.mark.parametrize(
    "name", ["mean_teacher", "uncertainty_mean_teacher", "fixmatch", "unimatch", "cross_supervision"]
)
def test_a_shipped_recipe_takes_the_same_steps_with_scaled_gradients(name: str) -> None:
    """As with half precision on a GPU; UniMatch's gradients come in two parts, two networks share the scale."""
    found = []
    for scaler in (None, torch.amp.GradScaler("cpu")):
        trainer, step = begun(load_recipe(name))
        trainer.grad_scaler = scaler
        before = copy.deepcopy(trainer.network)
        labeled, unlabeled, _ = batches()
        torch.manual_seed(4)
        for _ in range(3):
            losses = step.take(labeled, unlabeled)
            assert all(math.isfinite(float(value)) for value in losses.values())
        require_changed(trainer.network, before)
        found.append(trainer.network)
    require_same(*found)
