"""Pictures shared out to the ranks that share a pack: features and the tower's gradient are those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import world
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from open4ov.model import Qwen3VL
from open4ov.parallel import pictures

GRIDS = [[1, 4, 6], [1, 2, 2], [2, 4, 4], [1, 8, 2], [1, 2, 6]]


def batch(grids: list[list[int]], patch_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """pixels, grids, and what each number of the features is weighted with."""
    generator = torch.Generator().manual_seed(3)
    patches = sum(t * h * w for t, h, w in grids)
    pixels = torch.randn(patches, patch_dim, generator=generator)
    return pixels, torch.tensor(grids), torch.randn(3, patches // 4, 48, generator=generator)


def objective(features: list[Tensor], weights: Tensor, part: slice) -> Tensor:
    return sum(((x.tanh() * w)[part].sum() for x, w in zip(features, weights, strict=True)), torch.zeros(()))


def encoded(directory: Path, grids: list[list[int]]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """On each rank: the features, and the tower's gradient of the tokens that are this rank's."""
    model = Qwen3VL.from_pretrained(directory)
    pictures.apply(model.vision, model.config, dist.group.WORLD)
    pixels, sizes, weights = batch(grids, model.config.vision.patch_dim)
    features = model.encode_images(pixels, sizes)
    both = [features.merged, *features.deepstack]
    rank, size = dist.get_rank(), dist.get_world_size()
    length = len(features.merged)
    objective(both, weights, slice(rank * length // size, (rank + 1) * length // size)).backward()
    return [x.detach() for x in both], {n: p.grad for n, p in model.vision.named_parameters() if p.grad is not None}


@pytest.mark.distributed
@pytest.mark.parametrize("grids", [GRIDS, GRIDS[:1]], ids=["five", "fewer than ranks"])
def test_as_in_one_process(tiny_dir: Path, grids: list[list[int]]) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    pixels, sizes, weights = batch(grids, model.config.vision.patch_dim)
    features = model.encode_images(pixels, sizes)
    expected = [features.merged, *features.deepstack]
    objective(expected, weights, slice(None)).backward()
    results = world.run(encoded, 3, tiny_dir, grids)
    for found, _ in results:
        for own, right in zip(found, expected, strict=True):
            torch.testing.assert_close(own, right.detach(), atol=1e-6, rtol=0)
    for name, parameter in model.vision.named_parameters():
        assert parameter.grad is not None
        total = sum(gradients[name] for _, gradients in results)  # every rank has one of each, of zero at least
        scale = parameter.grad.abs().max()
        assert (total - parameter.grad).abs().max() <= 1e-5 * scale, name


@given(st.lists(st.floats(min_value=0, max_value=1e12), max_size=30), st.integers(1, 8))
def test_each_picture_once(costs: list[float], ranks: int) -> None:
    shares = pictures.share(costs, ranks)
    assert sorted(number for own in shares for number in own) == list(range(len(costs)))
    assert all(own == sorted(own) for own in shares)
    sums = [sum(costs[number] for number in own) for own in shares]
    lowest = max(sum(costs) / ranks, max(costs, default=0))  # no sharing is below it
    assert max(sums) <= lowest * (2 - 1 / ranks) + 1e-9 * sum(costs)
