"""Losses whose words lie on several ranks, and what collectives do to gradients, against one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import world
from layouts import Of
from torch import Tensor

from open4ov.model import losses
from open4ov.parallel import collectives
from open4ov.parallel.loss import Words, nll_sum, score

VOCABULARY = 11  # no multiple of the ranks: the last has fewer words


def _inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    hidden, weight = torch.randn(7, 6, generator=generator), torch.randn(VOCABULARY, 6, generator=generator)
    ids = torch.tensor([0, 5, 6, 10, 3, 6, 1])
    return hidden.requires_grad_(), weight, ids, torch.linspace(-1, 2, 7)


def on_ranks() -> list[Tensor]:
    """Values and gradients, put together from all ranks: a weight's by words, a hidden state's as a sum of shares."""
    group = dist.group.WORLD
    assert group is not None
    words = Words.of(VOCABULARY, Of(group))
    found: list[Tensor] = []
    for temperature in (None, 1.0, 0.6):
        hidden, weight, ids, slope = _inputs()
        part = weight[words.first : words.first + words.most].clone().requires_grad_()
        if temperature is None:
            value = nll_sum(hidden, part, ids, words)
            value.backward()
            found.append(value.detach())
        else:
            log_p, entropy = score(hidden, part, ids, temperature, words)
            (log_p * slope).sum().backward()
            found += [log_p.detach(), entropy]
        assert hidden.grad is not None
        assert part.grad is not None
        dist.all_reduce(hidden.grad)
        parts: list[Any] = [None] * group.size()
        dist.all_gather_object(parts, part.grad)
        found += [hidden.grad, torch.cat(parts)]
    return found


def alone() -> list[Tensor]:
    found: list[Tensor] = []
    for temperature in (None, 1.0, 0.6):
        hidden, weight, ids, slope = _inputs()
        weight.requires_grad_()
        if temperature is None:
            value = losses.nll_sum(hidden, weight, ids)
            value.backward()
            found.append(value.detach())
        else:
            log_p, entropy = losses.score_by(weight, hidden, ids, temperature, keep=0)
            (log_p * slope).sum().backward()
            found += [log_p.detach(), entropy]
        assert hidden.grad is not None
        assert weight.grad is not None
        found += [hidden.grad, weight.grad]
    return found


def _several_chunks() -> list[Tensor]:
    losses.LOGITS_AT_ONCE["cpu"] = 12  # two targets at a time
    return on_ranks()


def adjoints() -> list[float]:
    """For each collective f: <f(x), y> - <x, f'(y)>, summed over ranks: zero for an adjoint. Those after which all
    ranks compute the same have the loss once, not once for each rank."""
    group = dist.group.WORLD
    assert group is not None
    ranks, generator = group.size(), torch.Generator().manual_seed(dist.get_rank())

    def difference(f: Any, shape: tuple[int, ...], same: bool = False, alike: bool = False) -> float:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(3) if alike else generator).requires_grad_()
        out = f(x)
        y = torch.randn(out.shape, generator=torch.Generator().manual_seed(9) if same else generator)
        (out * y).sum().backward()
        assert x.grad is not None
        sides = torch.stack([(out * y).sum().detach() / (ranks if same else 1), (x * x.grad).sum().detach()])
        if alike:  # one x, whose gradient every rank has
            sides[1] /= ranks
        dist.all_reduce(sides)
        return float(sides[0] - sides[1])

    return [
        difference(lambda x: collectives.all_gather(x, group, 1), (2, 3)),
        difference(lambda x: collectives.all_gather_same(x, group), (2, 3), same=True),
        difference(lambda x: collectives.reduce_scatter(x, group, 1), (2, 4 * ranks)),
        difference(lambda x: collectives.all_reduce(x, group), (3,), same=True),
        difference(lambda x: collectives.shared(x, group), (3,), alike=True),
        difference(lambda x: collectives.scatter(x, group), (2 * ranks, 3), alike=True),
        difference(lambda x: collectives.all_to_all(x, group, 1, 0), (3, 2 * ranks, 2)),
    ]


def together() -> tuple[list[Tensor], list[Tensor], list[float]]:
    return on_ranks(), _several_chunks(), adjoints()


@pytest.mark.distributed
def test_losses_and_adjoints() -> None:
    wanted = alone()
    for found, chunked, differences in world.run(together, 2):
        for values in (found, chunked):
            for a, b in zip(values, wanted, strict=True):
                torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)
        assert max(map(abs, differences)) < 1e-4, differences
