"""Dispatch by DeepEP (github.com/deepseek-ai/DeepEP): its kernels send each token once to every rank that has any of
its experts, over NVLink and RDMA, and add up there what comes back.

Written against the interface that its documentation gives for version 2 (`ElasticBuffer`), with the package neither
installed nor run: no machine here has the GPUs (Hopper, NVLink among all of them) that it needs. Compare it with
`all_to_all` before you trust it.

Shapes: T tokens of this rank, D hidden, k experts a token, E experts, R tokens that arrive, B assignments among them.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from open4ov.errors import UserError
from open4ov.model.moe import tally

from .expert_layer import ParallelMoE

PACKAGE = "deep_ep"
STEP = 1024
"""Buffers have room for a multiple of so many tokens"""
_BUFFERS: dict[tuple[Any, ...], tuple[int, Any]] = {}
"""(group, D, k) -> tokens that there is room for, and the buffer: one for all layers, which compute in turn"""


class DeepEP(ParallelMoE):
    """Tokens travel, and each rank weighs and adds up what its experts made of a token. In bfloat16."""

    package: Any

    def prepare(self) -> None:
        """Raises UserError where DeepEP is not installed, and where there is no CUDA."""
        if self.ep is None:
            return
        if not torch.cuda.is_available():
            raise UserError("parallel.dispatch: deepep needs CUDA GPUs; use all_to_all")
        try:
            package = importlib.import_module(PACKAGE)
        except ImportError as error:
            raise UserError(
                f"parallel.dispatch: deepep needs the package {PACKAGE} ({error}); install it from "
                "github.com/deepseek-ai/DeepEP, or use all_to_all"
            ) from None
        if not hasattr(package, "ElasticBuffer"):
            raise UserError("parallel.dispatch: deepep needs version 2 of DeepEP (ElasticBuffer); use all_to_all")
        self.package = package

    def combined(self, x: Tensor, weights: Tensor, chosen: Tensor, counts: Tensor) -> Tensor:
        if self.ep is None:
            return super().combined(x, weights, chosen, counts)
        if torch.is_grad_enabled() and not x.requires_grad:
            x = x.detach().requires_grad_()  # every rank's backward pass must answer the others'
        travel = _Travel(self._buffer(len(x), x.shape[1]), len(counts))
        here, shares, experts = travel.there(x.bfloat16(), weights.float(), chosen)
        token, slot = (experts >= 0).nonzero(as_tuple=True)
        expert = experts[token, slot]
        order = expert.argsort(stable=True)
        token, slot = token[order], slot[order]
        out = self.products(here[token], tally(expert, len(counts) // self.ep.size()))
        out = out * shares[token, slot, None].to(out.dtype)
        summed = torch.zeros_like(here, dtype=torch.float32).index_add(0, token, out.float())
        return travel.back(summed.bfloat16()).to(x.dtype)

    def _buffer(self, tokens: int, hidden: int) -> Any:
        """Room for as many tokens as any rank of the group has in this pass, which they ask one another."""
        assert self.ep is not None
        most = torch.tensor([tokens], device=self.router.device)
        dist.all_reduce(most, dist.ReduceOp.MAX, group=self.ep)
        key = (self.ep, hidden, self.top_k)
        room, buffer = _BUFFERS.get(key, (0, None))
        if room < (needed := int(most.item())):
            room = -(-needed // STEP) * STEP
            buffer = self.package.ElasticBuffer(
                self.ep, num_max_tokens_per_rank=room, hidden=hidden, num_topk=self.top_k, use_fp8_dispatch=False
            )
            _BUFFERS[key] = room, buffer  # what is under way keeps the one before
        return buffer


class _Travel:
    """The way of one pass's tokens, there and back. The gradient of each way is the other one."""

    def __init__(self, buffer: Any, experts: int) -> None:
        self.buffer, self.experts = buffer, experts
        self.handle: Any = None

    def there(self, x: Tensor, weights: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [T, D], weights and chosen [T, k] -> x [R, D], weights [R, k], and the experts [R, k] as this rank numbers
        them, -1 for those of other ranks."""
        here, shares, experts = _There.apply(self, x, weights, chosen)  # pyright: ignore[reportGeneralTypeIssues]
        return here, shares, experts

    def back(self, x: Tensor) -> Tensor:
        """x [R, D] -> the sums [T, D] over the ranks that a token went to."""
        return _Back.apply(self, x)  # pyright: ignore[reportReturnType]


class _There(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, travel: _Travel, x: Tensor, weights: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        here, experts, shares, travel.handle, _ = travel.buffer.dispatch(
            x.contiguous(), topk_idx=chosen, topk_weights=weights.contiguous(), num_experts=travel.experts
        )
        ctx.travel = travel
        ctx.mark_non_differentiable(experts)
        return here, shares, experts

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor, None]:
        here, shares, _ = gradients
        x, weights, _ = ctx.travel.buffer.combine(
            here.contiguous(), handle=ctx.travel.handle, topk_weights=shares.contiguous()
        )
        return None, x, weights, None


class _Back(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, travel: _Travel, x: Tensor) -> Tensor:
        ctx.travel = travel
        return travel.buffer.combine(x.contiguous(), handle=travel.handle)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        handle = ctx.travel.handle
        return None, ctx.travel.buffer.dispatch(gradients[0].contiguous(), handle=handle, num_sms=handle.num_sms)[0]
