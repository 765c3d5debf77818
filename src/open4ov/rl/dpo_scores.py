"""Log-probabilities of both responses of preference pairs: prompt and picture are computed once for the two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

import torch
from torch import Tensor

from open4ov import training
from open4ov.engine import VisionCache
from open4ov.model import Qwen3VL, VisionFeatures
from open4ov.rl.dpo_prompts import Prompts
from open4ov.rl.dpo_screen import texts
from open4ov.rl.prefix import SharedPrefix, log_probs
from open4ov.sample import Sample

Scores = tuple[Tensor, Tensor]
"""Summed log-probabilities [B, 2] (nats; chosen, rejected) and tokens [B, 2], on the model's device"""


TOGETHER = 32
"""Pairs whose pictures are encoded at once"""


class Scorer:
    """A model with what pairs are encoded by. The pictures' features are kept: the tower is frozen. `precision`: what
    both are computed in (`training.precision`)."""

    def __init__(self, model: Qwen3VL, prompts: Prompts, precision: str = "fp32") -> None:
        self.model, self.prompts, self.precision = model, prompts, precision
        self.pictures = VisionCache(model, prompts.processor, watch=False)
        self._alone = True

    def look(self, pairs: Sequence[Sample]) -> None:
        """Encodes the pictures of all pairs, in their order. Where the cache cannot hold them all, those of each pair
        are encoded by themselves as they come: either way the same bits, whichever pairs were scored before."""
        new = list({tuple(pair.images): pair for pair in reversed(pairs) if pair.images}.values())[::-1]
        for first in range(0, len(new), TOGETHER):
            some = new[first : first + TOGETHER]
            self._features(some)
            held = self.pictures.statistics.bytes / (first + len(some))
            if held * len(new) > self.pictures.limit:
                self.pictures.clear()
                return
        self._alone = False

    def __call__(self, pairs: Sequence[Sample]) -> Scores:
        """With gradient, where one is asked for. Raises ValueError for a sample that is no pair."""
        responses = [[self.prompts.response(text) for text in texts(pair)] for pair in pairs]
        groups = [[pair] for pair in pairs] if self._alone else [list(pairs)]
        features = [own for group in groups for own in self._features(group)]
        shared = SharedPrefix.build([*zip(map(self.prompts, pairs), features, strict=True)], responses)
        shared = shared.to(self.model.device)
        with training.precision(self.precision, self.model.device):
            logp, _ = log_probs(self.model, shared)
        response = shared.response
        sums = logp.new_zeros(2 * len(pairs)).index_add(0, response, logp)
        lengths = response.new_zeros(2 * len(pairs)).index_add(0, response, torch.ones_like(response))
        return sums.view(-1, 2), lengths.view(-1, 2)

    def _features(self, pairs: Sequence[Sample]) -> list[VisionFeatures | None]:
        """Of each pair's pictures; those that are not kept are encoded together. No file is opened for kept ones."""
        with training.precision(self.precision, self.model.device):  # which also names what is kept
            return self._found(pairs)

    def _found(self, pairs: Sequence[Sample]) -> list[VisionFeatures | None]:
        grids = [[(f, r, c) for f, r, c in self.prompts(pair).grids.tolist()] for pair in pairs]
        names = [self.prompts.names(pair) for pair in pairs]
        flat = [*zip(chain(*grids), chain(*names), strict=True)]
        if any(self.pictures.find(name, grid) is None for grid, name in flat):
            seen = [visual for pair in pairs for visual in self.prompts.seen(pair)]
            found = self.pictures.of([grid for grid, _ in flat], seen, [name for _, name in flat])
        else:
            found = [one for grid, name in flat if (one := self.pictures.find(name, grid)) is not None]
        each = iter(found)
        own = [[*islice(each, len(one))] for one in grids]
        return [VisionFeatures.cat(parts) if parts else None for parts in own]

    @torch.no_grad()
    def all(self, pairs: Sequence[Sample], tokens: Sequence[int], batch: int, budget: int | None) -> Scores:
        """Of many pairs, `batch` at a time, without gradient; on the CPU."""
        scores = [
            tuple(part.cpu() for part in self([pairs[i] for i in part]))
            for first in range(0, len(pairs), batch)
            for part in parts(range(first, min(first + batch, len(pairs))), tokens, budget)
        ]
        if not scores:
            return torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.long)
        return torch.cat([one[0] for one in scores]), torch.cat([one[1] for one in scores])


def parts(batch: Sequence[int], tokens: Sequence[int], budget: int | None) -> Iterator[list[int]]:
    """A batch of pairs (their numbers) cut into parts of at most `budget` tokens, in order; a longer pair stands alone.
    Without a budget the whole batch is one."""
    part, room = list[int](), budget
    for number in batch:
        if part and room is not None and tokens[number] > room:
            yield part
            part, room = [], budget
        part.append(number)
        room = None if room is None else room - tokens[number]
    if part:
        yield part
