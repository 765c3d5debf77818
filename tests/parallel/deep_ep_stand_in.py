"""What DeepEP's documentation says of `ElasticBuffer`, in plain collectives, for a machine without its GPUs. It shows
that the dispatcher reads the documentation as this file does; the package itself has not been run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class Handle:
    sent: Tensor
    """Bool [G, T]: whether a token went to a rank"""
    arrived: list[int]
    """Tokens from each rank"""
    num_sms: int = 4


class ElasticBuffer:
    def __init__(
        self, group: dist.ProcessGroup, num_max_tokens_per_rank: int, hidden: int, num_topk: int, use_fp8_dispatch: bool
    ) -> None:
        self.group, self.most, self.hidden, self.chosen = group, num_max_tokens_per_rank, hidden, num_topk
        assert not use_fp8_dispatch

    def dispatch(
        self,
        x: Tensor,
        topk_idx: Tensor | None = None,
        topk_weights: Tensor | None = None,
        num_experts: int | None = None,
        num_sms: int = 0,
        handle: Handle | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Handle, None]:
        """A token goes once to each rank that has any of its experts; what it finds there are local numbers or -1."""
        assert x.dtype == torch.bfloat16
        assert x.is_contiguous()
        assert len(x) <= self.most
        size, rank = self.group.size(), self.group.rank()
        if handle is not None:
            assert topk_idx is None
            assert num_sms, "with a handle the theory of SMs does not know the experts"
            return self._sent(x, handle), None, None, handle, None
        assert topk_idx is not None
        assert topk_weights is not None
        assert num_experts is not None
        assert topk_idx.dtype == torch.int64
        assert topk_weights.dtype == torch.float32
        each = num_experts // size
        sent = torch.stack([(topk_idx // each == one).any(1) for one in range(size)])
        counts = sent.sum(1)
        arrived = torch.empty_like(counts)
        dist.all_to_all_single(arrived, counts, group=self.group)
        handle = Handle(sent, arrived.tolist())
        experts = self._sent(topk_idx, handle) - rank * each
        experts = torch.where((experts >= 0) & (experts < each), experts, -1)
        return self._sent(x, handle), experts, self._sent(topk_weights, handle), handle, None

    def combine(
        self, x: Tensor, handle: Handle, topk_weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, None]:
        """Sums over the ranks that a token was sent to."""
        assert x.dtype == torch.bfloat16
        return self._summed(x, handle), None if topk_weights is None else self._summed(topk_weights, handle), None

    def _sent(self, x: Tensor, handle: Handle) -> Tensor:
        rows = torch.cat([x[here] for here in handle.sent])
        out = x.new_empty(sum(handle.arrived), *x.shape[1:])
        dist.all_to_all_single(out, rows, handle.arrived, handle.sent.sum(1).tolist(), group=self.group)
        return out

    def _summed(self, x: Tensor, handle: Handle) -> Tensor:
        back = x.new_empty(int(handle.sent.sum()), *x.shape[1:])
        dist.all_to_all_single(back, x, handle.sent.sum(1).tolist(), handle.arrived, group=self.group)
        total = torch.zeros(handle.sent.shape[1], *x.shape[1:])
        token = handle.sent.nonzero()[:, 1]
        return total.index_add(0, token, back.float()).to(x.dtype)
