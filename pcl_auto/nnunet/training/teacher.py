"""The teacher: an exponential moving average of the network's weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Teacher:
    """Follows a network's weights slowly; the average of many steps segments more steadily than the last one.

    All of nnU-Net's normalization is per instance: there are no running statistics to follow.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start as ``network``; an update keeps the share ``decay`` in [0, 1) of what the teacher was."""
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(requires_grad=False)
        # It only ever segments: one output, at full resolution.
        self.network.decoder.deep_supervision = False  # type: ignore[union-attr]
        self._averages: list[Tensor] = list(self.network.parameters())
        self._updates = 0

    def restart(self, network: nn.Module) -> None:
        """Be a copy of ``network`` again."""
        self.network.load_state_dict(network.state_dict())
        self._updates = 0

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """Take a step towards ``network``; the first steps are larger: the network learns fast in them."""
        self._updates += 1
        keep = min(self.decay, self._updates / (self._updates + 9))
        # All at once: on a GPU a launch for each weight takes longer than the arithmetic.
        torch._foreach_lerp_(self._averages, list(network.parameters()), 1 - keep)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that :meth:`load_state_dict` resumes."""
        return {"updates": self._updates, "network": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a kept state."""
        self._updates = state["updates"]
        self.network.load_state_dict(state["network"])
