"""Where a model is cut into the stages of a pipeline: by counted operations, so that no rank waits for a slower one.

The first stage has the vision tower as well, the last one the head, and either may cost as much as many layers: at 70 %
visual tokens the tower is 37 % of the 30B-A3B's decoder, and two halves of the layers would load the first rank 1.7
times as much as the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean

from open4ov.errors import UserError
from open4ov.model.config import Config, TextConfig
from open4ov.model.flops import count

from .orders import check, rank_of

SLACK = 0.05
"""How much slower the slowest rank may be, as a share, for DeepStack's layers to stay with the tower"""


@dataclass(frozen=True)
class Costs:
    """Operations of a microbatch's forward and backward pass, or anything that grows with them."""

    layers: tuple[float, ...]
    """Of each decoder layer"""
    first: float = 0.0
    """What the first stage has besides its layers: the vision tower"""
    last: float = 0.0
    """What the last stage has besides its layers: the head"""

    def loads(self, borders: Sequence[int]) -> list[float]:
        """What each stage costs."""
        edges = [0, *borders, len(self.layers)]
        found = [sum(self.layers[a:b]) for a, b in pairwise(edges)]
        found[0] += self.first
        found[-1] += self.last
        return found


@dataclass(frozen=True)
class Cut:
    """The first layer of every stage but the first, and what stages and ranks cost then."""

    borders: tuple[int, ...]
    stages: tuple[float, ...]
    ranks: tuple[float, ...]

    @property
    def imbalance(self) -> float:
        """The slowest rank over the mean one; 1 where all cost the same."""
        return max(self.ranks) / fmean(self.ranks) if any(self.ranks) else 1.0


