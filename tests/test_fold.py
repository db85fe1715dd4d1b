"""Batch norms folded into the convolutions before them: no output changes, and those that must stay do."""

from __future__ import annotations

import torch
from helpers.nets import images
from torch import Tensor, nn

from cutswap_transforms.saliency.traced.fold import fold_batch_norms


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.branching, self.after = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        rng = torch.Generator().manual_seed(0)
        for x in (*self.parameters(), *self.buffers()):
            if x.is_floating_point():
                x.data.copy_(torch.rand(x.shape, generator=rng) + 0.5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.branching(self.norm(self.conv(x)))
        return x + self.after(x)


class Flow(Normed):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


def test_folding_changes_no_output_and_leaves_what_is_used_twice_wanted_itself_or_in_control_flow() -> None:
    model, x = Normed(), images()
    before = model(x)
    assert fold_batch_norms(model, keep=()) == 1
    assert isinstance(model.norm, nn.Identity) and isinstance(model.after, nn.BatchNorm2d)
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    assert fold_batch_norms(Normed(), keep=["conv"]) == fold_batch_norms(Flow(), keep=()) == 0
