"""Attention over packed tokens: documents lie end to end in [T, ...] and look at themselves only.

How it is computed has a name (`KERNELS`) and every attention module carries one; `use` sets it from outside:
`padded` lays documents side by side in [B, L, ...] for SDPA and takes the padding out again; `grouped` does so with
documents of like length, group by group; `sdpa` calls SDPA for one document after another, which is the definition;
`varlen` is PyTorch's variable-length flash attention and `flex` its FlexAttention, both without any padding. `auto` is
`varlen` in half precision on CUDA, `grouped` on a CPU, `padded` elsewhere.

Shapes: T tokens in the pack, B documents, L longest document, H heads, K key-value heads, d head dim, S cached tokens.
Padding sits at the end of a row: causal attention never looks there, bidirectional attention masks it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from open4ov.errors import UserError, nearest

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

SHORT = 256
"""Documents up to this many tokens take the explicit product on a CPU in half precision, where SDPA is several times
slower, in decoding and in its backward pass; longer ones would need too much memory."""
LIKE, FEW = 0.75, 32
"""Documents form a group as long as the shortest has this share of the longest's length; those of a few tokens are not
parted any more."""


class Attention(nn.Module):
    """What every attention module of the model is: it computes with the kernel of that name."""

    kernel: str = "auto"


def use(model: nn.Module, kernel: str) -> None:
    """From now on every attention of the model is computed by the kernel of that name (`auto` or one of `KERNELS`). A
    pass over a `Memory` (generation, shared prefixes) attends as that memory does; the engine's begins prompts with
    the decoder's kernel.

    Raises UserError for a name that is not known.
    """
    if kernel not in ("auto", *KERNELS):
        known = ", ".join(("auto", *KERNELS))
        raise UserError(f"attention: no kernel is called '{kernel}'{nearest(kernel, KERNELS)}; there are {known}")
    for module in model.modules():
        if isinstance(module, Attention):
            module.kernel = kernel


def chosen(model: nn.Module) -> str:
    """The name of the kernel that the first attention of the model computes with."""
    return next(module.kernel for module in model.modules() if isinstance(module, Attention))


class Groups(NamedTuple):
    """The documents of a pack in groups of like length, each padded by itself: attention costs the square of the length
    to which a document is padded, so that among short ones a single long one would cost as much as if all were long.

    S: slots of all groups, G: groups.
    """

    pad: Tensor
    """Long [S]: the token of each slot, group after group; a padding slot repeats token 0"""
    unpad: Tensor
    """Long [T]: the slot of each token"""
    shapes: tuple[tuple[int, int], ...]
    """Documents of each group, and its longest"""
    masks: tuple[Tensor | None, ...]
    """Of each group as `Documents.mask`"""

    @staticmethod
    def of(cu_seqlens: Tensor) -> Groups | None:
        """None when all documents make one group."""
        lengths: list[int] = cu_seqlens.diff().tolist()
        order = sorted(range(len(lengths)), key=lambda document: -lengths[document])
        members: list[list[int]] = []
        for document in order:
            longest = lengths[members[-1][0]] if members else 0
            if not members or (longest > FEW and lengths[document] < LIKE * longest):
                members.append([])
            members[-1].append(document)
        if len(members) == 1:
            return None
        device, starts = cu_seqlens.device, cu_seqlens[:-1]
        pads, masks, shapes = [], [], []
        for group in members:
            chosen, longest = torch.tensor(group, device=device), lengths[group[0]]
            columns = torch.arange(longest, device=device)
            real = columns < cu_seqlens.diff()[chosen, None]
            pads.append(torch.where(real, starts[chosen, None] + columns, -1).flatten())
            masks.append(None if bool(real.all()) else real[:, None, None])
            shapes.append((len(group), longest))
        pad = torch.cat(pads)
        slots = (pad >= 0).nonzero()[:, 0]
        unpad = torch.empty_like(slots).index_copy_(0, pad[slots], slots)
        return Groups(pad.clamp_(min=0), unpad, tuple(shapes), tuple(masks))

    def to(self, device: torch.device | str) -> Groups:
        masks = tuple(None if mask is None else mask.to(device) for mask in self.masks)
        return Groups(self.pad.to(device), self.unpad.to(device), self.shapes, masks)


class Documents(NamedTuple):
    """Where the documents of a pack begin and end, and how they are laid side by side."""

    cu_seqlens: Tensor
    """Long [B + 1]: document b holds the tokens cu_seqlens[b] .. cu_seqlens[b + 1] - 1"""
    pad: Tensor
    """Long [B, L]: the token of each padded slot; a padding slot repeats token 0"""
    unpad: Tensor
    """Long [T]: the padded slot of each token"""
    mask: Tensor | None
    """Bool [B, 1, 1, L]: which slots are tokens; None when all are, as all documents have equal length"""
    groups: Groups | None
    """The same in groups of like length; None when one group holds all"""

    @staticmethod
    def of(cu_seqlens: Tensor) -> Documents:
        starts, lengths = cu_seqlens[:-1], cu_seqlens.diff()
        columns = torch.arange(int(lengths.max()), device=cu_seqlens.device)
        real = columns < lengths[:, None]
        pad = torch.where(real, starts[:, None] + columns, 0)
        unpad = real.flatten().nonzero()[:, 0]
        if len(unpad) == pad.numel():
            return Documents(cu_seqlens, pad, unpad, None, None)
        return Documents(cu_seqlens, pad, unpad, real[:, None, None], Groups.of(cu_seqlens))

    def to(self, device: torch.device | str) -> Documents:
        mask = None if self.mask is None else self.mask.to(device)
        groups = None if self.groups is None else self.groups.to(device)
        return Documents(self.cu_seqlens.to(device), self.pad.to(device), self.unpad.to(device), mask, groups)


def attend(q: Tensor, k: Tensor, v: Tensor, documents: Documents, causal: bool, kernel: str = "auto") -> Tensor:
    """Attention inside each document. q [T, H, d], k and v [T, K, d] -> [T, H * d].

    `causal`: a token looks at itself and what stands before it; otherwise at all of its document.
    """
    if kernel == "auto":
        half = q.dtype in (torch.bfloat16, torch.float16)
        kernel = "grouped" if q.device.type == "cpu" else "varlen" if q.is_cuda and half else "padded"
    return KERNELS[kernel](q, k, v, documents, causal)


def padded(q: Tensor, k: Tensor, v: Tensor, documents: Documents, causal: bool) -> Tensor:
    q, k, v = (to_padded(x, documents) for x in (q, k, v))
    return to_packed(attend_rows(q, k, v, causal, None if causal else documents.mask), documents)


def grouped(q: Tensor, k: Tensor, v: Tensor, documents: Documents, causal: bool) -> Tensor:
    if documents.groups is None:
        return padded(q, k, v, documents, causal)
    return _by_group(q, k, v, documents.groups, causal)  # pyright: ignore[reportCallIssue]


@torch.compiler.disable  # groups differ in number from pack to pack: each number would be compiled anew
def _by_group(q: Tensor, k: Tensor, v: Tensor, groups: Groups, causal: bool) -> Tensor:
    sizes = [documents * longest for documents, longest in groups.shapes]
    parts = [_Pad.apply(x, groups.pad, groups.unpad).split(sizes) for x in (q, k, v)]  # pyright: ignore[reportOptionalMemberAccess]
    out: list[Tensor] = []
    for shape, mask, *xs in zip(groups.shapes, groups.masks, *parts, strict=True):
        rows = [x.view(*shape, *x.shape[1:]).transpose(1, 2) for x in xs]
        seen = attend_rows(rows[0], rows[1], rows[2], causal, None if causal else mask)
        out.append(seen.transpose(1, 2).flatten(0, 1))
    packed: Tensor = _Unpad.apply(torch.cat(out), groups.pad, groups.unpad)  # pyright: ignore[reportAssignmentType]
    return packed.flatten(1)


def sdpa(q: Tensor, k: Tensor, v: Tensor, documents: Documents, causal: bool) -> Tensor:
    lengths: list[int] = documents.cu_seqlens.diff().tolist()
    out: list[Tensor] = []
    for parts in zip(*(x.transpose(0, 1).split(lengths, dim=1) for x in (q, k, v)), strict=True):
        gqa = q.shape[1] != k.shape[1]
        out.append(F.scaled_dot_product_attention(*parts, is_causal=causal, enable_gqa=gqa))
    return torch.cat(out, dim=1).transpose(0, 1).flatten(1)


def varlen(q: Tensor, k: Tensor, v: Tensor, documents: Documents, causal: bool) -> Tensor:
    if not q.is_cuda or q.dtype not in (torch.bfloat16, torch.float16):
        raise UserError(
            f"attention: 'varlen' computes in half precision on CUDA, not in {q.dtype} on {q.device.type}; use 'padded'"
        )
    from torch.nn.attention.varlen import varlen_attn  # brings the compiler in: seconds

    ends, longest = documents.cu_seqlens.int(), documents.pad.shape[1]
    window = (-1, 0) if causal else (-1, -1)
    gqa = q.shape[1] != k.shape[1]
    out = varlen_attn(q, k, v, ends, ends, longest, longest, window_size=window, enable_gqa=gqa)
    assert isinstance(out, Tensor), out
    return out.flatten(1)


def flex(q: Tensor, k: Tensor, v: Tensor, documents: Documents, causal: bool) -> Tensor:
    if not q.is_cuda and torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise UserError("attention: 'flex' has no backward pass on a CPU; train with 'padded'")
    from torch.nn.attention.flex_attention import flex_attention

    compute = _compiled_flex() if q.is_cuda else flex_attention
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    mask = _block_mask(documents, causal)
    out: Tensor = compute(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])  # pyright: ignore[reportAssignmentType]
    return out[0].transpose(0, 1).flatten(1)


Kernel = Callable[[Tensor, Tensor, Tensor, Documents, bool], Tensor]
KERNELS: dict[str, Kernel] = {"padded": padded, "grouped": grouped, "sdpa": sdpa, "varlen": varlen, "flex": flex}
"""How attention is computed, by name: (q [T, H, d], k, v [T, K, d], documents, causal) -> [T, H * d]."""

_block_masks: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""FlexAttention's masks by the borders of the documents: one serves all layers of a pack, and goes with it."""