def typical(config: Config, tokens: int, visual: float = 0.5, targets: float = 0.25, tower: int = 3) -> Costs:
    """What a pack of so many tokens costs, nothing else being known of it: documents of up to 1024 tokens, a share
    `visual` of them in square pictures of 256 tokens, and a share `targets` predicted. tower: forward passes that the
    vision tower's work amounts to: 3 where it is trained, 1 where it is frozen, 0 where its features are given."""
    lengths = [1024] * (tokens // 1024) + [tokens % 1024] * (tokens % 1024 > 0)
    side = 16 * config.vision.spatial_merge_size
    pictures = max(1, round(visual * tokens / 256)) if visual else 0
    found = costs(config, lengths, [(1, side, side)] * pictures, round(targets * tokens), tower)
    exact = visual * tokens / (256 * pictures) if pictures else 0.0
    return replace(found, first=found.first * exact)


def costs(
    config: Config,
    lengths: Sequence[int],
    grids: Sequence[tuple[int, int, int]],
    predicted: int | None = None,
    tower: int = 3,
) -> Costs:
    """What a pack costs; `lengths`, `grids` and `predicted` as `flops.count` takes them, `tower` as `typical` does."""
    kinds = {sparse: _layer(config, sparse, lengths) for sparse in {*map(config.text.sparse, _numbers(config.text))}}
    whole = count(config, lengths, grids, predicted)
    return Costs(
        layers=tuple(3 * kinds[config.text.sparse(layer)] for layer in _numbers(config.text)),
        first=tower * whole.vision,
        last=3 * whole.head,
    )


def cut(costs: Costs, ranks: int, chunks: int = 1, schedule: str = "1f1b", taps: int = 0) -> Cut:
    """Cuts the layers into `ranks * chunks` stages, in the order of the model, none of them empty, so that the rank
    with most to do has as little as can be, and then the stage with most.

    It is the best cut when there is one stage a rank, and when all layers cost the same; otherwise borders are moved
    from a good one for as long as that helps. taps: layers that DeepStack adds visual tokens after. They all stay on
    the first stage with the tower, unless that makes the slowest rank more than 5 % slower; then what is still to be
    added goes from stage to stage.

    Raises UserError as `orders.check`, and for fewer layers than stages.
    """
    check(schedule, ranks, chunks)
    stages = ranks * chunks
    if stages > len(costs.layers):
        raise UserError(
            f"parallel.pp: {ranks} ranks of {chunks} stages each need {stages} layers, but the model has "
            f"{len(costs.layers)}; lower parallel.pp" + (" or parallel.chunks" if chunks > 1 else "")
        )
    owners = [rank_of(schedule, stage, ranks) for stage in range(stages)]
    best = _best(costs, ranks, owners, 1)
    kept = min(taps, len(costs.layers) - stages + 1)
    if kept < max(taps, 2) or _first(best) >= kept:
        return best
    together = _best(costs, ranks, owners, kept)
    return together if max(together.ranks) <= (1 + SLACK) * max(best.ranks) else best


def _numbers(text: TextConfig) -> range:
    return range(text.num_hidden_layers)


def _layer(config: Config, sparse: bool, lengths: Sequence[int]) -> float:
    """The forward pass of one decoder layer, with experts or without."""
    text = replace(config.text, num_hidden_layers=1, decoder_sparse_step=1, mlp_only_layers=() if sparse else (0,))
    vision = replace(config.vision, deepstack_visual_indexes=())
    return count(replace(config, text=text, vision=vision), lengths, predicted=0).forward


def _first(found: Cut) -> int:
    """Layers of the first stage."""
    return found.borders[0] if found.borders else 0


def _best(costs: Costs, ranks: int, owners: Sequence[int], least: int) -> Cut:
    """The best cut whose first stage has `least` layers or more."""
    if len(owners) == ranks:
        return _made(costs, ranks, owners, _partition(costs, ranks, least))
    return _improved(costs, ranks, owners, least, _made(costs, ranks, owners, _dealt(costs, ranks, owners, least)))


def _made(costs: Costs, ranks: int, owners: Sequence[int], borders: Sequence[int]) -> Cut:
    loads = costs.loads(borders)
    of_rank = [0.0] * ranks
    for owner, load in zip(owners, loads, strict=True):
        of_rank[owner] += load
    return Cut(tuple(borders), tuple(loads), tuple(of_rank))


def _partition(costs: Costs, stages: int, least: int) -> list[int]:
    """Borders between stages that each have a rank of their own: the smallest greatest load, by dynamic programming
    over (stages, layers that they hold)."""
    total = len(costs.layers)
    sums = [0.0]
    for layer in costs.layers:
        sums.append(sums[-1] + layer)
    best = [sums[n] + costs.first if least <= n else float("inf") for n in range(total + 1)]
    choices: list[list[int]] = []
    for stage in range(1, stages):
        extra = costs.last if stage == stages - 1 else 0.0
        now, choice = [float("inf")] * (total + 1), [0] * (total + 1)
        for n in range(stage + least, total + 1):
            for before in range(stage - 1 + least, n):
                load = max(best[before], sums[n] - sums[before] + extra)
                if load < now[n]:
                    now[n], choice[n] = load, before
        best = now
        choices.append(choice)
    borders: list[int] = []
    place = total
    for choice in reversed(choices):
        place = choice[place]
        borders.append(place)
    return borders[::-1]


def _dealt(costs: Costs, ranks: int, owners: Sequence[int], least: int) -> list[int]:
    """Borders by counts only, as if all layers cost their mean: each layer in turn goes to the rank that has least to
    do, and there to its stage with least. The best cut where they do cost the same."""
    mean = fmean(costs.layers)
    counts = [least, *[1] * (len(owners) - 1)]
    fixed = [costs.first, *[0.0] * (len(owners) - 2), costs.last]
    own = [[stage for stage, owner in enumerate(owners) if owner == rank] for rank in range(ranks)]

    def load(stages: Sequence[int]) -> float:
        return sum(fixed[stage] + mean * counts[stage] for stage in stages)

    for _ in range(len(costs.layers) - sum(counts)):
        rank = min(range(ranks), key=lambda rank: load(own[rank]))
        counts[min(own[rank], key=lambda stage: load([stage]))] += 1
    borders: list[int] = []
    for number in counts[:-1]:
        borders.append(number + (borders[-1] if borders else 0))
    return borders


def _improved(costs: Costs, ranks: int, owners: Sequence[int], least: int, found: Cut) -> Cut:
    """Borders moved, alone or several neighbours together, for as long as that makes the cut better."""
    while True:
        better = found
        for a in range(len(found.borders)):
            for b in range(a + 1, len(found.borders) + 1):
                for step in (-1, 1):
                    borders = [x + step if a <= i < b else x for i, x in enumerate(found.borders)]
                    edges = [0, *borders, len(costs.layers)]
                    if borders[0] >= least and all(x < y for x, y in pairwise(edges)):
                        better = min(better, _made(costs, ranks, owners, borders), key=_worst)
        if _worst(better) >= _worst(found):
            return found
        found = better


def _worst(found: Cut) -> tuple[float, float]:
    return max(found.ranks), max(found.stages)
