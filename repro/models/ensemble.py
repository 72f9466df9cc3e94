"""Several reward models as one, for whoever scores a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from repro.models.scalar_model import ScalarModel


class RewardEnsemble(nn.Module):
    """Reward models whose scores of a text are combined into one; all pool their outputs alike."""

    def __init__(self, members: Sequence[ScalarModel], combine: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.members, self.combine = nn.ModuleList(members), combine

    def forward(self, **inputs: Tensor) -> Tensor:
        """As `ScalarModel.forward`, of each member -> [B, K]: their outputs, combined at each place."""
        outputs = torch.stack([member(**inputs) for member in self.members])
        return self.combine(outputs.flatten(1)).unflatten(0, outputs.shape[1:])