def _block_mask(documents: Documents, causal: bool) -> BlockMask:
    from torch.nn.attention.flex_attention import create_block_mask

    masks: dict[bool, BlockMask] | None = _block_masks.get(documents.cu_seqlens)
    if masks is None:
        masks = _block_masks[documents.cu_seqlens] = {}
    if causal not in masks:
        lengths, tokens = documents.cu_seqlens.diff(), len(documents.unpad)
        owner = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)

        def may_look(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same = owner[query] == owner[key]
            return same & (query >= key) if causal else same

        masks[causal] = create_block_mask(may_look, None, None, tokens, tokens, device=lengths.device)
    return masks[causal]


@cache
def _compiled_flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


class _Pad(torch.autograd.Function):
    """Packed to padded. The gradient is a plain gather: padding slots carry none (an index_add would be slow)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pad: Tensor, unpad: Tensor) -> Tensor:
        ctx.save_for_backward(unpad)
        ctx.last = pad.dim() - 1
        return x.index_select(0, pad.flatten()).view(*pad.shape, *x.shape[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (unpad,) = ctx.saved_tensors
        return gradients[0].flatten(0, ctx.last).index_select(0, unpad), None, None


class _Unpad(torch.autograd.Function):
    """Padded to packed; padding slots get zero gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pad: Tensor, unpad: Tensor) -> Tensor:
        ctx.save_for_backward(pad, unpad)
        return x.flatten(0, pad.dim() - 1).index_select(0, unpad)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        pad, unpad = ctx.saved_tensors
        gradient = gradients[0]
        padded = gradient.new_zeros(pad.numel(), *gradient.shape[1:]).index_copy(0, unpad, gradient)
        return padded.view(*pad.shape, *gradient.shape[1:]), None, None


