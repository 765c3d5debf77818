"""Attention kernels: every one equals SDPA on one document after another, alone and inside the whole model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import conversations
from tiny import moe_config

from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL, attention, pack
from open4ov.model.attention import KERNELS, Documents, attend
from open4ov.model.text import TextAttention
from open4ov.model.vision import VisionAttention

LENGTHS = [[7], [5, 5, 5], [1, 9, 4, 1], [3, 130, 2]]


def documents(lengths: list[int]) -> Documents:
    return Documents.of(torch.tensor([0, *lengths]).cumsum(0))


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kernel", ["padded", "grouped", "flex"])
def test_kernels_equal_the_definition(kernel: str, causal: bool, lengths: list[int]) -> None:
    torch.manual_seed(0)
    tokens = sum(lengths)
    trained = kernel != "flex"  # it has no backward pass on a CPU
    q, k, v = (torch.randn(tokens, heads, 16, requires_grad=trained) for heads in (4, 2, 2))
    up = torch.randn(tokens, 64)
    results: list[list[torch.Tensor]] = []
    for name in ("sdpa", kernel):
        out = attend(q, k, v, documents(lengths), causal, name)
        results.append([out.detach(), *(torch.autograd.grad(out, (q, k, v), up) if trained else ())])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_the_definition_by_hand(causal: bool) -> None:
    """One head of one document against softmax(q k' / sqrt d) v in float64."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(9, 1, 8) for _ in range(3))
    found = attend(q, k, v, documents([4, 5]), causal, "sdpa")
    for first, last in ((0, 4), (4, 9)):
        a, b, c = (x[first:last, 0].double() for x in (q, k, v))
        scores = a @ b.T / 8**0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -torch.inf)
        torch.testing.assert_close(found[first:last], (scores.softmax(-1) @ c).float(), rtol=1e-5, atol=1e-6)


def test_documents_of_equal_length_need_no_mask() -> None:
    assert documents([3, 3]).mask is None
    unequal = documents([1, 3])
    assert unequal.mask is not None
    assert unequal.mask.flatten().tolist() == [True, False, False, True, True, True]
    assert unequal.pad.tolist() == [[0, 0, 0], [1, 2, 3]]
    assert unequal.unpad.tolist() == [0, 3, 4, 5]


def test_documents_of_like_length_are_padded_together() -> None:
    """Two long documents and two short ones; the group of a few tokens (FEW) takes all that are shorter."""
    groups = documents([30, 100, 3, 80]).groups
    assert groups is not None
    assert groups.shapes == ((2, 100), (2, 30))
    assert groups.masks[0] is not None
    assert groups.masks[0].sum((1, 2, 3)).tolist() == [100, 80]
    assert groups.pad[groups.unpad].tolist() == list(range(213))
    assert groups.pad[:3].tolist() == [30, 31, 32]  # the second document is the longest
    assert documents([30, 3, 20]).groups is None
    assert documents([100, 90, 80]).groups is None


@pytest.mark.parametrize("kernel", ["sdpa", "padded", "grouped"])
@pytest.mark.parametrize("experts", [False, True], ids=["dense", "experts"])
def test_packed_loss_and_gradients_equal_unpacked(tiny_dir: Path, kernel: str, experts: bool) -> None:
    """All conversations in one pack, against one document after another by the reference kernel."""
    processor = Processor.from_pretrained(tiny_dir)
    model = Qwen3VL(moe_config(processor), seed=2) if experts else Qwen3VL.from_pretrained(tiny_dir)
    batch = conversations(processor)["batch"]
    assert len(batch) > 2
    assert any(len(document.grids) for document in batch)
    targets = sum(len(pack([document]).predicted) for document in batch)

    attention.use(model, "sdpa")
    apart = torch.stack([model.loss(pack([d])) * len(pack([d]).predicted) for d in batch]).sum() / targets
    apart.backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)

    attention.use(model, kernel)
    together = model.loss(pack(batch))
    together.backward()
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_inside_the_model(tiny_dir: Path) -> None:
    model, batch = Qwen3VL.from_pretrained(tiny_dir), pack(conversations(Processor.from_pretrained(tiny_dir))["batch"])
    with torch.no_grad():
        attention.use(model, "sdpa")
        expected = model.hidden_states(batch)
        attention.use(model, "flex")
        torch.testing.assert_close(model.hidden_states(batch), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="no backward pass on a CPU; train with 'padded'"):
        model.loss(batch)


def test_use_reaches_every_attention(tiny_dir: Path) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    attention.use(model, "flex")
    found = [m.kernel for m in model.modules() if isinstance(m, TextAttention | VisionAttention)]
    assert found == ["flex"] * 6


def test_what_is_not_there_is_named(tiny_dir: Path) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    with pytest.raises(UserError, match=r"'padding'; did you mean 'padded'\?.*varlen"):
        attention.use(model, "padding")
    q = torch.randn(4, 2, 16)
    with pytest.raises(UserError, match=r"varlen.*float32 on cpu; use 'padded'"):
        attend(q, q, q, documents([4]), True, "varlen")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kernel", sorted({*KERNELS} - {"sdpa"}))
@pytest.mark.parametrize("causal", [True, False])
def test_kernels_on_cuda(kernel: str, causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(300, heads, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2)
    )
    layout = documents([100, 7, 193]).to("cuda")
    up = torch.randn(300, 256, device="cuda", dtype=torch.bfloat16)
    results = [
        [out, *torch.autograd.grad(out, (q, k, v), up)]
        for out in (attend(q, k, v, layout, causal, name) for name in ("sdpa", kernel))
    ]
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
