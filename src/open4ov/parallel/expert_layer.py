"""A layer with experts of which this rank holds some: what all dispatchers have in common.

Shapes: T tokens of this rank, E experts, k experts a token.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial

from open4ov.model.moe import MoE, Routing, spread

from .collectives import all_reduce

EXPERTS = ("gate_up", "down", "gate_up_a", "gate_up_b", "down_a", "down_b")
"""Parameters with an expert's share in each row of their first dim; the last four are an adapter's (`model/lora.py`)"""


class ParallelMoE(MoE):
    """A layer with experts on a mesh. What it computes with are this rank's parts of its parameters."""

    ep: dist.ProcessGroup | None
    """Ranks that share the layer's experts; None: this rank has them all"""
    seq: dist.ProcessGroup | None
    """Ranks that share a pack's tokens; None: this rank has them all"""
    load: list[int]
    """Assignments that the experts of each `ep` rank computed in the last pass; empty where that is not known"""

    def probabilities(self, x: Tensor) -> Tensor:
        return F.linear(x, local(self.router)).float().softmax(-1)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Of this rank's experts."""
        gate_up, down = super().weights()
        return local(gate_up), local(down)

    def prepare(self) -> None:
        """What a dispatcher needs before the first pass. Raises UserError where it cannot work."""

    def routing(self, probs: Tensor, chosen: Tensor, counts: Tensor, times: Tensor | None) -> Routing:
        """As of one process that has all tokens of the pack. `times` is of this rank's tokens; 0 leaves one out."""
        if self.seq is None:
            return super().routing(probs, chosen, counts, times)
        times = probs.new_ones(len(probs)) if times is None else times.to(probs.dtype)
        with torch.no_grad():
            entropy = -torch.xlogy(probs, probs).sum(-1).dot(times)
            fixed = torch.cat([spread(chosen, times, len(counts)), torch.stack([entropy, times.sum()])])
        total = all_reduce(torch.cat([probs.T.mv(times), fixed]), self.seq)
        experts = len(counts)
        number = total[-1].detach()
        return Routing(
            total[experts : 2 * experts].detach(), total[:experts] / number, total[-2].detach() / number, number
        )


def local(value: Tensor) -> Tensor:
    """This rank's part of a parameter. Of one that is whole on all ranks the gradient is a share of a sum: each rank
    sees some of the tokens only."""
    if not isinstance(value, DTensor):
        return value
    return value.to_local(grad_placements=[Partial() if p.is_replicate() else p for p in value.placements])