def to_padded(x: Tensor, documents: Documents) -> Tensor:
    """x [T, heads, d] -> [B, heads, L, d]."""
    if documents.mask is None:
        return x.view(*documents.pad.shape, *x.shape[1:]).transpose(1, 2)
    padded: Tensor = _Pad.apply(x, documents.pad, documents.unpad)  # pyright: ignore[reportAssignmentType]
    return padded.transpose(1, 2)


def to_packed(x: Tensor, documents: Documents) -> Tensor:
    """x [B, heads, L, d] -> [T, heads * d]."""
    x = x.transpose(1, 2)
    if documents.mask is None:
        return x.reshape(len(documents.unpad), -1)
    packed: Tensor = _Unpad.apply(x, documents.pad, documents.unpad)  # pyright: ignore[reportAssignmentType]
    return packed.flatten(1)


def cached(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, documents: Documents) -> Tensor:
    """New tokens against keys and values that already hold theirs. q [T, H, d], keys and values [B, K, S, d],
    mask [B, 1, L, S] (True: may look; on a GPU also what is added to the scores) -> [T, H * d]."""
    return to_packed(attend_rows(to_padded(q, documents), keys, values, mask=mask), documents)


def attend_rows(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, mask: Tensor | None = None) -> Tensor:
    """q [B, H, L, d], k and v [B, K, S, d], `mask` broadcastable to [B, 1, L, S] (True: may look) -> [B, H, L, d]."""
    if q.device.type == "cpu" and q.dtype != torch.float32 and k.shape[2] <= SHORT:
        return _explicit(q, k, v, causal, mask)
    gqa = q.shape[1] != k.shape[1]
    if gqa and q.is_cuda and q.shape[2] == 1:  # the queries of a key-value head as its rows: kernels take a mask then
        return F.scaled_dot_product_attention(q.reshape(*k.shape[:2], -1, q.shape[3]), k, v, mask).reshape(q.shape)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=gqa)


