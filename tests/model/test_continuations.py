"""Attention of continuations over a shared prompt: against its definition, continuation by continuation, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from open4ov.model import continuations
from open4ov.model.continuations import Continuations

PARTS = ("q", "k", "v", "shared k", "shared v")


def by_definition(q: Tensor, k: Tensor, v: Tensor, shared: tuple[Tensor, Tensor], groups: list[tuple[int, list[int]]]):
    """Each continuation by itself behind a copy of its prompt, softmax written out."""
    out, prompt, token = [], 0, 0
    for length, own in groups:
        for tokens in own:
            mine = slice(token, token + tokens)
            keys, values = (
                torch.cat([s[prompt : prompt + length], x[mine]]).repeat_interleave(q.shape[1] // k.shape[1], dim=1)
                for s, x in zip(shared, (k, v), strict=True)
            )
            scores = torch.einsum("qhd,khd->hqk", q[mine], keys) * q.shape[-1] ** -0.5
            seen = torch.ones(tokens, length + tokens, dtype=torch.bool).tril(length)
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            out.append(torch.einsum("hqk,khd->qhd", weights, values).flatten(1))
            token += tokens
        prompt += length
    return torch.cat(out)


def made(groups: list[tuple[int, list[int]]], heads: int, kv_heads: int, size: float = 1.0) -> list[Tensor]:
    """q, k, v, shared k, shared v in float64."""
    generator = torch.Generator().manual_seed(sum(map(sum, (own for _, own in groups))))
    prompts, own = sum(length for length, _ in groups), sum(sum(lengths) for _, lengths in groups)
    shapes = [(own, heads), (own, kv_heads), (own, kv_heads), (prompts, kv_heads), (prompts, kv_heads)]
    return [size * torch.randn(*shape, 16, generator=generator, dtype=torch.float64) for shape in shapes]


def layout_of(groups: list[tuple[int, list[int]]]) -> Continuations:
    prompt_of = torch.tensor([g for g, (_, own) in enumerate(groups) for _ in own])
    lengths = torch.tensor([tokens for _, own in groups for tokens in own])
    return Continuations.of(torch.tensor([length for length, _ in groups]), lengths, prompt_of)


def compared(groups: list[tuple[int, list[int]]], heads: int, kv_heads: int, dtype: torch.dtype, size: float = 1.0):
    exact = [x.requires_grad_() for x in made(groups, heads, kv_heads, size)]
    rough = [x.detach().to(dtype).requires_grad_() for x in exact]
    expected = by_definition(*exact[:3], (exact[3], exact[4]), groups)
    found = continuations.attend(*rough[:3], (rough[3], rough[4]), layout_of(groups))
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-4)
    weights = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    (expected * weights).sum().backward()
    (found * weights.to(found.dtype)).sum().backward()
    for name, one, other in zip(PARTS, rough, exact, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(
            one.grad.double(), other.grad, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n} {m}"
        )


GROUPS = {
    "one": [(5, [3])],
    "equal": [(9, [4, 4, 4, 4]), (9, [4, 4, 4, 4])],
    "uneven": [(7, [1, 6, 3]), (1, [2]), (40, [5, 1, 1, 8, 2])],
    "long and short": [(130, [200, 3, 70, 90]), (64, [33, 1])],  # in several groups of like length
    "longer than the explicit product takes": [(140, [280, 90, 3]), (20, [270])],
}


@pytest.fixture(autouse=True)
def never_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """In two parts however short the prompts are."""
    monkeypatch.setattr(continuations, "COPIED", 0)


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS.keys())
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
def test_equals_its_definition(groups: list[tuple[int, list[int]]], heads: int, kv_heads: int) -> None:
    compared(groups, heads, kv_heads, torch.float32)


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS.keys())
def test_with_the_prompts_keys_before_each(
    groups: list[tuple[int, list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of short prompts, and of other devices and types."""
    compared(groups, 4, 2, torch.float64)
    monkeypatch.setattr(continuations, "COPIED", 10_000)
    compared(groups, 4, 2, torch.float32)


def test_scores_of_any_size_leave_no_trace_in_padding() -> None:
    """Padding slots hold another continuation's token, whose scores may be far from theirs."""
    compared([(6, [40, 2, 1]), (3, [90, 5])], 4, 2, torch.float32, size=3.0)


@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.lists(st.integers(1, 50), min_size=1, max_size=4)), min_size=1, max_size=3
    )
)
def test_any_lengths(groups: list[tuple[int, list[int]]]) -> None:
    compared(groups, 4, 2, torch.float32)


def test_the_prompts_keys_are_not_copied() -> None:
    """What is kept for the gradient does not grow with the number of continuations times the prompt."""
    groups = [(400, [2] * 16)]
    q, k, v, *shared = (x.float().requires_grad_() for x in made(groups, 4, 2))
    sizes: list[int] = []

    def keep(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        continuations.attend(q, k, v, (shared[0], shared[1]), layout_of(groups))
    assert sum(sizes) < 3 * sum(x.numel() for x in (q, k, v, *shared))


def test_a_head_that_is_a_weight_scores_as_any_head_does() -> None:
    """`score_by` against `score` on the same logits, chunk by chunk and at once, kept and computed again."""
    from open4ov.model import losses

    generator = torch.Generator().manual_seed(0)
    weight, ids = torch.randn(50, 8, generator=generator), torch.randint(0, 50, (23,), generator=generator)
    hidden = torch.randn(23, 8, generator=generator)
    up = torch.linspace(-2, 1, 23)
    found = []
    for keep, chunk in ((None, 0), (10**6, 10**6), (10**6, 150), (0, 150)):
        w, h = weight.clone().requires_grad_(), hidden.clone().requires_grad_()
        if keep is None:
            values, entropies = losses.score(lambda part, w=w: F.linear(part, w), h, ids, 0.6, 23)
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(losses, "LOGITS_AT_ONCE", {"cpu": chunk})
                values, entropies = losses.score_by(w, h, ids, 0.6, keep)
                (values * up).sum().backward()
                found.append((values, entropies, w.grad, h.grad))
            assert not entropies.requires_grad
            continue
        (values * up).sum().backward()
        found.append((values, entropies, w.grad, h.grad))
    for other in found[1:]:
        for one, expected in zip(other, found[0], strict=True):
            torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-4)
