"""The teacher: a moving average, and its state."""

from __future__ import annotations

import torch
from torch import nn

from pcl_auto.nnunet.training.teacher import Teacher


def network(value: float) -> nn.Module:
    module = nn.Module()
    module.decoder = nn.Conv1d(1, 1, 1)
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)
    return module


def weight(module: nn.Module) -> nn.Parameter:
    return module.get_parameter("decoder.weight")


def test_weights_are_the_moving_average() -> None:
    decay, student = 0.6, network(0)
    teacher, expected = Teacher(student, decay), 0.0
    for step in range(1, 30):
        nn.init.constant_(weight(student), float(step))
        teacher.follow(student)
        keep = min(decay, step / (step + 9))
        expected = keep * expected + (1 - keep) * step
    assert abs(weight(teacher.network).item() - expected) < 1e-4
    assert weight(student).item() == 29


def test_teacher_is_a_copy_without_gradients() -> None:
    student = network(1)
    teacher = Teacher(student, 0.9)
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert vars(teacher.network.get_submodule("decoder"))["deep_supervision"] is False


def test_state_goes_on_where_it_stopped() -> None:
    student = network(1)
    whole, broken = Teacher(student, 0.9), Teacher(student, 0.9)
    resumed = Teacher(network(5), 0.9)
    for step in range(6):
        nn.init.constant_(weight(student), float(step))
        whole.follow(student)
        if step < 3:
            broken.follow(student)
        if step == 3:
            resumed.load_state_dict(broken.state_dict())
        if step >= 3:
            resumed.follow(student)
    for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_restarted_teacher_is_a_new_one() -> None:
    student = network(1)
    restarted = Teacher(student, 0.9)
    nn.init.constant_(weight(student), 7.0)
    restarted.follow(student)
    restarted.restart(student)
    fresh = Teacher(student, 0.9)
    assert restarted.state_dict()["updates"] == fresh.state_dict()["updates"]
    for one, other in zip(restarted.network.parameters(), fresh.network.parameters(), strict=True):
        assert torch.equal(one, other)