def _explicit(q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
    """The same by its definition, softmax in float32; a key-value head meets all its queries in one product."""
    length, seen = q.shape[2], k.shape[2]
    if causal:
        mask = torch.ones(length, seen, dtype=torch.bool, device=q.device).tril()
    bias = None if mask is None else torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, -torch.inf)
    out: Tensor = _Explicit.apply(q, k, v, bias)  # pyright: ignore[reportAssignmentType]
    return out


class _Explicit(torch.autograd.Function):
    """Keeps queries, keys, values and the weights in their own type."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        shape, kv_shape = q.shape, k.shape
        q, k, v = (x.reshape(kv_shape[0] * kv_shape[1], -1, shape[3]) for x in (q, k, v))
        scores = torch.bmm(q, k.transpose(1, 2)).float().mul_(shape[3] ** -0.5)
        if bias is not None:
            scores.view(*shape[:3], -1).add_(bias)
        weights = scores.softmax(-1).to(q.dtype)
        ctx.save_for_backward(q, k, v, weights)
        ctx.shapes = shape, kv_shape
        return torch.bmm(weights, v).view(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, weights = ctx.saved_tensors
        shape, kv_shape = ctx.shapes
        up = gradients[0].reshape(q.shape)
        of_v = torch.bmm(weights.transpose(1, 2), up)
        of_weights = torch.bmm(up, v.transpose(1, 2)).float()
        exact = weights.float()
        mean = (of_weights * exact).sum(-1, keepdim=True)
        of_scores = of_weights.sub_(mean).mul_(exact).mul_(shape[3] ** -0.5).to(q.dtype)
        of_q, of_k = torch.bmm(of_scores, k), torch.bmm(of_scores.transpose(1, 2), q)
        return of_q.view(shape), of_k.view(kv_shape), of_v.view(kv_shape), None
